"""massif's snapshots: the heap over time, and what is left of it after each cycle."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec

from asrswitch.leak_check.memcheck import ReportError
from asrswitch.stats.series import Word

# Below this, growth from cycle to cycle is not told from what Python itself holds when a snapshot comes.
TOLERANCE_BYTES = 256
WARMUP_CYCLES = 2  # the interpreter's and the library's one-time allocations are made in these
_FEWEST_RISES = 2
_UNIT = re.compile(rb"^time_unit: (\w+)$", re.MULTILINE)
_SNAPSHOT = re.compile(
    rb"^snapshot=\d+\n#-+\ntime=(\d{1,18})\nmem_heap_B=(\d{1,18})\nmem_heap_extra_B=\d+\nmem_stacks_B=\d+\n"
    rb"heap_tree=(?:empty|detailed|peak)$",
    re.MULTILINE,
)


class Snapshot(msgspec.Struct, frozen=True):
    """Bytes that malloc's callers held, so long after the start."""

    at_ms: int
    heap_bytes: int


class Turn(msgspec.Struct, frozen=True):
    """When a cycle began, when it ended, and when what followed it began, in ms after the start."""

    model: str
    started_ms: float
    ended_ms: float
    next_ms: float


class CycleHeap(msgspec.Struct, frozen=True):
    """The heap in one cycle; None where no snapshot fell into it."""

    model: str
    peak_bytes: int | None  # the highest snapshot
    after_bytes: int | None  # when the model was unloaded


class HeapCurve(msgspec.Struct, frozen=True):
    """The heap of a whole run."""

    snapshots: tuple[Snapshot, ...]
    cycles: tuple[CycleHeap, ...]
    growth_bytes_per_cycle: float | None  # median rise from one cycle of a model to its next, after warm-up
    word: Word


def read_massif(path: Path) -> tuple[Snapshot, ...]:
    """Read a profile file.

    Raises:
        ReportError: it cannot be read or holds no snapshots over milliseconds.
    """
    try:
        return parse_massif(path.read_bytes())
    except OSError as error:
        raise ReportError(f"{path}: massif's profile cannot be read ({error.strerror}); run again") from None
    except ValueError as error:
        raise ReportError(f"{path}: massif's profile makes no sense ({error}); run again") from None


def parse_massif(text: bytes) -> tuple[Snapshot, ...]:
    """All snapshots, in the order of their times.

    Raises:
        ValueError: not a profile over milliseconds, cut short, or without a snapshot.
    """
    unit = _UNIT.search(text)
    if unit is None or unit[1] != b"ms":
        raise ValueError("no times in milliseconds")
    found = [Snapshot(int(match[1]), int(match[2])) for match in _SNAPSHOT.finditer(text)]
    if not found or len(found) != len(re.findall(rb"^snapshot=", text, re.MULTILINE)):
        raise ValueError("no snapshots" if not found else "it ends within a snapshot")
    if any(later.at_ms < earlier.at_ms for earlier, later in itertools.pairwise(found)):
        raise ValueError("snapshots out of order")
    return tuple(found)


def make_curve(snapshots: Sequence[Snapshot], turns: Sequence[Turn], n_models: int) -> HeapCurve:
    """Put snapshots and cycles together.

    massif snapshots when something is allocated and some time has passed since the last. The worker rests
    after each cycle, so the first allocation after the rest is a snapshot of what the cycle left behind.
    """
    cycles = tuple(_cycle(snapshots, turn) for turn in turns)
    after = [cycle.after_bytes for cycle in cycles[WARMUP_CYCLES * n_models :]]
    rises = [
        last - first
        for first, last in zip(after, after[n_models:], strict=False)
        if first is not None and last is not None
    ]
    growth = statistics.median(rises) if rises else None
    if growth is None or len(rises) < _FEWEST_RISES:
        word = Word.INCONCLUSIVE
    elif growth > TOLERANCE_BYTES:
        word = Word.LEAK if min(rises) > TOLERANCE_BYTES else Word.INCONCLUSIVE
    else:
        word = Word.FLAT
    return HeapCurve(tuple(snapshots), cycles, growth, word)


def _cycle(snapshots: Sequence[Snapshot], turn: Turn) -> CycleHeap:
    rest_ms = turn.next_ms - turn.ended_ms
    within = [item.heap_bytes for item in snapshots if turn.started_ms <= item.at_ms <= turn.ended_ms]
    # massif's clock starts a little after ours.
    start, end = turn.ended_ms + rest_ms / 3, turn.next_ms + rest_ms / 2
    after = next((item.heap_bytes for item in snapshots if start <= item.at_ms <= end), None)
    return CycleHeap(turn.model, max(within, default=None), after)
