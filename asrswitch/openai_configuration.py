"""The configuration of the ``openai`` backend: a file or a preset, read and checked."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from asrswitch.errors import UsageError, printable
from asrswitch.model import Model
from asrswitch.server_configuration import ServerKeys, of_server, problems_of
from asrswitch.toml_files import Presets, keys_of, mistake, read_toml
from asrswitch.worker.backends.openai import PLACEHOLDER

PRESETS = Presets("worker/backends/servers")
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_FIELD_NAME = re.compile(r"[A-Za-z0-9_.\[\]-]+")
_SET_BY_RUN = {
    "file": "the clip is sent as that",
    "model": "--model says it",
    "stream": "write streams = true",
}
_IN_FIELDS = ("model", "max_new_tokens")


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a server is asked for to load or to unload a model."""

    path: str
    method: str = "POST"
    body: dict[str, Any] | None = None  # sent as JSON
    within_s: float = 60.0  # so long it may take until ``resident`` shows it


class Account(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which models a server says that it holds. Places in the reply are dotted paths."""

    path: str
    models: str = ""  # where the list is; the reply itself
    name: str = ""  # where a model's name is in it; the model itself
    state: str = ""  # where its state is; with none, all that are listed are held
    loaded: list[str] = []  # the states of those that are held
    failed: str = ""  # where it is true of a model whose load has failed


class Keys(ServerKeys, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of a configuration file."""

    preset: str | None = None  # has what the file does not say
    path: str = "/v1/audio/transcriptions"
    streams: bool = False
    api_key_env: str = ""  # the variable that has the key
    fields: dict[str, str | bool | int | float] = msgspec.field(
        default_factory=dict
    )  # besides those that the run sends
    load: Request | None = None
    unload: Request | None = None
    resident: Account | None = None


def read_configuration(word: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """The checked configuration, as the worker takes it.

    Args:
        word: a file or a preset.
        environ: has the variable of the key.

    Raises:
        UsageError: something is wrong, in one line with the file, line and key.
    """
    if not word:
        raise UsageError(f"--backend openai: write openai:FILE.toml, or openai: and one of {_presets()}")
    path = Path(word)
    if "/" not in word and not word.endswith(".toml"):
        if word not in PRESETS.names():
            raise UsageError(
                printable(
                    f"--backend openai:{word}: no preset is called {word}; use {_presets()}, or name a file"
                )
            )
        path = PRESETS.path(word)
    text, given = read_toml(path, "--backend")
    preset = given.get("preset")
    if preset is not None:
        if preset not in PRESETS.names():
            raise mistake(path, text, "preset", f"no preset is called {preset}; use {_presets()}")
        given = {**read_toml(PRESETS.path(preset), "--backend")[1], **given}
    keys = keys_of(path, text, given, Keys)
    for key, problem in _problems(keys, environ):
        raise mistake(path, text, key, problem)
    return {
        "url": keys.url,
        **of_server(keys),
        "path": keys.path,
        "streams": keys.streams,
        "api_key_env": keys.api_key_env,
        "fields": {name: _form_value(value) for name, value in keys.fields.items()},
        "load": msgspec.to_builtins(keys.load),
        "unload": msgspec.to_builtins(keys.unload),
        "resident": msgspec.to_builtins(keys.resident),
    }


def models_of(given: Sequence[str]) -> tuple[Model, ...]:
    """Models by the names that the server has for them, of which it is not asked.

    Args:
        given: ``[LABEL=]NAME`` of each; without a label that is what follows the name's last slash.

    Raises:
        UsageError: none is given, or a label twice.
    """
    if not given:
        raise UsageError("--model is missing: give the server's name of each, as --model small=whisper-1")
    models: list[Model] = []
    for word in given:
        label, equals, name = word.rpartition("=")
        label = label if equals else name.rpartition("/")[2]
        if not name or not label or not word.isprintable():
            raise UsageError(f"--model {printable(word)}: write NAME or LABEL=NAME, as small=whisper-1")
        if any(model.label == label for model in models):
            raise UsageError(f"--model {word}: the label {label} is used twice; give each model its own")
        if any(model.path == name for model in models):
            raise UsageError(f"--model {word}: {name} has another label already; the server has one")
        models.append(Model(label, name))
    return tuple(models)


def _presets() -> str:
    return ", ".join(PRESETS.names())


def _form_value(value: str | bool | int | float) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _problems(keys: Keys, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What is wrong, each with its key."""
    if keys.url is None:
        yield "url", "it is missing; write it as http://127.0.0.1:8080"
    yield from problems_of(keys)
    yield from _path_problems("path", keys.path, ())
    if keys.api_key_env:
        key = environ.get(keys.api_key_env, "")
        if not key:
            yield "api_key_env", f"the variable {keys.api_key_env} is not set; set it to the server's key"
        elif not (key.isascii() and key.isprintable()):
            yield "api_key_env", f"what {keys.api_key_env} has cannot be sent; a key is of printable letters"
    for name, value in keys.fields.items():
        if name in _SET_BY_RUN:
            yield f"fields.{name}", f"the run sends it; {_SET_BY_RUN[name]}"
        elif not _FIELD_NAME.fullmatch(name):
            yield "fields", f"{name!r} cannot be a field's name"
        yield from _placeholder_problems(f"fields.{name}", value, _IN_FIELDS)
    for table, request in (("load", keys.load), ("unload", keys.unload)):
        if request is not None:
            yield from _request_problems(table, request)
    if keys.load is not None and keys.unload is None:
        yield (
            "load",
            "there is no unload, and a model that stays is loaded once; add unload, or leave load out",
        )
    if keys.resident is not None:
        yield from _account_problems(keys.resident)


def _request_problems(table: str, request: Request) -> Iterator[tuple[str, str]]:
    yield from _path_problems(f"{table}.path", request.path, ("model",))
    if request.method not in _METHODS:
        yield f"{table}.method", f"{request.method} is none of {', '.join(_METHODS)}"
    for text in _texts(request.body):
        yield from _placeholder_problems(f"{table}.body", text, ("model",))
    if not (math.isfinite(request.within_s) and request.within_s > 0):
        yield f"{table}.within_s", f"{request.within_s:g}: give a number of seconds above 0"


def _account_problems(account: Account) -> Iterator[tuple[str, str]]:
    yield from _path_problems("resident.path", account.path, ())
    if bool(account.state) != bool(account.loaded):
        yield "resident", "state and loaded belong together: where a state is, and which mean that it is held"
    for key in ("models", "name", "state", "failed"):
        place = getattr(account, key)
        if place and not all(place.split(".")):
            yield f"resident.{key}", f"{place} is no dotted path; write it as status.value"


def _path_problems(key: str, path: str, known: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        yield key, f"{path} is no path on a server; it begins with / and has no spaces"
    yield from _placeholder_problems(key, path, known)


def _placeholder_problems(key: str, text: object, known: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name in PLACEHOLDER.findall(text) if isinstance(text, str) else ():
        if name not in known:
            use = f"use {', '.join(f'{{{name}}}' for name in known)}" if known else "it can have none"
            yield key, f"there is no placeholder {{{name}}}; {use}"


def _texts(value: object) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)
