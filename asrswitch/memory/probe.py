"""Readings of another process's memory from ``/proc``; sizes in bytes.

Sources: ``smaps_rollup`` is exact at the time of reading; ``VmHWM`` is the kernel's own running maximum of
RSS, which writing 5 to ``clear_refs`` sets back to the present RSS (proc(5)); ``stat`` counts page faults,
``io`` what was read from disks, for faults too.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from asrswitch.memory.cgroup import ControlGroup, ControlGroupReader

_KIB = 1024


class ProcessGoneError(Exception):
    """The process ended before or while it was read."""


class Memory(msgspec.Struct, frozen=True):
    """One reading. ``None`` where this kernel or our permissions do not tell."""

    rss_bytes: int
    pss_bytes: int | None
    uss_bytes: int | None
    anonymous_bytes: int
    file_bytes: int  # mapped files and shared memory: what of RSS is not anonymous
    swap_bytes: int
    peak_rss_bytes: int
    peak_since: Literal["reading", "start"]  # "start" where the kernel's maximum could not be set back
    source: Literal["smaps_rollup", "status"]
    mappings: int | None
    threads: int
    descriptors: int | None
    shared_bytes: int | None = None  # of file_bytes, what is shared memory and no file's
    minor_faults: int | None = None  # since the reading before, or since the probe was made
    major_faults: int | None = None  # likewise; each waited for a disk
    available_bytes: int | None = None  # on the host: MemAvailable
    cgroup: ControlGroup | None = None
    read_bytes: int | None = None  # from disks, since the reading before


class Faults(NamedTuple):
    minor: int
    major: int


class MemoryProbe:
    """Reads one process again and again; each reading carries the peak and faults since the one before."""

    def __init__(self, pid: int, proc: Path = Path("/proc"), from_start: bool = False) -> None:
        """Begin to read a process.

        Args:
            pid: its number.
            proc: where proc(5) is.
            from_start: whether the first reading has all since the process began, and not since now.
        """
        self._proc = proc
        self._directory = proc / str(pid)
        self._cgroup = ControlGroupReader(pid, proc)
        self._faults: Faults | None = Faults(0, 0)
        self._read_until_now: int | None = 0
        self._peak_since: Literal["reading", "start"] = "reading"
        if not from_start:
            self._faults = self._read_faults()
            self._read_until_now = self._count_read()
            self._peak_since = self._set_peak_back()

    def read(self) -> Memory:
        """Take a reading and begin a new peak.

        Raises:
            ProcessGoneError: there is nothing left to read.
        """
        status = self._status()
        rollup = self._rollup()
        if rollup:
            rss, anonymous, swap = rollup["Rss"], rollup["Anonymous"], rollup["Swap"]
            pss: int | None = rollup["Pss"]
            uss: int | None = sum(
                rollup.get(key, 0) for key in ("Private_Clean", "Private_Dirty", "Private_Hugetlb")
            )
        else:
            rss, anonymous, swap = status["VmRSS"], status["RssAnon"], status.get("VmSwap", 0)
            pss = uss = None
        faults = self._read_faults()
        minor, major = _difference(faults, self._faults)
        self._faults = faults
        reading = Memory(
            rss_bytes=rss,
            pss_bytes=pss,
            uss_bytes=uss,
            anonymous_bytes=anonymous,
            file_bytes=rss - anonymous,
            swap_bytes=swap,
            # The kernel keeps RSS in per-CPU parts and its maximum may lag by a few pages.
            peak_rss_bytes=max(status["VmHWM"], rss),
            peak_since=self._peak_since,
            source="smaps_rollup" if rollup else "status",
            mappings=self._count_mappings(),
            threads=status["Threads"],
            descriptors=self._count_descriptors(),
            shared_bytes=status.get("RssShmem"),
            minor_faults=minor,
            major_faults=major,
            available_bytes=self._available(),
            cgroup=self._cgroup.read(),
            read_bytes=self._newly_read(),
        )
        self._peak_since = self._set_peak_back()
        return reading

    def resident_bytes(self) -> int:
        """RSS alone, at little cost, and without a new peak.

        Raises:
            ProcessGoneError: there is nothing left to read.
        """
        return self._status()["VmRSS"]

    def _status(self) -> dict[str, int]:
        status = self._table("status")
        if "VmRSS" not in status:  # a zombie has a status without memory
            raise ProcessGoneError
        return status

    def _set_peak_back(self) -> Literal["reading", "start"]:
        try:
            (self._directory / "clear_refs").write_text("5")
        except OSError:
            return "start"
        return "reading"

    def _rollup(self) -> dict[str, int]:
        try:
            return self._table("smaps_rollup")
        except PermissionError:
            return {}
        except ProcessGoneError:  # the file is younger than Linux 4.14, or absent under some sandboxes
            return {}

    def _table(self, name: str) -> dict[str, int]:
        try:
            return parse_table((self._directory / name).read_text(encoding="ascii", errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            raise ProcessGoneError from None

    def _read_faults(self) -> Faults | None:
        with contextlib.suppress(OSError):
            return parse_faults((self._directory / "stat").read_bytes())
        return None

    def _newly_read(self) -> int | None:
        earlier, self._read_until_now = self._read_until_now, self._count_read()
        if earlier is None or self._read_until_now is None:
            return None
        return self._read_until_now - earlier

    def _count_read(self) -> int | None:
        with contextlib.suppress(OSError):
            text = (self._directory / "io").read_text(encoding="ascii", errors="replace")
            return parse_table(text).get("read_bytes")
        return None

    def _available(self) -> int | None:
        with contextlib.suppress(OSError):
            text = (self._proc / "meminfo").read_text(encoding="ascii", errors="replace")
            return parse_table(text).get("MemAvailable")
        return None

    def _count_mappings(self) -> int | None:
        with contextlib.suppress(OSError):
            return (self._directory / "maps").read_bytes().count(b"\n")
        return None

    def _count_descriptors(self) -> int | None:
        with contextlib.suppress(OSError):
            return sum(1 for _ in (self._directory / "fd").iterdir())
        return None


def parse_table(text: str) -> dict[str, int]:
    """Fields of a file of ``Name: number [kB]`` lines; sizes in bytes, counts as they are."""
    table = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdecimal() and len(words) <= 2:
            table[key] = int(words[0]) * (_KIB if words[-1] == "kB" else 1)
    return table


def parse_faults(stat: bytes) -> Faults | None:
    """Fields 10 and 12 of ``/proc/PID/stat``: the name before them may hold spaces and parentheses."""
    words = stat.rpartition(b")")[2].split()
    if len(words) < 10 or not (words[7].isdigit() and words[9].isdigit()):
        return None
    return Faults(minor=int(words[7]), major=int(words[9]))


def _difference(now: Faults | None, before: Faults | None) -> tuple[int | None, int | None]:
    if now is None or before is None:
        return None, None
    return now.minor - before.minor, now.major - before.major
