"""What malloc holds and keeps back in this process, and what it would give back if it were asked to.

A trim changes what is measured: pages that malloc kept go back to the system, and the next load has to fault
them in again. So it can be made on a copy of the process (fork(2)), which tells its figures and ends.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import select
import signal
import struct
import time
import warnings
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asrswitch import native
from asrswitch.worker.protocol import Malloc, Trimmed

COPY_TIME_LIMIT_S = 10.0
_KIB = 1024
_OTHER_ALLOCATORS = ("mallctl", "tc_version", "mi_version")  # of jemalloc, tcmalloc, mimalloc
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MADV_POPULATE_WRITE = 23  # <linux/mman.h>
# Bits of a page's entry in /proc/PID/pagemap (the kernel's pagemap guide).
_PRESENT, _OF_A_FILE, _MAPPED_ONCE = 1 << 63, 1 << 61, 1 << 56
# Less than malloc's threshold for mappings of their own: freeing one of those would move the threshold.
_ENTRIES_AT_ONCE = 8192
# Anonymous memory before and after, then the fields of Malloc; fewer bytes than a pipe passes on undivided.
_FIGURES = struct.Struct("=6q")

_Figures = tuple[int, int, Malloc]


class TrimError(Exception):
    """There was no trim, or its figures did not arrive; the message says why."""


class Heap:
    """glibc's malloc in this process; ``process`` has the symbols of the C library."""

    def __init__(self, process: Any) -> None:
        self._process = process

    def read(self) -> Malloc | None:
        """All arenas together; None where the C library does not tell (musl, or glibc before 2.33) or serves
        nobody, since another allocator was loaded before it."""
        if not hasattr(self._process, "mallinfo2") or self._is_replaced():
            return None
        gc.collect()
        return self._figures()

    def trim(self, on_copy: bool, limit_s: float = COPY_TIME_LIMIT_S) -> Trimmed:
        """Ask malloc for all that it can give back, here or in a copy of this process.

        The copy shares the pages of this process until one of them writes. After it has ended, the first
        write to each page that both had is a minor fault here that copies nothing; those are taken at once,
        so that they do not slow the next phase down.
        """
        started_ns = time.monotonic_ns()
        figures: _Figures | None = None
        failure: str | None = None
        try:
            figures = self._trim_copy(limit_s) if on_copy else self._trim()
        except TrimError as error:
            failure = str(error)
        ended_ns = time.monotonic_ns()
        return {
            "anonymous_before_bytes": figures[0] if figures else None,
            "anonymous_bytes": figures[1] if figures else None,
            "trimmed": figures[2] if figures else None,
            "started_ns": started_ns,
            "ended_ns": ended_ns,
            "failure": failure,
            "malloc": self.read(),
        }

    def _figures(self) -> Malloc:
        info = self._process.mallinfo2()
        return {
            "held_bytes": info.uordblks + info.hblkhd,
            "kept_bytes": info.fordblks,
            "arena_bytes": info.arena,
            "mapped_chunks": info.hblks,
        }

    def _trim(self) -> _Figures:
        self._check()
        before = _anonymous_bytes()
        self._process.malloc_trim(0)
        return before, _anonymous_bytes(), self._figures()

    def _is_replaced(self) -> bool:
        return any(hasattr(self._process, name) for name in _OTHER_ALLOCATORS)

    def _check(self) -> None:
        if self._is_replaced():
            raise TrimError("malloc is not the C library's")
        for name in ("malloc_trim", "mallinfo2"):
            if not hasattr(self._process, name):
                raise TrimError(f"the C library has no {name}")

    def _trim_copy(self, limit_s: float) -> _Figures:
        self._check()
        answers, write = os.pipe()
        try:
            with warnings.catch_warnings():
                # Python 3.12 warns of threads that the copy will lack. It needs none: glibc takes malloc's
                # locks itself around a fork, and whatever else may be held is let go by the time limit.
                warnings.simplefilter("ignore", DeprecationWarning)
                copy = os.fork()
            if copy == 0:
                self._be_the_copy(write)
        except OSError as error:
            os.close(answers)
            raise TrimError(f"the worker cannot be copied ({error.strerror})") from None
        finally:
            os.close(write)
        try:
            return _receive(copy, answers, limit_s)
        finally:
            os.close(answers)
            self._make_pages_writable()

    def _make_pages_writable(self) -> None:
        """Take the faults that a copy left behind; Linux 5.14 and later, others take them when they write.

        Only pages that are this process's own are touched, so that none is added.
        """
        with contextlib.suppress(OSError), Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
            for begin, end in _writable_mappings():
                for first, count in _own_pages(pagemap.fileno(), begin // _PAGE_BYTES, end // _PAGE_BYTES):
                    address = native.ffi.cast("void *", first * _PAGE_BYTES)
                    self._process.madvise(address, count * _PAGE_BYTES, _MADV_POPULATE_WRITE)

    def _be_the_copy(self, write: int) -> None:
        """Trim, tell, end; never return, whatever happens."""
        try:
            gc.disable()  # a collection here would write to every object's page
            native.die_with_parent(self._process)
            before, after, malloc = self._trim()
            fields = (malloc["held_bytes"], malloc["kept_bytes"], malloc["arena_bytes"])
            os.write(write, _FIGURES.pack(before, after, *fields, malloc["mapped_chunks"]))
            os._exit(0)
        finally:
            os._exit(1)


def _receive(copy: int, answers: int, limit_s: float) -> _Figures:
    """Wait for the copy's figures and its end."""
    poll = select.poll()
    poll.register(answers, select.POLLIN)
    answered = bool(poll.poll(limit_s * 1000))
    answer = os.read(answers, _FIGURES.size) if answered else b""
    if not answered:
        os.kill(copy, signal.SIGKILL)
    _, status = os.waitpid(copy, 0)
    if not answered:
        raise TrimError(f"the copy gave no figures within {limit_s:g} s and was killed")
    if len(answer) < _FIGURES.size:
        code = os.waitstatus_to_exitcode(status)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise TrimError(f"the copy {how} and gave no figures")
    before, after, held, kept, arena, chunks = _FIGURES.unpack(answer)
    malloc: Malloc = {
        "held_bytes": held,
        "kept_bytes": kept,
        "arena_bytes": arena,
        "mapped_chunks": chunks,
    }
    return before, after, malloc


def _writable_mappings() -> Iterator[tuple[int, int]]:
    """Addresses of this process's private mappings that it may write to."""
    with Path("/proc/self/maps").open("rb") as maps:
        for line in maps:
            addresses, permissions = line.split()[:2]
            if permissions[1:2] == b"w" and permissions[3:4] == b"p":
                begin, _, end = addresses.partition(b"-")
                yield int(begin, 16), int(end, 16)


def _own_pages(pagemap: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Runs of anonymous pages that only this process has, as first page and count."""
    for chunk in range(begin, end, _ENTRIES_AT_ONCE):
        entries = array("Q", os.pread(pagemap, min(_ENTRIES_AT_ONCE, end - chunk) * 8, chunk * 8))
        page = chunk
        for own, run in itertools.groupby(entries, _is_own):
            count = sum(1 for _ in run)
            if own:
                yield page, count
            page += count


def _is_own(entry: int) -> bool:
    return entry & (_PRESENT | _OF_A_FILE | _MAPPED_ONCE) == _PRESENT | _MAPPED_ONCE


def _anonymous_bytes() -> int:
    """This process's own anonymous memory; exact where the kernel has ``smaps_rollup``."""
    for name, key in (("smaps_rollup", b"Anonymous:"), ("status", b"RssAnon:")):
        try:
            lines = Path("/proc/self", name).read_bytes().splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith(key):
                return int(line.split()[1]) * _KIB
    raise TrimError("the kernel does not tell the anonymous memory")
