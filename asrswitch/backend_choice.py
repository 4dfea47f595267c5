"""What ``--backend`` names, and the configuration of the ``command`` backend: read and checked here.

The worker gets the checked configuration as JSON, and the log keeps it with the plan.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from asrswitch.errors import UsageError, printable
from asrswitch.model import Model
from asrswitch.toml_files import Presets, keys_of, mistake, read_toml
from asrswitch.worker.backends import DEFAULT, is_ours, names_of_others, ours
from asrswitch.worker.backends.command import PLACEHOLDER, values_of
from asrswitch.worker.protocol import Capabilities

COMMAND = "command"
OLLAMA = "ollama"
OPENAI = "openai"
SENTENCE_TRANSFORMERS = "sentence-transformers"
TRANSFORMERS = "transformers"
PRESETS = Presets("worker/backends/presets")  # of the command backend
_SERVERS = (OLLAMA, OPENAI)
_TAKES_AUDIO = (DEFAULT, COMMAND, OPENAI)
# What is asked of those that take texts, unless --prompts says it.
_PROMPTS = {OLLAMA: "questions", TRANSFORMERS: "questions", SENTENCE_TRANSFORMERS: "sentences"}
_LARGE_BYTES = 40 << 30  # a server is started anew for larger models
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
    def is_server(self) -> bool:
        """Whether a server holds the models, and not the worker or what it starts."""
        return self.name in _SERVERS

    @property
    def takes_directories(self) -> bool:
        """Whether its models are directories, or names of a hub that its cache has as such."""
        return self.name in (SENTENCE_TRANSFORMERS, TRANSFORMERS)

    @property
    def takes(self) -> Literal["audio", "text"] | None:
        """What it is given; None where only its worker can tell."""
        if self.name in _PROMPTS:
            return "text"
        return "audio" if self.name in _TAKES_AUDIO else None

    @property
    def default_prompts(self) -> str | None:
        """The set of prompts of a backend that takes texts."""
        return _PROMPTS.get(self.name)

    @property
    def restart_above_bytes(self) -> int | None:
        """Where a server that can be restarted is, unless --restart-above says it."""
        can = self.is_server and (self.configuration.get("restart") or self.configuration.get("docker"))
        return _LARGE_BYTES if can else None

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
        presets = ", ".join(PRESETS.names())
        if not given:
            raise UsageError(f"--backend {word}: write command:FILE.toml, or command: and one of {presets}")
        is_preset = not names_a_file(given)
        if is_preset and given not in PRESETS.names():
            raise UsageError(f"--backend {word}: no preset is called {given}; use {presets}, or name a file")
        path = PRESETS.path(given) if is_preset else Path(given)
        return BackendChoice(name, given, _read_command(path, is_preset, environ))
    if is_ours(name):
        return BackendChoice(name, given or None, _configuration(name, given, environ))
    others = names_of_others()
    if name not in others:
        known = ", ".join([*ours(), *others])
        raise UsageError(f"--backend {printable(word)}: no backend is called {name}; there are {known}")
    configuration = read_toml(Path(given), "--backend")[1] if given else {}
    return BackendChoice(name, given or None, configuration)


def _configuration(name: str, given: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """The checked configuration of one of our servers or libraries of models.

    Raises:
        UsageError: it is missing or wrong.
    """
    if name == OLLAMA:
        from asrswitch import ollama

        return ollama.read_configuration(Path(given) if given else None, environ)
    if name == OPENAI:
        from asrswitch import openai_configuration

        return openai_configuration.read_configuration(given, environ)
    from asrswitch import hugging_face

    return hugging_face.read_configuration(Path(given) if given else None)


def models_of_server(choice: BackendChoice, given: Sequence[str]) -> tuple[Model, ...] | None:
    """The models of a server, by its own names; None of another backend.

    Raises:
        UsageError: it does not answer, or has no such model.
    """
    if choice.name == OPENAI:
        from asrswitch import openai_configuration

        return openai_configuration.models_of(given)
    if choice.name != OLLAMA:
        return None
    from asrswitch import ollama

    return ollama.models_of(choice.configuration, given)


def capabilities_of(choice: BackendChoice) -> Capabilities | None:
    """What is known of it before its worker tells; None where only that can."""
    if choice.name == OPENAI:
        from asrswitch.worker.backends import openai

        return openai.capabilities_of(choice.configuration)
    if choice.name == OLLAMA:
        from asrswitch.worker.backends import ollama

        return ollama.capabilities_of(choice.configuration)
    if choice.name != COMMAND:
        return None
    return {
        "streams": choice.configuration["streams"],
        "loads": False,
        "restarts": False,
        "forces_language": bool(choice.placeholders & {"language", "language_code"}),
        "runs_processes": True,
    }


def check_capabilities(
    name: str, can: Capabilities, strategy: str, language: str | None, gives: Literal["audio", "text"]
) -> None:
    """Refuse what a backend cannot do.

    Args:
        name: of the backend.
        can: what it can do.
        strategy: of the run.
        language: to be forced, or None.
        gives: what the run gives it.

    Raises:
        UsageError: the strategy keeps models loaded and the backend does not, or is to end a server that it
            cannot restart; a language is to be forced; it takes something else than it is given.
    """
    if (takes := can.get("takes", "audio")) != gives:
        option = "--prompts" if takes == "text" else "--audio"
        raise UsageError(f"--backend {name}: it takes {takes}, and is given {gives}; give it {option}")
    if strategy == "isolate" and is_server(can) and not can.get("renews"):
        raise UsageError(
            f"--strategy {strategy}: the backend {name} is not told how its server is restarted; add restart "
            "to its configuration, or use reload"
        )
    if strategy in ("restart", "resident") and can.get("keeps"):
        raise UsageError(
            f"--strategy {strategy}: the backend {name} is not told how models are loaded and unloaded; add "
            "load and unload to its configuration, or use reload"
        )
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


def is_server(can: Capabilities) -> bool:
    """Whether other processes than the worker, and what it starts for each turn, hold the models."""
    return can["runs_processes"] and (can["loads"] or can.get("keeps", False))


def strategies_of(choice: BackendChoice, names: Sequence[str]) -> list[str]:
    """Those strategies that a backend can be run with, as far as that is known."""
    can = capabilities_of(choice)
    if can is None:
        return [*names]
    if not can["loads"]:
        names = [name for name in names if name not in ("restart", "resident")]
    if is_server(can) and not can.get("renews"):
        names = [name for name in names if name != "isolate"]
    return [*names]


def names_a_file(word: str) -> bool:
    """Whether a configuration is a file rather than a preset."""
    return "/" in word or word.endswith(".toml")


def _read_command(path: Path, is_preset: bool, environ: Mapping[str, str]) -> dict[str, Any]:
    """The checked configuration, with the program's path, in the form that the worker takes."""
    text, given = read_toml(path, "--backend")
    read = keys_of(path, text, given, CommandConfiguration)
    for key, problem in _problems(read):
        raise mistake(path, text, key, problem)
    program = _find_program(str(read.command[0]), path.absolute().parent, environ)
    if program is None:
        raise mistake(path, text, "command", _not_runnable(str(read.command[0]), path, is_preset))
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
