"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from asrswitch.errors import AsrSwitchError, UsageError

_WRITE_BYTES = 8 << 20  # a multiple of a huge page
_WRONG_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT)


class _LargeWrites(io.BufferedWriter):
    """Writes whole, aligned buffers only.

    The page cache keeps a file in pieces as large as it was written in, and a model file in large pieces is
    mapped and unmapped in a fraction of the time.
    """

    def write(self, data: Any, /) -> int:
        rest = memoryview(data).cast("B")
        while rest:
            room = _WRITE_BYTES - self.tell() % _WRITE_BYTES
            super().write(rest[:room])
            if len(rest) >= room:
                self.flush()
            rest = rest[room:]
        return memoryview(data).nbytes


@contextmanager
def atomic_output(path: Path) -> Iterator[BinaryIO]:
    """A file open for writing that becomes `path` when the block ends without an exception.

    It is written beside `path`, flushed to the disk and renamed; after an exception, Ctrl-C included, it is
    removed and `path` is as before. A process that is killed leaves `.NAME.PID.partial` behind, never a part
    of `path`. A symbolic link stays, and what it points to is replaced. Raises UsageError when `path` is no
    place for a file of the user's (a folder, a device, a pipe, not to be written), AsrSwitchError when the
    writing fails.
    """
    target = _target(path)
    partial = target.parent / f".{target.name}.{os.getpid()}.partial"
    try:
        with _LargeWrites(partial.open("wb", buffering=0), buffer_size=_WRITE_BYTES) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        _remove(partial)
        raise _unwritable(path, error) from None
    except BaseException:
        _remove(partial)
        raise


def _target(path: Path) -> Path:
    """Where `path` leads over its links: a plain file, or nothing yet."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = stat.S_IFREG
    except OSError as error:
        raise _unwritable(path, error) from None
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path}: is a folder; give the name of a file")
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path}: is not a plain file; give the name of one")
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if not target.parent.is_dir():
        raise UsageError(f"{path}: the folder {target.parent} does not exist; make it first")
    return target


def _unwritable(path: Path, error: OSError) -> AsrSwitchError:
    kind: type[AsrSwitchError] = UsageError if error.errno in _WRONG_PLACE else AsrSwitchError
    return kind(f"{path}: cannot be written: {error.strerror}; {_remedy(error)}")


def _remove(partial: Path) -> None:
    with suppress(OSError):
        partial.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "make room or choose another place"
    if error.errno == errno.ENAMETOOLONG:
        return "give it a shorter name"
    return "choose a place where you may write"
