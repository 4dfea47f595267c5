"""Print what a process of its own costs a model and brings, as a Markdown table: table.py RUN_DIR...

The directories are of runs with `--strategy all`. Figures are medians over the turns (lowest to highest).
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from asrswitch.memory.probe import Memory
from asrswitch.plan import Strategy
from asrswitch.records import WorkerStarted, read_log
from asrswitch.resume import find_logs, plan_of
from asrswitch.turns import Turn, turns_of

_MIB = 1 << 20


class Turns(msgspec.Struct, frozen=True):
    """One model's turns, by where they were had."""

    first: list[Turn]  # `reload`: the model's first in a process
    later: list[Turn]  # `reload`: of a process that had loaded and unloaded models
    last: list[Turn]  # `reload`: the model's last in a process
    own: list[Turn]  # `isolate`: a process each
    stays: list[Turn]  # `resident`: the model was loaded at an earlier turn
    starts: list[float | None]  # `isolate`: what the start of the turn's process took, ms


def _gather(directory: Path, label: str) -> Turns:
    all_turns: dict[Strategy, list[Turn]] = {}
    starts: dict[int, float | None] = {}
    for path in find_logs(directory):
        records = read_log(path)
        strategy = plan_of(records).strategy
        all_turns[strategy] = turns_of(records)
        if strategy is Strategy.ISOLATE:
            starts = {r.worker: r.start_ms for r in records if isinstance(r, WorkerStarted)}
    by_worker = itertools.groupby(all_turns[Strategy.RELOAD], key=lambda turn: turn.worker)
    workers = [list(turns) for _, turns in by_worker]
    own = _of(all_turns[Strategy.ISOLATE], label)
    return Turns(
        first=[_of(turns, label)[0] for turns in workers],
        later=[turn for turns in workers for turn in _of(turns[1:], label)],
        last=[_of(turns, label)[-1] for turns in workers],
        own=own,
        stays=[turn for turn in _of(all_turns[Strategy.RESIDENT], label) if turn.load is None],
        starts=[starts.get(turn.worker) for turn in own],
    )


def _of(turns: Sequence[Turn], label: str) -> list[Turn]:
    return [turn for turn in turns if turn.model == label]


def _ttft_ms(turn: Turn) -> float | None:
    return turn.transcriptions[0].figures.ttft_ms if turn.transcriptions else None


def _turn_ms(turn: Turn) -> float | None:
    ttft_ms = _ttft_ms(turn)
    return None if ttft_ms is None or turn.overhead_ms is None else ttft_ms + turn.overhead_ms


def _added(turn: Turn, part: Callable[[Memory], int]) -> float | None:
    """What the load and the transcription added, after both."""
    if "before_load" not in turn.readings or "after_infer" not in turn.readings:
        return None
    return part(turn.readings["after_infer"]) - part(turn.readings["before_load"])


def _back(turn: Turn, part: Callable[[Memory], int]) -> float | None:
    """Which part of that the release gave back, in percent; what an exit leaves is the next process."""
    added = _added(turn, part)
    if not added or "after_unload" not in turn.readings:
        return None
    return (part(turn.readings["after_infer"]) - part(turn.readings["after_unload"])) / added * 100


def _before(turn: Turn, part: Callable[[Memory], int | None]) -> float | None:
    return part(turn.readings["before_load"]) if "before_load" in turn.readings else None


def _with_start(turns: Turns) -> list[float | None]:
    pairs = zip(map(_turn_ms, turns.own), turns.starts, strict=True)
    return [None if turn is None or start is None else turn + start for turn, start in pairs]


def _rss(memory: Memory) -> int:
    return memory.rss_bytes


def _anonymous(memory: Memory) -> int:
    return memory.anonymous_bytes


_Figure = Callable[[Turn], float | None]
_Figures = Callable[[Turns], list[float | None]]


def _first(figure: _Figure) -> _Figures:
    return lambda turns: list(map(figure, turns.first))


def _later(figure: _Figure) -> _Figures:
    return lambda turns: list(map(figure, turns.later))


def _last(figure: _Figure) -> _Figures:
    return lambda turns: list(map(figure, turns.last))


def _own(figure: _Figure) -> _Figures:
    return lambda turns: list(map(figure, turns.own))


_MS, _SIZE, _PERCENT = (",.1f", 1), (",.2f", _MIB), (",.2f", 1)
_ROWS: list[tuple[str, tuple[str, int], _Figures]] = [
    ("load, in a process that had models before, ms", _MS, _later(lambda t: t.load_ms)),
    ("load, in a new process, ms", _MS, _own(lambda t: t.load_ms)),
    ("TTFT, first after a load, in a process that had models before, ms", _MS, _later(_ttft_ms)),
    ("TTFT, first after a load, in a new process, ms", _MS, _own(_ttft_ms)),
    ("TTFT, later: the model stays loaded, ms", _MS, lambda turns: list(map(_ttft_ms, turns.stays))),
    ("unload, ms", _MS, _later(lambda t: t.release_ms)),
    ("exit of the process, ms", _MS, _own(lambda t: t.release_ms)),
    ("start of a process, before its turn, ms", _MS, lambda turns: turns.starts),
    ("a turn that unloads, ms", _MS, _later(_turn_ms)),
    ("a turn that exits, ms", _MS, _own(_turn_ms)),
    ("a turn that exits, and the start, ms", _MS, _with_start),
    ("process before its load, RSS, MiB", _SIZE, _own(lambda t: _before(t, _rss))),
    ("of it its own (USS), MiB", _SIZE, _own(lambda t: _before(t, lambda memory: memory.uss_bytes))),
    ("added, anonymous, MiB", _SIZE, _later(lambda t: _added(t, _anonymous))),
    ("added, file-backed, MiB", _SIZE, _later(lambda t: _added(t, lambda memory: memory.file_bytes))),
    ("peak of a process that unloads, MiB", _SIZE, _later(lambda t: t.peak_rss_bytes)),
    ("peak of an isolated process, MiB", _SIZE, _own(lambda t: t.peak_rss_bytes)),
    ("given back by the model's first unload in a process, %", _PERCENT, _first(lambda t: _back(t, _rss))),
    ("given back by unloads, once the process had models, %", _PERCENT, _later(lambda t: _back(t, _rss))),
    ("the same of anonymous memory, %", _PERCENT, _later(lambda t: _back(t, _anonymous))),
    ("given back by exits, %", _PERCENT, _own(lambda t: _back(t, _rss))),
    ("retained after the process's last unload, MiB", _SIZE, _last(lambda t: t.retained_bytes)),
    ("of it anonymous, MiB", _SIZE, _last(lambda t: t.retained_anonymous_bytes)),
]


def _cell(values: list[float | None], form: str, unit: int) -> str:
    known = [value / unit for value in values if value is not None]
    if not known:
        return "–"
    low, middle, high = (f"{v:{form}}" for v in (min(known), statistics.median(known), max(known)))
    return middle if low == high else f"{middle} ({low} to {high})"


def main() -> None:
    """Print the table."""
    gathered: dict[str, Turns] = {}
    for directory in map(Path, sys.argv[1:]):
        plan = plan_of(read_log(find_logs(directory)[0]))
        gathered |= {model.label: _gather(directory, model.label) for model in plan.models}
    print(f"| | {' | '.join(gathered)} |\n| --- |{' ---: |' * len(gathered)}")
    for name, (form, unit), figures in _ROWS:
        print(f"| {name} | {' | '.join(_cell(figures(t), form, unit) for t in gathered.values())} |")


if __name__ == "__main__":
    main()
