"""Experiment files: a run's options in TOML, by the names that they have on the command line."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from asrswitch.backend_choice import names_a_file
from asrswitch.catalogue.naming import looks_like_a_file
from asrswitch.errors import UsageError
from asrswitch.rules.thresholds import Thresholds, misordered
from asrswitch.toml_files import line_of, read_toml

_Strings = str | list[str]
_Numbers = int | str | list[int | str]
_OPTION = re.compile(r"--([a-z][a-z-]*)")
# What msgspec calls them.
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text in quotes",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}

if TYPE_CHECKING:
    Rules = Thresholds
else:  # the same fields by the names that they have in a file
    Rules = msgspec.defstruct(
        "Rules",
        [(field.name, field.type, field.default) for field in msgspec.structs.fields(Thresholds)],
        rename="kebab",
        forbid_unknown_fields=True,
        frozen=True,
    )


class Experiment(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True, omit_defaults=True):
    """The keys of an experiment file, absent or as on the command line; paths are relative to the file."""

    iters: Annotated[int | str, msgspec.Meta(description="a number, auto, auto:500 or auto:30m")] = ""
    model: Annotated[_Strings, msgspec.Meta(description="[LABEL=]PATH or a name, or several of these")] = ""
    type: Annotated[_Strings, msgspec.Meta(description="of models given by name, as q4_0, or several")] = ""
    audio: Annotated[_Strings, msgspec.Meta(description="a clip, or several")] = ""
    prompts: Annotated[str, msgspec.Meta(description="questions, sentences, or a file")] = ""
    reference: Annotated[_Strings, msgspec.Meta(description="a text or @FILE for each clip")] = ""
    language: str = ""
    threads: Annotated[_Numbers, msgspec.Meta(description="a number, or several such as 1,2")] = ""
    context: Annotated[_Numbers, msgspec.Meta(description="tokens, or several such as 256,1024")] = ""
    max_new_tokens: int = 0
    strategy: Annotated[_Strings, msgspec.Meta(description="reload, restart, resident, isolate, or all")] = ""
    allocator: _Strings = ""
    backend: Annotated[str, msgspec.Meta(description="NAME, NAME:FILE.toml or NAME:PRESET")] = ""
    library: Annotated[_Strings, msgspec.Meta(description="a library, or several to compare")] = ""
    memory_limit: Annotated[str, msgspec.Meta(description="a size such as 300M")] = ""
    restart_above: Annotated[_Strings, msgspec.Meta(description="a size such as 1G, or never")] = ""
    switches_per_hour: float = 0.0
    order: str = ""
    seed: int = 0
    allow_concurrent: bool = False
    preload: bool = False
    lock: bool = False
    cache: Annotated[_Strings, msgspec.Meta(description="cold, warm, as-is, or several of these")] = ""
    trim: str = ""
    sample_hz: float = 0.0
    timeout: float = 0.0
    out: str = ""
    label: Annotated[str, msgspec.Meta(description="what the run is called")] = ""
    metadata: Annotated[dict[str, str], msgspec.Meta(description="what is to be known of it later")] = {}
    rules: Annotated[Rules, msgspec.Meta(description="thresholds of the recommendations: rules.md")] = Rules()
    check: bool = False


def read_experiment(path: Path) -> dict[str, Any]:
    """The options that a file gives, by their names in Python.

    Raises:
        UsageError: no such file, no TOML, or a key that is unknown or of another type, with its line.
    """
    text, given = read_toml(path, "--experiment")
    try:
        read = msgspec.convert(given, Experiment)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}{_place(text, str(error))}: {_plainly(str(error))}") from None
    names = {key.replace("-", "_"): value for key, value in given.items()}
    if "rules" in names:
        names["rules"] = _thresholds(path, text, read.rules)
    return _from_directory(names, path.absolute().parent)


def placed(error: UsageError, path: Path, names: Collection[str]) -> UsageError:
    """The same mistake with its place, where it is one of the file and not of the command line.

    Args:
        error: says `--key` of what is wrong.
        path: of the file.
        names: what only the file gives, by the names in Python.
    """
    said = [key for key in _OPTION.findall(str(error)) if key.replace("-", "_") in names]
    if not said:
        return error
    text, _ = read_toml(path, "--experiment")
    told = _OPTION.sub(lambda found: found[1] if found[1] in said else found[0], str(error))
    return UsageError(f"{path}{line_of(text, said[0])}: {told}")


def experiment_schema() -> dict[str, Any]:
    """The files' JSON schema."""
    return msgspec.json.schema(Experiment)


def _place(text: str, message: str) -> str:
    """``:LINE`` of the key that a message of msgspec's is about."""
    key = re.search(r"unknown field `([^`]+)`|at `\$\.(?:rules\.)?([^`\[.]+)", message)
    return line_of(text, next((group for group in key.groups() if group), "")) if key else ""


def _thresholds(path: Path, text: str, rules: Rules) -> Thresholds:
    """What a file's table of rules says, with the defaults of what it does not.

    Raises:
        UsageError: thresholds that must rise do not.
    """
    found = Thresholds(**msgspec.structs.asdict(rules))
    if pair := misordered(found):
        lower, upper = (name.replace("_", "-") for name in pair)
        values = [f"{getattr(found, name):g}" for name in pair]
        where = line_of(text, lower) or line_of(text, upper)
        said = f"rules.{lower} is {values[0]} and rules.{upper} {values[1]}"
        raise UsageError(f"{path}{where}: {said}; the first must not be the higher")
    return found


def _plainly(message: str) -> str:
    unknown = re.search(r"unknown field `([^`]+)`(.*`\$\.rules`)?", message)
    if unknown:
        kind = Rules if unknown[2] else Experiment
        keys = ", ".join(field.encode_name for field in msgspec.structs.fields(kind))
        where = " of rules" if unknown[2] else ""
        return f"unknown key {unknown[1]}{where}; the keys are {keys}"
    typed = re.fullmatch(r"Expected `([^`]+)`, got `([^`]+)` - at `\$\.([^`]+)`", message)
    bounded = re.fullmatch(r"Expected `float` ([<>]=?) (\S+) - at `\$\.([^`]+)`", message)
    if bounded:
        return f"{bounded[3]}: is out of range; give a number {bounded[1]} {float(bounded[2]):g}"
    if not typed:
        return message
    due, found = ([_KINDS.get(kind, kind) for kind in kinds.split(" | ")] for kinds in typed.groups()[:2])
    return f"{typed[3]}: is {found[0]}; give {' or '.join(due)}"


def _from_directory(names: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The same with paths that do not depend on where the command is called."""

    def path(word: str) -> str:
        return str(directory / word)

    def each(value: str | list[str], change: Any) -> list[str]:
        return [change(word) for word in ([value] if isinstance(value, str) else value)]

    def model(word: str) -> str:
        label, equals, file = word.partition("=") if "=" in word else ("", "", word)
        is_path = looks_like_a_file(file) or (directory / file).exists()
        return f"{label}{equals}{path(file) if is_path else file}"

    def backend(word: str) -> str:
        name, colon, file = word.partition(":")
        return f"{name}{colon}{path(file) if names_a_file(file) else file}"

    def listed(value: int | str | list[int | str]) -> str:
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)

    def reference(word: str) -> str:
        return f"@{path(word[1:])}" if word.startswith("@") else word

    changes: dict[str, Any] = {
        "model": lambda value: each(value, model),
        "audio": lambda value: each(value, path),
        "reference": lambda value: each(value, reference),
        "backend": backend,
        "prompts": lambda word: path(word) if names_a_file(word) else word,
        "library": lambda value: each(value, path),
        "out": path,
        "metadata": lambda value: [f"{key}={word}" for key, word in value.items()],
        "iters": str,
    } | dict.fromkeys(
        ("type", "threads", "context", "strategy", "allocator", "cache", "restart_above"), listed
    )
    return {name: changes[name](value) if name in changes else value for name, value in names.items()}
