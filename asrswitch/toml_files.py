"""TOML files that users write: read, and where in them a mistake is."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from asrswitch.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path, option: str) -> tuple[str, dict[str, Any]]:
    """A file's text, and what it says.

    Raises:
        UsageError: no such file, or no TOML; the message names the option that named it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(f"{path}: cannot be read ({reason}); check {option}") from None
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error}; correct it there") from None


def line_of(text: str, key: str) -> str:
    """``:LINE`` of the first key or table of that name; nothing where there is none."""
    for number, line in enumerate(text.splitlines(), 1):
        if key and re.match(rf"\s*\[?[\"']?{re.escape(key)}[\"']?\s*[=\].]", line):
            return f":{number}"
    return ""
