"""A file's pages in the page cache: dropped or brought in, and counted before and after as the proof.

Sources: posix_fadvise(2) drops pages that are clean and that nobody maps; mincore(2) tells which pages of a
mapping are in memory. Since Linux 5.2 it says that all are, to those who may not write the file: that is no
proof, and here it counts as not known. cachestat(2) would say so itself, but is of Linux 6.5, and sandboxes
refuse what they do not know.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from asrswitch.memory.guard import is_mapped
from asrswitch.model_files import files_of
from asrswitch.native import ffi, open_process

State = Literal["cold", "warm"]

_PIECE = 1 << 30  # bytes mapped at a time, to be asked about
_PAUSES_S = (0.0, 0.01, 0.1)  # before each time that pages are dropped
_READ = 1 << 20  # bytes read at a time
_LOWEST_BIT = bytes(byte & 1 for byte in range(256))  # mincore(2) promises nothing of the others
_IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs", "rootfs", "hugetlbfs")


class Residency(msgspec.Struct, frozen=True):
    """How much of a file was in the page cache, and is now; None where the kernel does not tell."""

    bytes: int  # of the file
    before_bytes: int | None
    resident_bytes: int | None
    proven: bool  # that it is as it was to be
    reason: str | None = None  # why not, and what to do


def prepare(path: Path, state: State, between: Callable[[], None] = lambda: None) -> Residency:
    """Make a file cold (no page of it in the page cache) or warm (all of them), and look whether it is.

    Args:
        path: the file, or a directory: all files in it and below it.
        state: what it is to be.
        between: called between pieces of a long reading; what it raises ends that.

    Raises:
        OSError: the file cannot be opened or read.
    """
    if path.is_dir():
        return _together([prepare(file, state, between) for file in files_of(path)])
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(file).st_size
        before = resident_bytes(file)
        wanted = 0 if state == "cold" else size
        if before != wanted and state == "cold":
            _drop(file)
        elif before != wanted:
            _read_through(file, between)
        now = resident_bytes(file)
    finally:
        os.close(file)
    proven = now == wanted
    return Residency(size, before, now, proven, None if proven else _reason(path, state, size, now))


def _together(files: Sequence[Residency]) -> Residency:
    """Of several files: proven where each is."""
    unproven = [file for file in files if not file.proven]
    before, resident = [file.before_bytes for file in files], [file.resident_bytes for file in files]
    return Residency(
        bytes=sum(file.bytes for file in files),
        before_bytes=None if None in before else sum(count or 0 for count in before),
        resident_bytes=None if None in resident else sum(count or 0 for count in resident),
        proven=not unproven,
        reason=unproven[0].reason if unproven else None,
    )


def resident_bytes(file: int) -> int | None:
    """How much of an open file is in the page cache, in whole pages; None where the kernel does not tell.

    Raises:
        OSError: it cannot be mapped.
    """
    status = os.fstat(file)
    size = status.st_size
    pages = sum(
        _resident_pages(file, offset, min(_PIECE, size - offset)) for offset in range(0, size, _PIECE)
    )
    resident = min(pages * mmap.PAGESIZE, size)
    # Those whom the kernel does not tell hear that all are there.
    told = resident < size or status.st_uid == os.geteuid() or _may_write(file)
    return resident if told else None


def _may_write(file: int) -> bool:
    return os.access(f"/proc/self/fd/{file}", os.W_OK, effective_ids=True)


def _drop(file: int) -> None:
    """Drop what can be dropped. What is not on the disk yet would stay.

    In an overlay that may be a file below this one, which is not written by fdatasync(2); but the kernel
    begins to when it is asked to drop the pages.
    """
    os.fdatasync(file)
    for pause_s in _PAUSES_S:
        time.sleep(pause_s)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        if not resident_bytes(file):
            return


def _read_through(file: int, between: Callable[[], None]) -> None:
    """Read it all: POSIX_FADV_WILLNEED only begins to, and may leave some out."""
    buffer, offset = bytearray(_READ), 0
    while count := os.preadv(file, [buffer], offset):
        offset += count
        between()


def _resident_pages(file: int, offset: int, length: int) -> int:
    """How many pages of a piece mincore says are in memory."""
    told = ffi.new("unsigned char[]", -(-length // mmap.PAGESIZE))
    with (
        mmap.mmap(file, length, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ, offset=offset) as mapping,
        ffi.from_buffer(mapping) as address,
    ):
        if open_process().mincore(address, length, told) != 0:
            raise OSError(ffi.errno, os.strerror(ffi.errno))
    flags: bytes = ffi.buffer(told)[:]
    return flags.translate(_LOWEST_BIT).count(1)


def _reason(path: Path, state: State, size: int, now: int | None) -> str:
    """Why a file is not as it was to be, or not known to be, and what to do."""
    if now is None:
        return "the kernel tells what is in memory to a file's owner and to who may write it: be one of them"
    if state == "warm":
        return f"only {now:,} of {size:,} bytes stayed in memory: free some"
    if mapped := _mapped_by(path):
        return f"{mapped} has it mapped, and its pages cannot be dropped: end it"
    if (kind := _file_system(path)) in _IN_MEMORY:
        return f"{kind} keeps its files in memory: put the model on a disk"
    return f"{now:,} of {size:,} bytes stayed, held by what cannot be seen from here: end who uses the file"


def _mapped_by(path: Path, proc: Path = Path("/proc")) -> str | None:
    """The first process that maps the file, of those that we may look at."""
    name = os.path.realpath(path)
    pids = sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit())
    for pid in pids:
        if is_mapped(pid, name, proc):
            return f"process {pid} ({_name_of(pid, proc)})"
    return None


def _name_of(pid: int, proc: Path) -> str:
    try:
        return (proc / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "gone by now"


def _file_system(path: Path, proc: Path = Path("/proc")) -> str | None:
    """The type of the file system that a file is on, as ``/proc/self/mountinfo`` has it (proc(5))."""
    try:
        device = path.stat().st_dev
        lines = (proc / "self" / "mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        place, _, source = line.partition(" - ")
        if place.split()[2:3] == [number]:
            return source.partition(" ")[0]
    return None
