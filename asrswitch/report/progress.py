"""A run's progress on a terminal, or as plain lines where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from asrswitch.records import Failure, Load, Reading, Record, Release, Transcription
from asrswitch.schedule import Cycle

if TYPE_CHECKING:
    from typing_extensions import Self

_MIB = 1024 * 1024


class RunProgress:
    """Shows a run as its records come: one line that changes on a terminal, one line a cycle elsewhere."""

    def __init__(self, console: Console, cycles: Sequence[Cycle]) -> None:
        self._console = console
        self._cycles = len(cycles)
        self._iterations = cycles[-1].iteration
        self._facts: list[str] = []
        self._progress = Progress(
            TextColumn("{task.fields[where]}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=self._cycles, where="starting", facts="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def observe(self, record: Record) -> None:
        """Take in a record."""
        fact = _fact(record)
        if fact:
            self._facts.append(fact)
        if not isinstance(record, Load | Transcription | Release | Failure | Reading):
            return
        where = f"iteration {record.iteration}/{self._iterations} {record.model}"
        self._progress.update(self._task, where=where, facts=", ".join(self._facts))
        ended = isinstance(record, Reading) and record.point == "after_unload"
        if ended or (
            isinstance(record, Failure) and not (record.phase == "transcribe" and record.kind == "error")
        ):
            self._progress.update(self._task, completed=record.cycle + 1)
            if not self._console.is_terminal:
                line = f"[{record.cycle + 1}/{self._cycles}] {where}: {', '.join(self._facts)}"
                self._console.print(Text(line), soft_wrap=True)
            self._facts = []


def _fact(record: Record) -> str | None:
    if isinstance(record, Load):
        return f"load {record.load_ms:.1f} ms"
    if isinstance(record, Transcription):
        ttft = record.figures.ttft_ms
        return "no text" if ttft is None else f"TTFT {ttft:.1f} ms"
    if isinstance(record, Release):
        return f"{'unload' if record.how.value == 'destroy' else 'restart'} {record.release_ms:.1f} ms"
    if isinstance(record, Failure):
        return f"{record.phase} failed: {record.message}"
    if isinstance(record, Reading) and record.point == "after_unload":
        return f"RSS {record.memory.rss_bytes / _MIB:.1f} MiB"
    return None
