"""One model at a time on a machine: a lock, a look at who else is there, and the wait for a clean slate."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from asrswitch.errors import AsrSwitchError
from asrswitch.model_files import files_of

if TYPE_CHECKING:
    from typing_extensions import Self

_WORKER = b"asrswitch.worker"
_GRACE_S = 1.0
_PAUSE_S = 0.002  # between two looks
_LONGEST_S = 2.0
_STILL_S = 0.01
SERVER_STILL_S = 0.5  # a server may answer before what held the model has ended


class ConcurrentError(AsrSwitchError):
    """Somebody else measures, or holds a model, on this machine."""


class MachineLock:
    """Held by one runner on the machine, whoever runs it: two would measure each other.

    An flock(2) of a file in the system's directory for temporary files. It is gone with its holder, however
    that ends.
    """

    def __init__(self, directory: Path | None = None, proc: Path = Path("/proc")) -> None:
        self._path = (directory or Path(tempfile.gettempdir())) / "asrswitch.lock"
        self._proc = proc
        self._file = -1

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            ConcurrentError: another process has it.
        """
        self._file = self._open()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _holder(self._proc, os.fstat(self._file).st_ino)
            self.close()
            who = f"process {holder}" if holder else "another process"
            raise ConcurrentError(
                f"{who} is measuring on this machine (it holds {self._path}); "
                "wait for it, or give --allow-concurrent and expect worse figures"
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> int:
        try:
            try:
                # For reading, which suffices: the file may be another user's.
                return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                flags = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                return os.open(self._path, flags, 0o644)
        except OSError as error:
            raise ConcurrentError(
                f"{self._path}: cannot be locked ({error.strerror}); "
                "make it readable, or give --allow-concurrent"
            ) from None


def _holder(proc: Path, inode: int) -> int | None:
    """Who has a lock on the file, as ``/proc/locks`` tells."""
    try:
        lines = (proc / "locks").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split()
        # 1: FLOCK ADVISORY WRITE 1234 08:01:5678 0 EOF; a lock that is waited for has an arrow in between.
        if len(words) >= 6 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode):
            return int(words[4]) if words[4].isdigit() and words[4] != "0" else None
    return None


def other_workers(ours: frozenset[int], proc: Path = Path("/proc")) -> list[int]:
    """Processes that hold, or are about to hold, models of other runs: workers that are not ours."""
    found = []
    for directory in proc.iterdir():
        if not directory.name.isdigit() or int(directory.name) in ours:
            continue
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
        except OSError:  # gone, or not ours to look at
            continue
        if _WORKER in words:
            found.append(int(directory.name))
    return sorted(found)


def refuse_other_workers(ours: frozenset[int], remedy: str) -> None:
    """Make sure that nobody else holds a model; one whose runner was killed has a second to follow it.

    Args:
        ours: processes that may.
        remedy: what to do about others, for the message.

    Raises:
        ConcurrentError: somebody does.
    """
    deadline = time.monotonic() + _GRACE_S
    while others := other_workers(ours):
        if time.monotonic() > deadline:
            raise ConcurrentError(f"process {others[0]} holds models of another run; {remedy}")
        time.sleep(_GRACE_S / 20)


def is_mapped(pid: int, path: str, proc: Path = Path("/proc")) -> bool:
    """Whether a process still maps a file, by its whole name, or one in a directory and below it.

    False where that cannot be told.
    """
    try:
        maps = (proc / str(pid) / "maps").read_bytes()
    except OSError:
        return False
    files = files_of(Path(path)) if Path(path).is_dir() else [path]
    # As the kernel writes it: a line feed in a name is \\012, and a deleted file has a word behind its name.
    names = tuple(b" " + os.fsencode(file).replace(b"\n", b"\\012") for file in files)
    return any(line.removesuffix(b" (deleted)").endswith(names) for line in maps.splitlines())


class Slate(msgspec.Struct, frozen=True):
    """How resident memory was after an unload, when it was back where it began or had stopped sinking."""

    back: bool
    excess_bytes: int  # above the baseline, with a sign
    settle_ms: float  # until then; what this took is in no other figure


def settle(
    read: Callable[[], int],
    baseline: int,
    tolerance: int,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    still_s: float = _STILL_S,
) -> Slate:
    """Look again and again until memory is at most ``tolerance`` bytes above ``baseline``.

    Ends early where it has not sunk for ``still_s``, for then waiting does not help, and in any case after
    two seconds.
    """
    began = clock()
    now = lowest = read()
    sank = clock()
    while now - baseline > tolerance and clock() - sank < still_s and clock() - began < _LONGEST_S:
        sleep(_PAUSE_S)
        now = read()
        if now < lowest:
            lowest, sank = now, clock()
    return Slate(now - baseline <= tolerance, now - baseline, (clock() - began) * 1e3)
