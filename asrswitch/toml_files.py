"""TOML files that users write: read, and where in them a mistake is."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from asrswitch.errors import UsageError, printable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_Keys = TypeVar("_Keys", bound=msgspec.Struct)


@dataclass(frozen=True)
class Presets:
    """Files that come with the package, called by what stands before their ``.toml``."""

    directory: str  # in the package

    def path(self, name: str) -> Path:
        """The file of a name, whether it is there or not."""
        return Path(str(resources.files("asrswitch"))) / self.directory / f"{name}.toml"

    def names(self) -> list[str]:
        """All of them, in order."""
        return sorted(path.stem for path in self.path("").parent.glob("*.toml"))


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
    except RecursionError:
        raise UsageError(f"{path}: nested too deep; correct it there") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error}; correct it there") from None
    except ValueError:  # of int(), which takes no more digits than sys.get_int_max_str_digits()
        raise UsageError(f"{path}: a number has too many digits; correct it there") from None


def line_of(text: str, key: str) -> str:
    """``:LINE`` of the first key or table of that name; nothing where there is none.

    Of TABLE.KEY it is the key's in that table, or the table's where that has no such line.
    """
    table, dot, inner = key.partition(".")
    begins, found = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        if found and re.match(r"\s*\[", line):
            break
        if key and re.match(rf"\s*\[?[\"']?{re.escape(inner if begins else table)}[\"']?\s*[=\].]", line):
            found = f":{number}"
            if begins or not dot:
                break
            begins = number
    return found


def mistake(path: Path, text: str, key: str, problem: str) -> UsageError:
    """What is wrong with a key, in one line with the file and the line."""
    return UsageError(printable(f"{path}{line_of(text, key)}: {f'{key}: ' if key else ''}{problem}"))


def keys_of(path: Path, text: str, given: dict[str, Any], kind: type[_Keys]) -> _Keys:
    """What a file says, as the keys of a struct that forbids others.

    Raises:
        UsageError: a key that there is not, one that is missing, or a value of another type.
    """
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        said = str(error)
    if inside := re.search(r"(unknown|missing required) field `([^`]+)` - at `\$\.(\w+)`", said):
        problem = "there is no such key" if inside[1] == "unknown" else "it is missing"
        raise mistake(path, text, f"{inside[3]}.{inside[2]}", problem)
    if unknown := re.search(r"unknown field `([^`]+)`", said):
        keys = "" if "at `" in said else f"; the keys are {', '.join(kind.__struct_fields__)}"
        raise mistake(path, text, unknown[1], f"there is no such key{keys}")
    if missing := re.search(r"missing required field `([^`]+)`", said):
        raise mistake(path, text, missing[1], "it is missing; see docs/backends.md")
    typed = re.fullmatch(r"(.*) - at `\$\.?(\w*(?:\.\w+)?)(.*)`", said)
    raise mistake(path, text, typed[2] if typed else "", typed[1] if typed else said)
