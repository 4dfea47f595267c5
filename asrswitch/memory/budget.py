"""Whether there is memory for what comes next, and what tells that it ran out."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import msgspec

from asrswitch.memory.probe import Memory

HIGH_PRESSURE = 0.8
HOST, GROUP, LIMIT = "the machine", "the control group", "the memory limit"
# What C, C++, Python, the loader of programs and our engine say when an allocation fails.
_SAID = re.compile(
    rb"out of memory|cannot allocate memory|bad_alloc|MemoryError|not enough memory|cannot map zero-fill",
    re.I,
)


class Source(msgspec.Struct, frozen=True):
    """Somewhere that memory comes from: how much there is, and how much is left."""

    name: str
    total_bytes: int
    left_bytes: int


class Weighed(msgspec.Struct, frozen=True):
    """A need against all sources."""

    need_bytes: int
    sources: list[Source]
    pressure: float  # the largest part of a source that is in use once the need is met; above 1 it is not
    tightest: Source | None  # the source of that; None where nothing is known to limit

    @property
    def fits(self) -> bool:
        """Whether every source has as much left."""
        return self.tightest is None or self.need_bytes <= self.tightest.left_bytes


def sources(memory: Memory, host_bytes: int, limit_bytes: int | None) -> list[Source]:
    """What limits a process, from a reading of it.

    Args:
        memory: the reading.
        host_bytes: all memory of the machine.
        limit_bytes: of the process alone; None where it has none.
    """
    found = []
    if memory.available_bytes is not None:
        found.append(Source(HOST, host_bytes, memory.available_bytes))
    group = memory.cgroup
    if group and group.limit_bytes is not None and group.left_bytes is not None:
        found.append(Source(GROUP, group.limit_bytes, group.left_bytes))
    if limit_bytes is not None:
        found.append(Source(LIMIT, limit_bytes, max(0, limit_bytes - memory.rss_bytes)))
    return found


def weigh(need_bytes: int, found: list[Source]) -> Weighed:
    """Hold a need against sources."""

    def pressure(source: Source) -> float:
        return (source.total_bytes - source.left_bytes + need_bytes) / source.total_bytes

    # A full source is told before one that is fuller in proportion and still suffices.
    tightest = max(found, key=lambda s: (need_bytes > s.left_bytes, pressure(s)), default=None)
    return Weighed(need_bytes, found, pressure(tightest) if tightest else 0.0, tightest)


def says_out_of_memory(text: bytes) -> bool:
    """Whether what a library or its process wrote tells that an allocation failed."""
    return _SAID.search(text) is not None


def count_kills(proc: Path = Path("/proc")) -> int:
    """Processes that the kernel has killed for want of memory, of the machine's or of a control group's."""
    with contextlib.suppress(OSError):
        found = re.search(r"^oom_kill (\d+)$", (proc / "vmstat").read_text(encoding="ascii"), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0
