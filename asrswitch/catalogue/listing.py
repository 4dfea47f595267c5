"""Which models there are: embedded, in the models directory, and to be had."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from pathlib import Path

import msgspec

from asrswitch.catalogue.directory import TYPES, embedded_models, models_directory, present_models
from asrswitch.catalogue.published import (
    CHECKPOINT,
    DEFAULT_TYPE,
    PUBLISHED,
    Published,
    file_name,
)


class State(enum.Enum):
    """Whether a model is here."""

    EMBEDDED = "embedded"
    HERE = "here"
    FETCHABLE = "fetchable"
    MADE = "fetchable, made here"  # from the official checkpoint


class Listed(msgspec.Struct, frozen=True):
    """A model by its name; None where that is not known."""

    name: str
    type: str | None
    state: State
    bytes: int | None
    licence: str | None
    where: str  # path, or repository


def list_models(environ: Mapping[str, str]) -> list[Listed]:
    """The embedded models, the catalogue, what is made of it by default, and other files that are here."""
    directory = models_directory(environ)
    listed = [_file(path.stem, path, State.EMBEDDED, "q8_0", "MIT") for path in embedded_models()]
    names = set()
    for item in PUBLISHED:
        names.add(item.local_name)
        listed.append(_here(item, directory) or _fetchable(item))
    for item in PUBLISHED:
        name = item.name.rpartition("-")[2]
        made = file_name(name, DEFAULT_TYPE)
        if item.type == CHECKPOINT and made not in names:
            names.add(made)
            path = directory / made if directory else None
            if path and path.is_file():
                listed.append(_file(name, path, State.HERE, DEFAULT_TYPE, item.licence))
            else:
                where = f"{item.host.value}: {item.repository}"
                listed.append(Listed(name, DEFAULT_TYPE, State.MADE, None, item.licence, where))
    others = [path for path in present_models(directory) if path.name not in names]
    return [*listed, *(_made_here(path) for path in others)]


def _made_here(path: Path) -> Listed:
    """A file that is not in the catalogue: of one of its checkpoints, as its name says, or anything else."""
    for item in PUBLISHED:
        name = item.name.rpartition("-")[2]
        for type in TYPES:
            if item.type == CHECKPOINT and path.name == file_name(name, type):
                return _file(name, path, State.HERE, type, item.licence)
    return _file(path.stem, path, State.HERE, None, None)


def _file(name: str, path: Path, state: State, type: str | None, licence: str | None) -> Listed:
    return Listed(name, type, state, path.stat().st_size, licence, str(path))


def _here(item: Published, directory: Path | None) -> Listed | None:
    path = directory / item.local_name if directory else None
    if path is None or not path.exists():
        return None
    files = [path / file.path for file in item.files] if item.type == CHECKPOINT else [path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    return Listed(item.name, item.type, State.HERE, size, item.licence, str(path))


def _fetchable(item: Published) -> Listed:
    where = f"{item.host.value}: {item.repository}"
    return Listed(item.name, item.type, State.FETCHABLE, item.bytes, item.licence, where)
