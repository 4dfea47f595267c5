"""Experiment files: a run's options in TOML, by the names that they have on the command line."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec

from asrswitch.catalogue.naming import looks_like_a_file
from asrswitch.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_Strings = str | list[str]


class Experiment(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True, omit_defaults=True):
    """The keys of an experiment file, absent or as on the command line; paths are relative to the file."""

    iters: Annotated[int | str, msgspec.Meta(description="a number, auto, auto:500 or auto:30m")] = ""
    model: Annotated[_Strings, msgspec.Meta(description="[LABEL=]PATH or a name, or several of these")] = ""
    type: Annotated[str, msgspec.Meta(description="of models given by name, as q4_0, or several")] = ""
    audio: Annotated[_Strings, msgspec.Meta(description="a clip, or several")] = ""
    reference: Annotated[_Strings, msgspec.Meta(description="a text or @FILE for each clip")] = ""
    language: str = ""
    threads: Annotated[int | str, msgspec.Meta(description="a number, or several such as 1,2")] = ""
    context: Annotated[int | str, msgspec.Meta(description="tokens, or several such as 256,1024")] = ""
    max_new_tokens: int = 0
    strategy: Annotated[str, msgspec.Meta(description="reload, restart, resident, isolate, or all")] = ""
    allocator: str = ""
    library: Annotated[_Strings, msgspec.Meta(description="a library, or several to compare")] = ""
    memory_limit: Annotated[str, msgspec.Meta(description="a size such as 300M")] = ""
    restart_above: Annotated[str, msgspec.Meta(description="a size such as 1G")] = ""
    switches_per_hour: float = 0.0
    order: str = ""
    seed: int = 0
    allow_concurrent: bool = False
    preload: bool = False
    lock: bool = False
    trim: str = ""
    sample_hz: float = 0.0
    timeout: float = 0.0
    out: str = ""
    label: Annotated[str, msgspec.Meta(description="what the run is called")] = ""
    metadata: Annotated[dict[str, str], msgspec.Meta(description="what is to be known of it later")] = {}
    check: bool = False


def read_experiment(path: Path) -> dict[str, Any]:
    """The options that a file gives, by their names in Python.

    Raises:
        UsageError: no such file, no TOML, or a key that is unknown or of another type, with its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(f"{path}: cannot be read ({reason}); check --experiment") from None
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error}; correct it there") from None
    try:
        msgspec.convert(given, Experiment)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}{_place(text, str(error))}: {_plainly(str(error))}") from None
    names = {key.replace("-", "_"): value for key, value in given.items()}
    return _from_directory(names, path.absolute().parent)


def experiment_schema() -> dict[str, Any]:
    """The files' JSON schema."""
    return msgspec.json.schema(Experiment)


def _place(text: str, message: str) -> str:
    """``:LINE`` of the key that a message of msgspec's is about."""
    key = re.search(r"unknown field `([^`]+)`|at `\$\.([^`\[.]+)", message)
    name = next((group for group in key.groups() if group), "") if key else ""
    for number, line in enumerate(text.splitlines(), 1):
        if name and re.match(rf"\s*\[?[\"']?{re.escape(name)}[\"']?\s*[=\].]", line):
            return f":{number}"
    return ""


def _plainly(message: str) -> str:
    unknown = re.search(r"unknown field `([^`]+)`", message)
    if unknown:
        keys = ", ".join(field.encode_name for field in msgspec.structs.fields(Experiment))
        return f"unknown key {unknown[1]}; the keys are {keys}"
    typed = re.fullmatch(r"(.*) - at `\$\.([^`]+)`", message)
    return f"{typed[2]}: {typed[1]}" if typed else message


def _from_directory(names: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The same with paths that do not depend on where the command is called."""

    def path(word: str) -> str:
        return str(directory / word)

    def each(value: str | list[str], change: Any) -> list[str]:
        return [change(word) for word in ([value] if isinstance(value, str) else value)]

    def model(word: str) -> str:
        label, equals, file = word.partition("=") if "=" in word else ("", "", word)
        return f"{label}{equals}{path(file) if looks_like_a_file(file) else file}"

    def reference(word: str) -> str:
        return f"@{path(word[1:])}" if word.startswith("@") else word

    changes: dict[str, Any] = {
        "model": lambda value: each(value, model),
        "audio": lambda value: each(value, path),
        "reference": lambda value: each(value, reference),
        "library": lambda value: each(value, path),
        "out": path,
        "metadata": lambda value: [f"{key}={word}" for key, word in value.items()],
        "iters": str,
        "threads": str,
        "context": str,
    }
    return {name: changes[name](value) if name in changes else value for name, value in names.items()}
