"""Progress of runs on a terminal, or as plain lines where there is none."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from asrswitch.plan import Plan
from asrswitch.records import (
    Eviction,
    Failure,
    Load,
    Reading,
    Record,
    Release,
    Renewal,
    Run,
    Transcription,
    WorkerStarted,
)
from asrswitch.resume import RETRIED
from asrswitch.schedule import Release as ReleaseKind
from asrswitch.stats.series import MINIMUM_ITERATIONS
from asrswitch.summary import verdicts_of, worst_word

if TYPE_CHECKING:
    from typing_extensions import Self

_MIB = 1024 * 1024
_JUDGED = Run | WorkerStarted | Renewal | Reading | Load | Eviction | Release  # what a verdict is made from
_RELEASES = {ReleaseKind.DESTROY: "unload", ReleaseKind.RESTART: "restart", ReleaseKind.EXIT: "exit"}
# A look at the verdict takes longer the more readings there are: each waits for so many times as many.
_NEXT_LOOK = 1.3


class RunProgress:
    """Shows runs as their records come: one line that changes on a terminal, one line a cycle elsewhere."""

    def __init__(self, console: Console, plans: Sequence[Plan], done: int = 0, quiet: bool = False) -> None:
        """``done`` cycles of all runs were over before; a ``quiet`` one shows nothing."""
        self._console = console
        self._quiet = quiet
        self._of = "?" if plans[0].until_decided else str(sum(p.iterations * len(p.models) for p in plans))
        self._earlier = done
        self._over: set[tuple[str, int]] = set()  # cycles, by their run's variant
        self._retried: set[tuple[str, int]] = set()  # those of them whose second attempt follows
        self._facts: list[str] = []
        self._progress = Progress(
            TextColumn("{task.fields[where]}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[memory]}", markup=False),
            TextColumn("{task.fields[verdict]}", markup=False),
            TextColumn("{task.fields[facts]}", markup=False),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        total = int(self._of) if self._of.isdecimal() else None
        texts: dict[str, Any] = {"where": "starting", "memory": "", "verdict": "", "facts": ""}
        self._task = self._progress.add_task("", total=total, completed=done, **texts)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def observer(self, plan: Plan, earlier: Sequence[Record] = ()) -> Callable[[Record], None]:
        """What is to be shown the records of a run; ``earlier`` are those that its log held before."""
        if self._quiet:
            return lambda record: None
        variant = plan.variant or ""
        name = f"{variant}, " if variant else ""
        of = "" if plan.until_decided else f"/{plan.iterations}"
        baseline: list[int] = []  # of the run's first reading
        limit = f" of {plan.memory_limit_bytes / _MIB:,.0f}" if plan.memory_limit_bytes else ""
        verdict = _VerdictSoFar(plan, earlier)

        def observe(record: Record) -> None:
            if isinstance(record, Reading):
                now = record.memory.rss_bytes
                baseline[:] = baseline or [now]
                memory = f"{now / _MIB:,.1f}{limit} MiB ({(now - baseline[0]) / _MIB:+,.1f})"
                self._progress.update(self._task, memory=memory)
            word = verdict.after(record)
            if word:
                self._progress.update(self._task, verdict=f"{name}{word}")
            if isinstance(record, Load | Transcription | Release | Failure | Reading):
                where = f"{name}iteration {record.iteration}{of} {record.model}"
                self._observe(record, variant, where, [fact for fact in (_fact(record), word) if fact])

        return observe

    def _observe(
        self,
        record: Load | Transcription | Release | Failure | Reading,
        variant: str,
        where: str,
        facts: Sequence[str],
    ) -> None:
        cycle = (variant, record.cycle)
        if cycle in self._retried:
            where += ", second attempt"
        self._facts += facts
        self._progress.update(self._task, where=where, facts=", ".join(self._facts))
        if _ends_turn(record) or (
            isinstance(record, Failure) and not (record.phase == "transcribe" and record.kind == "error")
        ):
            self._over.add(cycle)
            if isinstance(record, Failure) and record.phase in RETRIED and record.kind != "refused":
                self._retried.add(cycle)
            completed = self._earlier + len(self._over)
            self._progress.update(self._task, completed=completed)
            if not self._console.is_terminal:
                line = f"[{completed}/{self._of}] {where}: {', '.join(self._facts)}"
                self._console.print(Text(line), soft_wrap=True)
            self._facts = []


class _VerdictSoFar:
    """Looks at the verdict when enough readings have come since the last look."""

    def __init__(self, plan: Plan, earlier: Sequence[Record]) -> None:
        self._n_models = len(plan.models)
        self._records = [record for record in earlier if isinstance(record, _JUDGED)]
        self._turns = sum(_ends_turn(record) for record in self._records)
        self._next_look = MINIMUM_ITERATIONS * self._n_models
        # A verdict needs it. It is slow to import, and a run is not to wait for it in its middle.
        importlib.import_module("scipy.special")

    def after(self, record: Record) -> str | None:
        """The verdict in words, where this record is a reason to look again."""
        if not isinstance(record, _JUDGED):
            return None
        self._records.append(record)
        self._turns += _ends_turn(record)
        if self._turns < self._next_look or not _ends_turn(record):
            return None
        self._next_look = math.ceil(self._turns * _NEXT_LOOK)
        return f"memory so far {worst_word(verdicts_of(self._records)).value}"


def _ends_turn(record: Record) -> bool:
    return isinstance(record, Reading) and record.point == "after_unload"


def _fact(record: Record) -> str | None:
    if isinstance(record, Load):
        return f"load {record.load_ms:.1f} ms"
    if isinstance(record, Transcription):
        if record.gives == "embedding":
            return f"embedding {record.figures.inference_ms:.1f} ms"
        ttft = record.figures.ttft_ms
        return "no text" if ttft is None else f"TTFT {ttft:.1f} ms"
    if isinstance(record, Release):
        return f"{_RELEASES[record.how]} {record.release_ms:.1f} ms"
    if isinstance(record, Failure):
        return f"{record.phase} failed: {record.message}"
    if isinstance(record, Reading) and record.point == "after_unload":
        return f"RSS {record.memory.rss_bytes / _MIB:.1f} MiB"
    return None
