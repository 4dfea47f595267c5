"""Cold against warm: what it costs that a model's file must be read from a disk first."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

from asrswitch.plan import CacheState, Plan
from asrswitch.records import Cache, Record
from asrswitch.resume import plan_of
from asrswitch.turns import Turn, turns_of

_MIB = 1024 * 1024


class StateFigures(msgspec.Struct, frozen=True):
    """Medians of a model's turns that loaded from a file proven to be cold, or warm."""

    turns: int
    load_ms: float | None  # None where each transcription is a process, and TTFT has the load in it
    ttft_ms: float | None  # of the first input after the load; of an embedding, the time that it took
    answer_ms: float | None  # both
    read_bytes: float | None  # from disks


class CacheComparison(msgspec.Struct, frozen=True):
    """One model's cold loads against its warm ones, in runs that differ in nothing else."""

    cold_run: str
    warm_run: str
    model: str
    cold: StateFigures
    warm: StateFigures

    @property
    def line(self) -> str:
        figures = [
            ("load", self.cold.load_ms, self.warm.load_ms),
            ("TTFT", self.cold.ttft_ms, self.warm.ttft_ms),
            ("both", self.cold.answer_ms, self.warm.answer_ms),
        ]
        if self.cold.load_ms is None:
            figures = figures[1:2]
        said = [
            f"{name} {cold:,.1f} against {warm:,.1f} ms ({cold / warm:.2f} times)"
            for name, cold, warm in figures
            if cold is not None and warm
        ]
        if self.cold.read_bytes is not None and self.warm.read_bytes is not None:
            read, reread = self.cold.read_bytes / _MIB, self.warm.read_bytes / _MIB
            said.append(f"{read:,.1f} against {reread:,.1f} MiB read from disk")
        names = f"{self.cold_run} against {self.warm_run}"
        return f"{self.model}, {names}: {', '.join(said)}; {self.cold.turns:,} and {self.warm.turns:,} turns"


def compare_caches(runs: Sequence[tuple[str, Sequence[Record]]]) -> list[CacheComparison]:
    """Compare the runs, by name, that are cold with those that are warm and alike in all else.

    A model without a proven turn on either side is left out.
    """
    by_rest: dict[bytes, dict[CacheState, tuple[str, Sequence[Record]]]] = {}
    for name, records in runs:
        plan = plan_of(records)
        by_rest.setdefault(_rest(plan), {})[plan.cache] = name, records
    found = []
    for pair in by_rest.values():
        if CacheState.COLD not in pair or CacheState.WARM not in pair:
            continue
        (cold_run, cold), (warm_run, warm) = pair[CacheState.COLD], pair[CacheState.WARM]
        for model in plan_of(cold).models:
            when_cold, when_warm = _figures(model.label, cold), _figures(model.label, warm)
            if when_cold and when_warm:
                found.append(CacheComparison(cold_run, warm_run, model.label, when_cold, when_warm))
    return found


def _rest(plan: Plan) -> bytes:
    """The plan without what runs of one command, cold and warm, differ in."""
    alike = msgspec.structs.replace(plan, cache=CacheState.AS_IS, variant=None, turn=0, out="")
    return msgspec.json.encode(alike)


def _figures(label: str, records: Sequence[Record]) -> StateFigures | None:
    proven = {(r.cycle, r.worker) for r in records if isinstance(r, Cache) and r.proven}
    turns = [
        turn
        for turn in turns_of(records)
        if turn.model == label and (turn.load or turn.is_process) and (turn.cycle, turn.worker) in proven
    ]
    if not turns:
        return None
    return StateFigures(
        turns=len(turns),
        load_ms=_median([turn.load_ms for turn in turns]),
        ttft_ms=_median([_ttft(turn) for turn in turns]),
        answer_ms=_median([turn.answer_ms for turn in turns]),
        read_bytes=_median([turn.read_bytes for turn in turns]),
    )


def _ttft(turn: Turn) -> float | None:
    return turn.transcriptions[0].answered_ms if turn.transcriptions else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
