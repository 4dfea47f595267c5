"""Which models stay loaded: as many as a budget holds, and the one used longest ago leaves first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping


class Packing:
    """Footprints and uses of models, by their labels.

    A footprint is what a model took at its most, above what there was before its load, when it was loaded
    last; until it was, what it was predicted to need. That all of them are at their most at one time is the
    worst that may happen, and what the budget is held against.
    """

    def __init__(self, predicted_bytes: Mapping[str, int]) -> None:
        self._footprints = dict(predicted_bytes)
        self._uses: dict[str, None] = {}  # the last is the latest

    def used(self, label: str) -> None:
        """A model has its turn."""
        self._uses.pop(label, None)
        self._uses[label] = None

    def measured(self, label: str, footprint_bytes: int) -> None:
        """What a model that was loaded for its turn took at its most."""
        self._footprints[label] = footprint_bytes

    def oldest(self, loaded: Collection[str]) -> str:
        """Of these, the one used longest ago."""
        return next(name for name in self._uses if name in loaded)

    def leaving(self, label: str, loaded: Collection[str], budget_bytes: int) -> list[str]:
        """Those that must leave before another is loaded, in that order.

        Args:
            label: of the other.
            loaded: what is there; the other is not among it.
            budget_bytes: for all models together.
        """
        stay = [name for name in self._uses if name in loaded]  # each had its turn after its load
        leave: list[str] = []
        while stay and self._sum([*stay, label]) > budget_bytes:
            leave.append(stay.pop(0))
        return leave

    def _sum(self, labels: Iterable[str]) -> int:
        return sum(self._footprints.get(label, 0) for label in labels)
