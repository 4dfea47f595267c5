"""What `--model` names: a file, with a label or without, or a model that goes by its name."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from asrswitch.catalogue.directory import find_model
from asrswitch.catalogue.published import checkpoint_of
from asrswitch.errors import UsageError


def label_and_path(
    word: str, type: str | None = None, environ: Mapping[str, str] | None = None
) -> tuple[str, str]:
    """Label and file of ``[LABEL=]PATH`` or ``[LABEL=]NAME``; a file without a label is called by its name.

    The file may not be there: who opens it says so. A file whose name has an equals sign needs no label.

    Args:
        word: as it was given.
        type: of a model given by its name, as in ``find_model``.
        environ: as in ``find_model``.

    Raises:
        UsageError: neither form; a type for a file, which has one; no model of this name and type.
    """
    label, equals, named = word.partition("=")
    if not equals or _is_file(word):
        label, named = "", word
    elif not (label and named):
        raise UsageError(f"--model {word}: write PATH or LABEL=PATH, for example 0.6B=models/0.6b.bin")
    if _is_file(named):
        if type is not None:
            raise UsageError(f"--type {type}: {named} is a file, and of one type; give --model a name")
        return label or Path(named).stem, named
    found = find_model(named, type, environ)
    if not found and type is not None:
        if not _is_published(named) and find_model(named, None, environ):
            raise UsageError(
                f"--type {type}: the catalogue does not have {named}, so that its type is not known; leave "
                "--type out"
            )
        raise UsageError(
            f"--type {type}: no model {named} of this type is here; {_how_to_get(named, f' --type {type}')}"
        )
    if not found and not looks_like_a_file(named):
        raise UsageError(
            f"--model {word}: there is no such file, and no model of this name is here; {_how_to_get(named)}"
        )
    return label or (named if found else Path(named).stem), str(found or named)


def looks_like_a_file(word: str) -> bool:
    """Whether this is a path rather than a model's name."""
    return "/" in word or word.endswith(".bin")


def _how_to_get(name: str, option: str = "") -> str:
    shown = "`models list` shows which are"
    return f"{shown}, `models fetch {name}{option}` brings it" if _is_published(name) else shown


def _is_published(name: str) -> bool:
    """Whether `models fetch` knows it: what is not published in a type is made from the checkpoint."""
    return bool(checkpoint_of(name))


def _is_file(word: str) -> bool:
    with contextlib.suppress(OSError, ValueError):  # a name too long for a file, for one
        return Path(word).is_file()
    return False
