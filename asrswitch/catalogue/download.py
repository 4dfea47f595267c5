"""A file from a hub, into its place: resumed, checked, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from asrswitch.catalogue.hubs import Remote, UnreachableError
from asrswitch.catalogue.published import PublishedFile
from asrswitch.errors import AsrSwitchError
from asrswitch.hashing import hash_file

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PIECE_BYTES = 1 << 20
_MOST_IN_VAIN = 2  # attempts in a row that bring nothing
_PAUSE_S = 1.0  # before the next attempt


def partial_path(target: Path) -> Path:
    """Where the content of a file lies until it is whole; a later call goes on with it."""
    return target.with_name(f".{target.name}.download")


def download(remote: Remote, file: PublishedFile, target: Path) -> str:
    """Bring a file to its place; what was there before stays until the new one is whole and its sum right.

    Args:
        remote: what the hub states.
        file: what the catalogue says; this counts where both say something.
        target: the place, in a folder that is there.

    Returns:
        Against what the content was checked, in words.

    Raises:
        UnreachableError: the connection broke off and did not come back; what has arrived is kept.
        AsrSwitchError: the content is not what it should be, and was removed; or it cannot be written.
    """
    partial = partial_path(target)
    with _locked(partial) as content:
        _receive(remote, content, partial)
        checked = _check(remote, file, partial)
        with contextlib.suppress(OSError):  # some file systems have no sync
            os.fsync(content.fileno())
        try:
            partial.replace(target)
        except OSError as error:
            raise _unwritable(target, error) from None
    return checked


@contextlib.contextmanager
def _locked(partial: Path) -> Iterator[BinaryIO]:
    """The partial file, open at its end; no other process writes to it meanwhile."""
    try:
        content = partial.open("ab")
    except OSError as error:
        raise _unwritable(partial, error) from None
    with content:
        try:
            fcntl.flock(content, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AsrSwitchError(f"{partial}: another process is fetching it; wait for that one") from None
        yield content


def _receive(remote: Remote, content: BinaryIO, partial: Path) -> None:
    """Write what is lacking; connections that break off are made again as long as that brings anything."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # not each attempt, on standard error
    in_vain = 0
    while True:
        here = content.seek(0, os.SEEK_END)
        if here == remote.bytes:
            return
        if remote.bytes is not None and here > remote.bytes:
            # Of another version of the file, or sent from the beginning where the rest was asked for.
            content.truncate(0)
            here = content.seek(0)
        try:
            _get(remote, content, here, partial)
            return
        except AsrSwitchError:  # a signal came; what has arrived is kept
            raise
        except Exception as error:  # of several HTTP libraries, by huggingface_hub's version
            if isinstance(error, OSError) and error.errno in _FULL:
                raise _unwritable(partial, error) from None
            content.flush()
            have = partial.stat().st_size
            brought = have > here and (remote.bytes is None or have <= remote.bytes)
            in_vain = 0 if brought else in_vain + 1
            if in_vain == _MOST_IN_VAIN or _is_refusal(error):
                of = "" if remote.bytes is None else f" of {remote.bytes:,}"
                said = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise UnreachableError(
                    f"{remote.url}: broke off ({said}); "
                    f"{have:,}{of} bytes are kept, and the same command goes on with them"
                ) from None
        time.sleep(_PAUSE_S)


def _get(remote: Remote, content: BinaryIO, here: int, partial: Path) -> None:
    from huggingface_hub.file_download import http_get

    http_get(
        remote.url,
        content,
        resume_size=here,
        headers=dict(remote.headers),
        expected_size=remote.bytes,
        displayed_filename=partial.name.removeprefix(".").removesuffix(".download"),
    )
    content.flush()


def _is_refusal(error: Exception) -> bool:
    """Whether the server answered, and would answer the same again."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return isinstance(status, int) and 400 <= status < 500


def _check(remote: Remote, file: PublishedFile, partial: Path) -> str:
    size = partial.stat().st_size
    wanted_bytes = file.bytes if file.bytes is not None else remote.bytes
    if wanted_bytes is not None and size != wanted_bytes:
        _refuse(remote, partial, f"{size:,} bytes arrived, {wanted_bytes:,} were announced")
    if wanted := file.sha256 or remote.sha256:
        if (found := hash_file(partial)) != wanted:
            whose = "the catalogue's" if file.sha256 else "the hub's"
            _refuse(remote, partial, f"its SHA-256 is {found}, {whose} is {wanted}")
        return f"SHA-256 {wanted}, {'of the catalogue' if file.sha256 else 'as the hub states it'}"
    if remote.git_blob:
        if (found := _git_blob(partial, size)) != remote.git_blob:
            _refuse(remote, partial, f"its git SHA-1 is {found}, the hub's is {remote.git_blob}")
        return f"git SHA-1 {remote.git_blob}, as the hub states it"
    return "not checked: neither the catalogue nor the hub has a sum of it"


def _refuse(remote: Remote, partial: Path, why: str) -> None:
    with contextlib.suppress(OSError):
        partial.unlink()
    raise AsrSwitchError(
        f"{remote.url}: {why}; it was removed: try again, and doubt the mirror if it stays so"
    )


def _git_blob(path: Path, size: int) -> str:
    """The name that git gives a file's content (gitformat-pack: a header, then the bytes)."""
    digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _unwritable(path: Path, error: OSError) -> AsrSwitchError:
    remedy = (
        "make room, or choose another place by --dest" if error.errno in _FULL else "choose another by --dest"
    )
    return AsrSwitchError(f"{path}: cannot be written ({error.strerror}); {remedy}")
