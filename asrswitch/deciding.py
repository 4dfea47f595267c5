"""When a run that goes on until its verdict is decided has come to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from asrswitch.plan import Plan
from asrswitch.records import Record
from asrswitch.stats.sequential import further_iterations
from asrswitch.stats.verdict import Verdict
from asrswitch.summary import summarise


class Deciding:
    """Looks at the verdict now and then, as rarely as ``stats.sequential`` says."""

    def __init__(
        self, plan: Plan, records: Sequence[Record], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``records`` are those of the run so far, and grow with it."""
        self._plan = plan
        self._records = records
        self._clock = clock
        self._ends_at = None if plan.most_s is None else clock() + plan.most_s
        self._looks: dict[str, list[Verdict]] = {}
        self._next_look: dict[str, int] = {}

    def wants_more(self, labels: Sequence[str], done: int) -> bool:
        """Whether the models of these labels are to have another iteration, after so many."""
        if self._ends_at is not None and self._clock() >= self._ends_at:
            return False
        subject, most = " + ".join(labels), self._plan.iterations
        looks = self._looks.setdefault(subject, [])
        if subject not in self._next_look:
            self._next_look[subject] = done + further_iterations(looks, most, done)
        if done >= self._next_look[subject]:
            verdicts = summarise(self._records).verdicts
            looks += [item.verdict for item in verdicts if item.subject == subject]
            self._next_look[subject] = done + further_iterations(looks, most, done)
        return self._next_look[subject] > done
