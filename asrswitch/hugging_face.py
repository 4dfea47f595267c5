"""What the backends ``sentence-transformers`` and ``transformers`` are told, checked before a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from asrswitch.errors import UsageError, printable
from asrswitch.toml_files import keys_of, mistake, read_toml

DTYPES = ("auto", "float32", "bfloat16", "float16")
_DEVICE = re.compile(r"cpu|cuda(:\d{1,3})?")


class HuggingFaceConfiguration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of a configuration file."""

    device: str = "cpu"
    dtype: str = "auto"  # as the files have it


def read_configuration(path: Path | None) -> dict[str, Any]:
    """What the worker is told: of a TOML file, or the defaults.

    Raises:
        UsageError: the file cannot be read, or has a key or value that means nothing.
    """
    keys = HuggingFaceConfiguration()
    if path is not None:
        text, given = read_toml(path, "--backend")
        keys = keys_of(path, text, given, HuggingFaceConfiguration)
        if not _DEVICE.fullmatch(keys.device):
            raise mistake(path, text, "device", f"{keys.device} is none; use cpu, cuda or cuda:1")
        if keys.dtype not in DTYPES:
            raise mistake(path, text, "dtype", f"{keys.dtype} is none; use {', '.join(DTYPES)}")
    told: dict[str, Any] = msgspec.to_builtins(keys)
    return told


def find_directory(word: str) -> Path:
    """The directory of a model: as it was given, or the snapshot of a hub's name in huggingface_hub's cache.

    Nothing is fetched: a run is no place for gigabytes that nobody asked for.

    Raises:
        UsageError: there is neither.
    """
    path = Path(word).absolute()
    if path.exists():
        if not path.is_dir():
            raise UsageError(f"{word}: a file; give the model's directory to --model")
        return path
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(word, local_files_only=True)).absolute()
    except HFValidationError:
        raise UsageError(f"{printable(word)}: there is no such directory; check --model") from None
    except LocalEntryNotFoundError:
        raise UsageError(
            f"{word}: there is no such directory, and no such model in the cache of huggingface_hub; "
            f"check --model, or fetch it by `hf download {word}`"
        ) from None
