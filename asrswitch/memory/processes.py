"""Memory of several processes together: a worker, those that its backend names, and all below them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from asrswitch.memory.probe import Memory, MemoryProbe, ProcessGoneError
from asrswitch.memory.sampler import sample
from asrswitch.native.processes import began_at, descendants, members

_PROC = Path("/proc")


class ProcessesProbe:
    """Reads a process and all below it and below others, as one.

    Sums of resident memory count a page that two processes share twice; PSS counts it once. The peak is the
    sum of the processes' own peaks, which need not have been at one time. Page faults and what was read from
    disks are those of processes that are still there. Of one that began since the reading before, all of
    these count from its beginning; of one that was there, and is seen for the first time, from now on.
    What a child read from disks is its parent's once that has waited for it (the kernel adds it up).
    """

    def __init__(self, pid: int, proc: Path = _PROC) -> None:
        self._pid = pid
        self._proc = proc
        self._first = MemoryProbe(pid, proc)
        self._read_at = _ticks()  # the latest reading
        self._others: dict[tuple[int, int], MemoryProbe] = {}  # by number and start
        self.roots: tuple[int, ...] = ()  # besides the process itself, and below none of these
        self.groups: tuple[str, ...] = ()  # directories of control groups, all of whose processes are meant
        self.last_others = 0  # how many the last reading had besides the process itself

    def pids(self) -> list[int]:
        """The process, and at this moment all others."""
        roots = [self._pid, *self.roots, *(pid for group in self.groups for pid in members(group))]
        return list(dict.fromkeys([*roots, *descendants(roots, self._proc)]))

    def others(self) -> list[int]:
        """Likewise, without the process itself."""
        return self.pids()[1:]

    def read(self) -> Memory:
        """Take a reading and begin a new peak.

        Raises:
            ProcessGoneError: the first process is gone. Another that ends meanwhile is left out.
        """
        before, self._read_at = self._read_at, _ticks()
        memory = self._first.read()
        found: dict[tuple[int, int], MemoryProbe] = {}
        readings = [memory]
        for pid in self.others():
            began = began_at(pid, self._proc)
            if began is None:
                continue
            key = pid, began
            found[key] = self._others.get(key) or MemoryProbe(pid, self._proc, from_start=began > before)
            try:
                readings.append(found[key].read())
            except ProcessGoneError:
                del found[key]
        self._others = found
        self.last_others = len(readings) - 1
        return _together(readings) if len(readings) > 1 else memory

    def by_process(self) -> dict[tuple[int, int], int]:
        """RSS of each of the others, by number and start."""
        held = {}
        for pid in self.others():
            began = began_at(pid, self._proc)
            if began is not None:
                held[pid, began] = sum(sample(pid, self._proc))
        return held

    def resident_bytes(self) -> int:
        """RSS of all, at little cost, and without a new peak.

        Raises:
            ProcessGoneError: the first process is gone.
        """
        total = self._first.resident_bytes()
        return total + sum(sum(sample(pid, self._proc)) for pid in self.others())


def _ticks() -> int:
    """Since the machine's start, in the unit of what ``began_at`` tells."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def _together(readings: Sequence[Memory]) -> Memory:
    """The first reading, with the others' sizes added."""
    first = readings[0]
    sums = {
        name: _sum(getattr(reading, name) for reading in readings)
        for name in Memory.__struct_fields__
        if name not in ("peak_since", "source", "available_bytes", "cgroup")
    }
    since = "start" if any(reading.peak_since == "start" for reading in readings) else "reading"
    source = "status" if any(reading.source == "status" for reading in readings) else "smaps_rollup"
    return msgspec.structs.replace(first, **sums, peak_since=since, source=source)


def _sum(values: Iterable[int | None]) -> int | None:
    known = [*values]
    return None if None in known else sum(value for value in known if value is not None)
