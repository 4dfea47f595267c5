"""Reading a checkpoint's files; every fault is one line that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from asrswitch.errors import AsrSwitchError


def read_error(path: Path, error: OSError) -> AsrSwitchError:
    """The error to raise when `path` of a checkpoint cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return AsrSwitchError(f"{path}: no such file; the checkpoint is incomplete, download it again")
    return AsrSwitchError(f"{path}: cannot be read: {error.strerror}")


def read_text(path: Path) -> str:
    """The text of the UTF-8 file `path`."""
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise read_error(path, error) from None
    except UnicodeDecodeError as error:
        raise AsrSwitchError(f"{path}: not UTF-8 at byte {error.start}; download it again") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`; keys keep their order."""
    return parse_json_object(read_text(path), path)


def parse_json_object(text: str, path: Path) -> dict[str, Any]:
    """The JSON object `text`, which was found in `path`; keys keep their order.

    Raises AsrSwitchError when it is not JSON, not an object, or holds what cannot be written as JSON in UTF-8
    again: NaN, infinities, halves of surrogate pairs.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise AsrSwitchError(f"{path}: not JSON at {where}: {error.msg}; download it again") from None
    except RecursionError:
        raise AsrSwitchError(f"{path}: JSON nested too deep; download it again") from None
    except UnicodeEncodeError:
        raise AsrSwitchError(f"{path}: JSON text with half a surrogate pair; download it again") from None
    except ValueError as error:  # a refused constant; an integer of thousands of digits
        raise AsrSwitchError(f"{path}: not JSON: {error}; download it again") from None
    if not isinstance(value, dict):
        raise AsrSwitchError(f"{path}: holds a JSON {type(value).__name__}, an object is needed")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
