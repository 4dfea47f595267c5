"""SHA-256 of files, remembered: a model file is hashed once and not at each run.

hashlib uses the processor's SHA instructions through OpenSSL where there are any; without a cache a file of
1.3 GB would still hold up every run by a second or more.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from asrswitch.user_cache import cache_directory

_PIECE_BYTES = 1 << 20
# Smaller files are hashed in less time than it is worth to remember; a library or an embedded model is one.
_WORTH_REMEMBERING_BYTES = 16 << 20
# A file that was written so recently may be written again without a change of its times' coarsest digits.
_SETTLED_NS = 2_000_000_000


class _Known(msgspec.Struct, frozen=True):
    """A file as it was when it was hashed."""

    path: str
    bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    sha256: str


def sha256(path: Path, environ: Mapping[str, str] | None = None) -> str:
    """The SHA-256 of a file's content, in 64 hexadecimal digits.

    A directory's is that of the names and sums of all files in it and below it. A large file's is taken from
    the user's cache directory while its size, times, inode and device are those of the file that was hashed;
    what a cache says of another file, or says wrongly, counts for nothing. A cache that cannot be written is
    no error.

    Args:
        path: the file, or a directory.
        environ: says where the cache directory lies; the process's own environment by default.

    Raises:
        OSError: it cannot be read.
    """
    path = path.absolute()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        sums = ((file.relative_to(path), sha256(file, environ)) for file in files)
        return hashlib.sha256(b"".join(os.fsencode(f"{name}\0{sum}\n") for name, sum in sums)).hexdigest()
    state = path.stat()
    note = _note(path, os.environ if environ is None else environ)
    if note is None or state.st_size < _WORTH_REMEMBERING_BYTES:
        return hash_file(path)
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        known = msgspec.json.decode(note.read_bytes(), type=_Known)
        if known == _known(path, state, known.sha256) and _is_sha256(known.sha256):
            return known.sha256
    digest = hash_file(path)
    settled = time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) > _SETTLED_NS
    if settled and _known(path, path.stat(), digest) == _known(path, state, digest):
        _write(note, msgspec.json.encode(_known(path, state, digest)))
    return digest


def hash_file(path: Path) -> str:
    """The same, by reading the file in any case."""
    digest = hashlib.sha256()
    buffer = bytearray(_PIECE_BYTES)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


def _note(path: Path, environ: Mapping[str, str]) -> Path | None:
    directory = cache_directory(environ)
    if directory is None:
        return None
    name = hashlib.sha256(os.fsencode(path)).hexdigest()
    return directory / "sha256" / f"{name[:32]}.json"


def _known(path: Path, state: os.stat_result, digest: str) -> _Known:
    return _Known(
        path=os.fsencode(path).hex(),  # names need not be text
        bytes=state.st_size,
        mtime_ns=state.st_mtime_ns,
        ctime_ns=state.st_ctime_ns,
        inode=state.st_ino,
        device=state.st_dev,
        sha256=digest,
    )


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _write(path: Path, content: bytes) -> None:
    """Replace a file whole, where that is possible."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
