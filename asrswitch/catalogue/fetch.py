"""Getting models here: downloading what is published, and making what is not from the official checkpoint."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from asrswitch.catalogue.directory import VARIABLE, models_directory
from asrswitch.catalogue.download import download, partial_path
from asrswitch.catalogue.hubs import UnreachableError, ask, web_address
from asrswitch.catalogue.published import (
    CHECKPOINT,
    DEFAULT_TYPE,
    PUBLISHED,
    Host,
    Published,
    PublishedFile,
    checkpoint_of,
    file_name,
    find_published,
)
from asrswitch.convert import TYPES, convert
from asrswitch.errors import AsrSwitchError, UsageError
from asrswitch.hashing import sha256

# What a disk is to have left: the system and the log of a run need some.
_RESERVE_BYTES = 64 << 20
_CHECKPOINT_BYTES_PER_WEIGHT = 2  # bfloat16

Say = Callable[[str], None]
Progress = Callable[[int, int, str], None]


def fetch(
    name: str,
    type: str | None,
    dest: Path | None,
    environ: Mapping[str, str],
    say: Say,
    progress: Progress | None = None,
) -> Path:
    """Make a model be here, and tell where: a file, or the folder of a checkpoint.

    Args:
        name: of the catalogue, in upper or lower case.
        type: as matrices are to be stored; None for the smallest, or for a checkpoint's own.
        dest: the folder it is to lie in; None for the models directory.
        environ: says where that is, and which mirrors to ask.
        say: told in a line what was done.
        progress: as ``convert`` calls it, where a file is made.

    Raises:
        UsageError: no such model.
        AsrSwitchError: it cannot be had; the message says what to put where by other means.
    """
    item, made_from, type = _choose(name, type)
    directory = _make_directory(dest, environ)
    if item:
        return _fetch_published(item, directory, environ, say)
    assert made_from
    target = directory / file_name(name, type)
    if target.exists():
        say(f"{target}: is there already")
        return target
    say(f"{name} is not published as {type}: it is made from {made_from.repository}")
    checkpoint = _fetch_published(made_from, directory, environ, say)
    stored = TYPES[type]
    parts = stored.block_bytes / stored.block_elements / _CHECKPOINT_BYTES_PER_WEIGHT
    # The output matrix is written also where the checkpoint shares it with the embedding.
    _check_space(int((made_from.bytes or 0) * parts * 1.25), target)
    convert(checkpoint, target, type, progress)
    say(f"{target}: {target.stat().st_size:,} bytes, made from {checkpoint}, which may be removed")
    return target


def _choose(name: str, type: str | None) -> tuple[Published | None, Published | None, str]:
    """What is published of that name and type, or what it can be made from; and the type."""
    if any(item.name.casefold() == name.casefold() and item.type == CHECKPOINT for item in PUBLISHED):
        if type not in (None, CHECKPOINT):
            raise UsageError(f"{name} is a checkpoint: leave out --type, or fetch {name.rpartition('-')[2]}")
        return find_published(name, CHECKPOINT), None, CHECKPOINT
    type = type or DEFAULT_TYPE
    item, made_from = find_published(name, type), checkpoint_of(name)
    if item is None and (made_from is None or type not in TYPES):
        names = ", ".join(dict.fromkeys(item.name for item in PUBLISHED))
        raise UsageError(f"{name} as {type}: not in the catalogue; `models list` shows it: {names}")
    return item, made_from, type


def _make_directory(dest: Path | None, environ: Mapping[str, str]) -> Path:
    directory = dest.absolute() if dest else models_directory(environ)
    if directory is None:
        raise UsageError(f"there is no home directory to put models in: give --dest, or set {VARIABLE}")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = "is a file" if error.errno == errno.EEXIST else f"cannot be made ({error.strerror})"
        raise UsageError(f"{directory}: {problem}; choose another place by --dest") from None
    return directory


def _fetch_published(item: Published, directory: Path, environ: Mapping[str, str], say: Say) -> Path:
    target = directory / item.local_name
    try:
        if item.type == CHECKPOINT:
            _fetch_checkpoint(item, target, environ, say)
        else:
            _fetch_file(item, item.files[0], target, environ, say)
    except UnreachableError as error:
        raise AsrSwitchError(f"{error}; {_by_hand(item, target)}") from None
    return target


def _fetch_checkpoint(item: Published, target: Path, environ: Mapping[str, str], say: Say) -> None:
    """All files, into a folder that appears when the last is there."""
    if target.is_dir():
        lacking = [file.path for file in item.files if not (target / file.path).is_file()]
        if lacking:
            raise AsrSwitchError(f"{target}: lacks {', '.join(lacking)}; put it there, or remove the folder")
        say(f"{target}: is there already")
        return
    folder = partial_path(target)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise AsrSwitchError(f"{folder}: cannot be made ({error.strerror}); choose another --dest") from None
    left = sum(file.bytes or 0 for file in item.files if not (folder / file.path).exists())
    _check_space(left - sum(_size(partial_path(folder / file.path)) for file in item.files), target)
    try:
        for file in item.files:
            _fetch_file(item, file, folder / file.path, environ, say)
        folder.rename(target)
    finally:
        with contextlib.suppress(OSError):  # what came is kept, to go on from
            folder.rmdir()


def _fetch_file(
    item: Published, file: PublishedFile, target: Path, environ: Mapping[str, str], say: Say
) -> None:
    if target.exists():
        _check_present(file, target)
        say(f"{target}: is there already")
        return
    if importlib.util.find_spec("huggingface_hub") is None:
        raise AsrSwitchError(
            f"huggingface_hub is not installed: `pip install huggingface_hub`, or {_by_hand(item, target)}"
        )
    remote = ask(item, file, environ)
    if remote.bytes is not None:
        _check_space(remote.bytes - _size(partial_path(target)), target)
    checked = download(remote, file, target)
    say(f"{target}: {_size(target):,} bytes, {item.licence}, {checked}")


def _check_present(file: PublishedFile, target: Path) -> None:
    if file.sha256 and (found := sha256(target)) != file.sha256:
        raise AsrSwitchError(
            f"{target}: its SHA-256 is {found}, the catalogue's is {file.sha256}; remove it and fetch again"
        )


def _check_space(need: int, target: Path) -> None:
    free = shutil.disk_usage(target.parent).free
    if need + _RESERVE_BYTES > free:
        raise AsrSwitchError(
            f"{target.parent}: {free:,} bytes are free, and {target.name} needs {need:,} with "
            f"{_RESERVE_BYTES:,} to spare; make room, or choose another place by --dest"
        )


def _by_hand(item: Published, target: Path) -> str:
    """Which file to put where, on a machine that reaches no hub."""
    public: dict[str, str] = {}  # no mirror of this machine
    if item.type == CHECKPOINT:
        place = web_address(item, item.files[0], public).rpartition("/")[0]
        names = ", ".join(file.path for file in item.files)
        return f"on a machine that can, download from {place}/ into the folder {target}: {names}"
    (file,) = item.files
    mirror = "HF_ENDPOINT" if item.host is Host.HUGGING_FACE else "MODELSCOPE_DOMAIN"
    told = f" ({file.bytes:,} bytes)" if file.bytes else ""
    return (
        f"on a machine that can, download {web_address(item, file, public)}{told} and put it at {target}; "
        f"or name a mirror by {mirror}"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
