"""Files whose pages can be dropped, and a process that holds on to them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_IN_MEMORY = ("tmpfs", "ramfs")
_HOLD = """
import ctypes, mmap, sys
libc = ctypes.CDLL(None, use_errno=True)
with open(sys.argv[1], "rb") as file:
    size = len(file.read())
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] + [ctypes.c_int] * 3, ctypes.c_long]
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    print(libc.mlock(address, size), flush=True)
sys.stdin.read()
"""


def file_system(path: Path) -> str:
    """Its type, as stat(1) names it."""
    words = ["stat", "--file-system", "--format", "%T", str(path)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


@contextlib.contextmanager
def directory_on_disk() -> Iterator[Path]:
    """A new directory that others may read, where files are on a disk; the test is skipped without one."""
    for place in (tempfile.gettempdir(), "/var/tmp", str(Path.home())):
        if Path(place).is_dir() and file_system(Path(place)) not in _IN_MEMORY:
            with tempfile.TemporaryDirectory(prefix="asrswitch-test-", dir=place) as name:
                Path(name).chmod(0o755)
                yield Path(name)
            return
    pytest.skip("temporary files, /var/tmp and the home directory are all in memory")


@contextlib.contextmanager
def mapped_and_locked(path: Path) -> Iterator[int]:
    """The id of a process that has a file mapped and its pages locked in memory."""
    words = [sys.executable, "-c", _HOLD, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin and holder.stdout
        assert holder.stdout.readline() == "0\n"
        yield holder.pid
        holder.stdin.close()
