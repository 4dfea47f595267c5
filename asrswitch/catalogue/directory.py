"""The models directory: which models are in it, and the embedded ones beside them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from asrswitch.catalogue.published import DEFAULT_TYPE, file_name
from asrswitch.user_cache import cache_directory

VARIABLE = "ASRSWITCH_MODELS"
# In the order in which they are taken where several are there and none was asked for.
TYPES = (DEFAULT_TYPE, "q4_0_16x4", "q8_0", "q4_1", "f16", "f32")


def models_directory(environ: Mapping[str, str]) -> Path | None:
    """Where fetched models are: where ASRSWITCH_MODELS says, or in the user's cache; None without either."""
    if environ.get(VARIABLE):
        return Path(environ[VARIABLE]).absolute()
    cache = cache_directory(environ)
    return cache / "models" if cache else None


def find_model(name: str, type: str | None = None, environ: Mapping[str, str] | None = None) -> Path | None:
    """The file of a model that goes by its name: an embedded one, or one in the models directory.

    There, ``0.6B`` is ``qwen3-asr-0.6b-q4_0.bin``, or the same of another type; any other file is found by
    its name without ``.bin``.

    Args:
        name: as in the catalogue, in upper or lower case; or of a file.
        type: how its matrices are stored; None for the first of TYPES that is there.
        environ: says where the models directory lies; the process's own environment by default.
    """
    if not name or "/" in name or "\0" in name:
        return None
    directory = models_directory(os.environ if environ is None else environ)
    candidates = [] if directory is None else [directory / file_name(name, t) for t in _types(type)]
    if type is None:
        candidates.insert(0, embedded_directory() / f"{name}.bin")
        candidates += [] if directory is None else [directory / f"{name}.bin"]
    return next((path for path in candidates if _is_file(path)), None)


def embedded_directory() -> Path:
    """Where the embedded models are."""
    return Path(str(resources.files("asrswitch") / "models"))


def embedded_models() -> list[Path]:
    """The embedded models' files."""
    return sorted(embedded_directory().glob("*.bin"))


def present_models(directory: Path | None) -> list[Path]:
    """The model files in the models directory."""
    return sorted(path for path in directory.glob("*.bin") if _is_file(path)) if directory else []


def _types(type: str | None) -> tuple[str, ...]:
    return TYPES if type is None else (type,)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for a file, for one
        return False
