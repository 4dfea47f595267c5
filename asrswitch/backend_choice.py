"""What ``--backend`` names, and the configuration of the ``command`` backend: read and checked here.

The worker gets the checked configuration as JSON, and the log keeps it with the plan.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from asrswitch.errors import UsageError, printable
from asrswitch.toml_files import line_of, read_toml
from asrswitch.worker.backends import DEFAULT, is_ours, names_of_others
from asrswitch.worker.backends.command import PLACEHOLDER, values_of
from asrswitch.worker.protocol import Capabilities

COMMAND = "command"
_PLACEHOLDERS = tuple(values_of({"model": "/m", "threads": 1, "max_new_tokens": 1}, "/a"))
_MODEL_PLACEHOLDERS = ("model", "model_dir", "model_name")
_OPTIONAL_PLACEHOLDERS = ("language", "language_code", "context")  # a run may give none
_FIGURE_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")


class BackendChoice(msgspec.Struct, frozen=True):
    """A backend by its name, and what it is told."""

    name: str = DEFAULT
    given: str | None = None  # the file or preset that its configuration is of
    configuration: dict[str, Any] = {}

    @property
    def is_default(self) -> bool:
        """Whether it is a library with chatllm.cpp's interface."""
        return self.name == DEFAULT

    @property
    def program(self) -> str | None:
        """The path of the program that the ``command`` backend runs."""
        return self.configuration["program"] if self.name == COMMAND else None

    @property
    def placeholders(self) -> set[str]:
        """What the program's command line is told."""
        words = self.configuration["command"] if self.name == COMMAND else []
        return {name for _, word in _words(words) for name in PLACEHOLDER.findall(word)}


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A number that a program says of itself: its pattern's group, times ``scale``."""

    pattern: str
    scale: float = 1.0


class CommandConfiguration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of a configuration file of the ``command`` backend."""

    command: list[str | list[str]]  # words; a list in it is left out where a value of its was not given
    remove: list[str] = []
    text: str = ""
    streams: bool = False
    figures: dict[str, str | Figure] = {}
    environment: dict[str, str] = {}


def choose_backend(word: str, environ: Mapping[str, str]) -> BackendChoice:
    """Read ``NAME[:CONFIG]``.

    Args:
        word: as it was given.
        environ: has the PATH that a program is looked for in.

    Raises:
        UsageError: no such backend, or a configuration that is wrong, in one line with its file and key.
    """
    name, colon, given = word.partition(":")
    if name == DEFAULT:
        if colon:
            raise UsageError(f"--backend {word}: {name} has no configuration; write --backend {name}")
        return BackendChoice()
    if name == COMMAND:
        presets = ", ".join(preset_names())
        if not given:
            raise UsageError(f"--backend {word}: write command:FILE.toml, or command: and one of {presets}")
        is_preset = not names_a_file(given)
        if is_preset and given not in preset_names():
            raise UsageError(f"--backend {word}: no preset is called {given}; use {presets}, or name a file")
        path = preset_path(given) if is_preset else Path(given)
        return BackendChoice(name, given, _read_command(path, is_preset, environ))
    others = [] if is_ours(name) else names_of_others()
    if name not in others:
        known = ", ".join([DEFAULT, COMMAND, *others])
        raise UsageError(f"--backend {printable(word)}: no backend is called {name}; there are {known}")
    configuration = read_toml(Path(given), "--backend")[1] if given else {}
    return BackendChoice(name, given or None, configuration)


def capabilities_of(choice: BackendChoice) -> Capabilities | None:
    """What is known of it before its worker tells; None of those that other packages bring."""
    if choice.name != COMMAND:
        return None
    return {
        "streams": choice.configuration["streams"],
        "loads": False,
        "restarts": False,
        "forces_language": bool(choice.placeholders & {"language", "language_code"}),
        "runs_processes": True,
    }


def check_capabilities(name: str, can: Capabilities, strategy: str, language: str | None) -> None:
    """Refuse what a backend cannot do.

    Raises:
        UsageError: the strategy keeps models loaded and the backend does not, or a language is to be forced.
    """
    if strategy in ("restart", "resident") and not can["loads"]:
        raise UsageError(
            f"--strategy {strategy}: the backend {name} loads for each transcription, and keeps nothing "
            "loaded; use reload or isolate"
        )
    if strategy == "restart" and not can["restarts"]:
        raise UsageError(
            f"--strategy {strategy}: the backend {name} cannot restart a model; use reload or isolate"
        )
    if language is not None and not can["forces_language"]:
        raise UsageError(f"--language {language}: the backend {name} does not force a language; leave it out")


def names_a_file(word: str) -> bool:
    """Whether a configuration is a file rather than a preset."""
    return "/" in word or word.endswith(".toml")


def preset_names() -> list[str]:
    return sorted(path.stem for path in preset_path("").parent.glob("*.toml"))


def preset_path(name: str) -> Path:
    return Path(str(resources.files("asrswitch") / "worker" / "backends" / "presets" / f"{name}.toml"))


def _read_command(path: Path, is_preset: bool, environ: Mapping[str, str]) -> dict[str, Any]:
    """The checked configuration, with the program's path, in the form that the worker takes."""
    text, given = read_toml(path, "--backend")
    try:
        read = msgspec.convert(given, CommandConfiguration)
    except msgspec.ValidationError as error:
        raise _mistake(path, text, *_plainly(str(error))) from None
    for key, problem in _problems(read):
        raise _mistake(path, text, key, problem)
    program = _find_program(str(read.command[0]), path.absolute().parent, environ)
    if program is None:
        raise _mistake(path, text, "command", _not_runnable(str(read.command[0]), path, is_preset))
    read = msgspec.structs.replace(read, figures={**_figures(read)})
    return {**msgspec.to_builtins(read), "program": program, "directory": str(Path.cwd())}


def _figures(read: CommandConfiguration) -> dict[str, Figure]:
    return {name: Figure(one) if isinstance(one, str) else one for name, one in read.figures.items()}


def _problems(read: CommandConfiguration) -> Iterator[tuple[str, str]]:
    """What is wrong, each with its key."""
    if not read.command or not isinstance(read.command[0], str) or not read.command[0].strip():
        yield "command", "its first word is to be a program"
        return
    if PLACEHOLDER.search(read.command[0]):
        yield "command", f"the program {read.command[0]} must not have a placeholder"
    names = [(group, name) for group, word in _words(read.command) for name in PLACEHOLDER.findall(word)]
    known = ", ".join(f"{{{name}}}" for name in _PLACEHOLDERS)
    for group, name in names:
        if name not in _PLACEHOLDERS:
            yield "command", f"there is no placeholder {{{name}}}; use {known}"
        elif name in _OPTIONAL_PLACEHOLDERS and not group:
            yield "command", f'{{{name}}} may not be given; write its words as a list, ["-x", "{{{name}}}"]'
    used = {name for _, name in names}
    if "audio" not in used:
        yield "command", "it has no {audio}; write it where the audio file's name belongs"
    if not used.intersection(_MODEL_PLACEHOLDERS):
        yield "command", "it has no {model}, {model_dir} or {model_name}; write one where the model belongs"
    for pattern in read.remove:
        yield from _pattern_problems("remove", pattern, groups=None)
    if read.text:
        yield from _pattern_problems("text", read.text, groups=1)
    for name, figure in _figures(read).items():
        if not _FIGURE_NAME.fullmatch(name):
            yield name, "call a figure by lower-case letters, digits and _, as load_ms"
        yield from _pattern_problems(name, figure.pattern, groups=1)
        if not (math.isfinite(figure.scale) and figure.scale > 0):
            yield name, f"its scale is {figure.scale:g}; give a number above 0"
    for name, value in read.environment.items():
        if not name or "=" in name or "\0" in name + value:
            yield "environment", f"{name!r} cannot be a variable"


def _pattern_problems(key: str, pattern: str, groups: int | None) -> Iterator[tuple[str, str]]:
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        yield key, f"{pattern!r} is no pattern ({error})"
        return
    if groups is not None and compiled.groups != groups:
        yield key, f"{pattern!r} has {compiled.groups} groups; put what is wanted, and nothing else, in ( )"


def _words(words: list[str | list[str]]) -> Iterator[tuple[bool, str]]:
    """Each word, and whether it is of a group."""
    for word in words:
        if isinstance(word, str):
            yield False, word
        else:
            yield from ((True, part) for part in word)


def _find_program(word: str, directory: Path, environ: Mapping[str, str]) -> str | None:
    """Its path: of the PATH, or from the file's directory where it is a path itself."""
    if "/" in word:
        path = directory / word
        return str(path) if path.is_file() and os.access(path, os.X_OK) else None
    found = shutil.which(word, path=environ.get("PATH", os.defpath))
    return str(Path(found).absolute()) if found else None


def _not_runnable(word: str, path: Path, is_preset: bool) -> str:
    if "/" in word:
        there = path.absolute().parent / word
        if there.is_file():
            return f"{there} is not executable; `chmod +x` it"
        return f"there is no program {there}; correct its path"
    remedy = "install it" if is_preset else "install it, or write its path"
    return f"no program {word} is in the PATH; {remedy}"


def _mistake(path: Path, text: str, key: str, problem: str) -> UsageError:
    return UsageError(printable(f"{path}{line_of(text, key)}: {f'{key}: ' if key else ''}{problem}"))


def _plainly(message: str) -> tuple[str, str]:
    """Key and problem of a message of msgspec's."""
    if unknown := re.search(r"unknown field `([^`]+)`", message):
        keys = ", ".join(CommandConfiguration.__struct_fields__)
        if "at `" in message:
            keys = "pattern, scale"
        return unknown[1], f"there is no such key; the keys are {keys}"
    if missing := re.search(r"missing required field `([^`]+)`", message):
        return missing[1], "it is missing; see docs/backends.md"
    typed = re.fullmatch(r"(.*) - at `\$\.?([^`.\[]*)(.*)`", message)
    return (typed[2], typed[1]) if typed else ("", message)
