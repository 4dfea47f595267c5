"""The user's cache directory (XDG Base Directory Specification)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def cache_directory(environ: Mapping[str, str]) -> Path | None:
    """``$XDG_CACHE_HOME/asrswitch``, by default ``~/.cache/asrswitch``; None where there is no home."""
    given = environ.get("XDG_CACHE_HOME", "")
    if Path(given).is_absolute():  # the specification has other paths ignored
        return Path(given, "asrswitch")
    home = environ.get("HOME", "")
    return Path(home, ".cache", "asrswitch") if Path(home).is_absolute() else None
