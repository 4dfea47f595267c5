"""Print what the runs measured of one model, as a Markdown table: table.py NAME=RUN_DIR...

Figures are medians over the turns (lowest to highest). An embedding comes at once: what counts is its end.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from asrswitch.memory.probe import Memory
from asrswitch.records import Record, WorkerStarted, read_log
from asrswitch.turns import Turn, turns_of

_MIB = 1 << 20


class Run(msgspec.Struct, frozen=True):
    """One run's turns; `first` are those in a worker that had loaded nothing."""

    first: list[Turn]
    later: list[Turn]
    starts: list[float]  # of workers, ms


def _gather(records: Sequence[Record]) -> Run:
    first: dict[int, Turn] = {}
    later: list[Turn] = []
    for turn in turns_of(records):
        if turn.worker in first:
            later.append(turn)
        first.setdefault(turn.worker, turn)
    starts = [record.start_ms for record in records if isinstance(record, WorkerStarted)]
    return Run([*first.values()], later, [start for start in starts if start is not None])


def _first_ms(turn: Turn) -> float | None:
    return turn.transcriptions[0].figures.inference_ms if turn.transcriptions else None


def _read_bytes(turn: Turn) -> float | None:
    """From disks, until all was inferred."""
    points = (turn.readings.get("after_load"), turn.readings.get("after_infer"))
    read = [memory.read_bytes for memory in points if memory and memory.read_bytes is not None]
    return sum(read) if read else None


def _above(turn: Turn, point: str, part: Callable[[Memory], int]) -> float | None:
    """What a reading has above the one before the load."""
    if "before_load" not in turn.readings or point not in turn.readings:
        return None
    return part(turn.readings[point]) - part(turn.readings["before_load"])  # type: ignore[index]


def _back(turn: Turn) -> float | None:
    """Which part of what the turn took went with its release, in percent."""
    taken = _above(turn, "after_infer", lambda memory: memory.rss_bytes)
    left = _above(turn, "after_unload", lambda memory: memory.rss_bytes)
    return None if not taken or left is None else (1 - left / taken) * 100


def _later_ms(run: Run) -> list[float | None]:
    """Of each text after a turn's first."""
    turns = [*run.first, *run.later]
    return [record.figures.inference_ms for turn in turns for record in turn.transcriptions[1:]]


_Figures = Callable[[Run], Sequence[float | None]]


def _of(where: str, figure: Callable[[Turn], float | None]) -> _Figures:
    return lambda run: [figure(turn) for turn in getattr(run, where)]


_MS, _SIZE, _PERCENT = (",.1f", 1), (",.1f", _MIB), (",.1f", 1)
_ROWS: list[tuple[str, tuple[str, int], _Figures]] = [("start of a worker, ms", _MS, lambda run: run.starts)]
for _where, _said in (("first", "first in a process"), ("later", "later")):
    _ROWS += [
        (f"load, {_said}, ms", _MS, _of(_where, lambda t: t.load_ms)),
        (f"first inference after a load, {_said}, ms", _MS, _of(_where, _first_ms)),
        (f"unload, or exit of the process, {_said}, ms", _MS, _of(_where, lambda t: t.release_ms)),
    ]
_ROWS += [("later inferences, each, ms", _MS, _later_ms)]
for _where, _said in (("first", "first in a process"), ("later", "later")):
    _ROWS += [
        (f"read from disk in a turn, {_said}, MiB", _SIZE, _of(_where, _read_bytes)),
        (
            f"resident before the load, {_said}, MiB",
            _SIZE,
            _of(
                _where, lambda t: t.readings["before_load"].rss_bytes if "before_load" in t.readings else None
            ),
        ),
        (
            f"taken, file-backed, {_said}, MiB",
            _SIZE,
            _of(_where, lambda t: _above(t, "after_infer", lambda memory: memory.file_bytes)),
        ),
        (
            f"taken, anonymous, {_said}, MiB",
            _SIZE,
            _of(_where, lambda t: _above(t, "after_infer", lambda memory: memory.anonymous_bytes)),
        ),
        (
            f"left of it, file-backed, {_said}, MiB",
            _SIZE,
            _of(_where, lambda t: _above(t, "after_unload", lambda memory: memory.file_bytes)),
        ),
        (
            f"left of it, anonymous, {_said}, MiB",
            _SIZE,
            _of(_where, lambda t: _above(t, "after_unload", lambda memory: memory.anonymous_bytes)),
        ),
        (f"given back, {_said}, %", _PERCENT, _of(_where, _back)),
    ]


def _cell(values: Sequence[float | None], form: str, unit: int) -> str:
    known = [value / unit for value in values if value is not None]
    if not known:
        return "–"
    low, middle, high = (f"{v:{form}}" for v in (min(known), statistics.median(known), max(known)))
    return middle if low == high else f"{middle} ({low} to {high})"


def main() -> None:
    """Print the table."""
    words = [word.partition("=") for word in sys.argv[1:]]
    runs = {name: _gather(read_log(Path(directory) / "run.jsonl")) for name, _, directory in words}
    print(f"| | {' | '.join(runs)} |\n| --- |{' ---: |' * len(runs)}")
    for name, (form, unit), figures in _ROWS:
        print(f"| {name} | {' | '.join(_cell(figures(run), form, unit) for run in runs.values())} |")


if __name__ == "__main__":
    main()
