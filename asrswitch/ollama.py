"""The ``ollama`` backend's configuration, where its server is, and which models that has.

Forms of OLLAMA_HOST, durations and names are those of Ollama's own sources (envconfig/config.go,
api/types.go, types/model/name.go of github.com/ollama/ollama).
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from asrswitch.errors import UsageError, printable
from asrswitch.model import Model
from asrswitch.server_configuration import ServerKeys, of_server, problems_of, url_problem
from asrswitch.toml_files import keys_of, mistake, read_toml
from asrswitch.worker.backends import BackendError
from asrswitch.worker.backends.ollama import AUTO, SET_BY_RUN, full_name, make_server, seconds_of

HOST_VARIABLE = "OLLAMA_HOST"
_DEFAULT_PORTS = {"http": "80", "https": "443"}  # of an address with a scheme
_PORT = "11434"
_LONGEST_NAME = 300  # characters
_LARGEST_BYTES = 1 << 50
_GIVES_TEXT = "completion"  # of what a model can do, by the server's words
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # a server listens on these; nobody connects to them


_Option = bool | int | float | str | list[str]


class Keys(ServerKeys, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of a configuration file."""

    keep_alive: int | float | str = -1  # seconds, or a duration as 5m; below 0 is for ever
    endpoint: Literal["generate", "chat"] = "generate"
    unload_within_s: float = 30.0  # so long a model may be listed after it was asked to go
    distinct_prompts: bool = False  # a number before each, so that no cache has its beginning
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    options: dict[str, _Option] = msgspec.field(default_factory=dict)  # passed on to Ollama


def read_configuration(path: Path | None, environ: Mapping[str, str]) -> dict[str, Any]:
    """The checked configuration, as the worker takes it.

    Args:
        path: the file; None where there is none.
        environ: OLLAMA_HOST says where the server is, unless the file does.

    Raises:
        UsageError: something is wrong, in one line with the file, line and key, or with OLLAMA_HOST.
    """
    keys, url = Keys(), ""
    if path is not None:
        text, given = read_toml(path, "--backend")
        keys = keys_of(path, text, given, Keys)
        url = keys.url or url_of_host(environ.get(HOST_VARIABLE, ""))
        for key, problem in _problems(keys, url):
            raise mistake(path, text, key, problem)
    url = url or url_of_host(environ.get(HOST_VARIABLE, ""))
    return {
        "url": url,
        **of_server(keys),
        "keep_alive": keys.keep_alive,
        "endpoint": keys.endpoint,
        "unload_within_s": keys.unload_within_s,
        "distinct_prompts": keys.distinct_prompts,
        "think": keys.think,
        "options": keys.options,
    }


def url_of_host(host: str) -> str:
    """The address that a value of OLLAMA_HOST stands for: ``[SCHEME://][HOST][:PORT][/PATH]``, or nothing.

    Raises:
        UsageError: it is none.
    """
    word = host.strip().strip("\"'")
    scheme, found, rest = word.partition("://")
    if not found:
        scheme, rest = "http", word
    place, slash, path = rest.partition("/")
    name, port = _split_port(place)
    port = port or (_DEFAULT_PORTS.get(scheme, _PORT) if found else _PORT)
    name = _ANY_ADDRESS.get(name, name) or "127.0.0.1"
    url = f"{scheme}://{f'[{name}]' if ':' in name else name}:{port}{slash}{path}".rstrip("/")
    if url_problem(url):
        raise UsageError(
            printable(f"{HOST_VARIABLE} is {host}: give HOST:PORT or an address as http://127.0.0.1:{_PORT}")
        )
    return url


def models_of(configuration: Mapping[str, Any], given: Sequence[str]) -> tuple[Model, ...]:
    """Models by the server's account: those named, or else all that it runs itself and that give text.

    Args:
        configuration: of ``read_configuration``.
        given: ``[LABEL=]NAME`` of each.

    Raises:
        UsageError: the server does not answer, has no such model or none at all, or a label is used twice.
    """
    url = configuration["url"]
    try:
        server = make_server(configuration)
        told = server.call("GET", "/api/tags", within_s=configuration["answers_within_s"])
    except BackendError as error:
        raise UsageError(f"{error}; {HOST_VARIABLE} or url in the configuration says where it is") from None
    try:
        listed = msgspec.convert(told, _Tags).models
    except msgspec.ValidationError as error:
        raise UsageError(f"{url}/api/tags: this is no list of models ({error}); is it Ollama?") from None
    tags: dict[str, _Tag] = {}
    for tag in listed:
        tags.setdefault(full_name(tag.name), tag)
    if not given:
        ours = [tag for tag in tags.values() if not tag.remote_host and _GIVES_TEXT in tag.capabilities]
        if not ours:
            raise UsageError(f"{url}: the server has no model that gives text; `ollama pull` one")
        return tuple(_model(_label_of(tag.name), tag) for tag in ours)
    models: list[Model] = []
    for word in given:
        label, equals, name = word.rpartition("=")
        if not name or (equals and not label) or not word.isprintable():
            raise UsageError(f"--model {printable(word)}: write NAME or LABEL=NAME, as small=llama3.2:1b")
        if any(model.label == (label or _label_of(name)) for model in models):
            raise UsageError(f"--model {word}: the label is used twice; give each model its own, LABEL=NAME")
        if full_name(name) not in tags:
            names = ", ".join(sorted(_label_of(tag.name) for tag in tags.values())) or "none"
            raise UsageError(
                printable(f"--model {word}: {url} has no model {name}; `ollama pull {name}`, or use: {names}")
            )
        tag = tags[full_name(name)]
        if any(model.path == tag.name for model in models):
            raise UsageError(f"--model {word}: {name} has another label already; the server has one")
        models.append(_model(label or _label_of(name), tag))
    return tuple(models)


class _Tag(msgspec.Struct, frozen=True):
    name: str
    size: int
    digest: str = ""
    remote_host: str = ""  # what another machine runs
    capabilities: tuple[str, ...] = (_GIVES_TEXT,)  # older servers do not tell

    def __post_init__(self) -> None:
        """Refuse what cannot be shown, or be true."""
        for word in (self.name, self.digest):
            if not word.isprintable() or len(word) > _LONGEST_NAME:
                raise ValueError(f"{word[:_LONGEST_NAME]!r} is no name or digest")
        if not self.name:
            raise ValueError("a model has no name")
        if not 0 <= self.size <= _LARGEST_BYTES:
            raise ValueError(f"{self.name} cannot have {self.size} bytes")


class _Tags(msgspec.Struct, frozen=True):
    models: list[_Tag]


def _model(label: str, tag: _Tag) -> Model:
    return Model(label, tag.name, tag.size or None, digest=tag.digest or None)


def _label_of(name: str) -> str:
    return name.removesuffix(":latest")


def _problems(keys: Keys, url: str) -> Iterator[tuple[str, str]]:
    """What is wrong, each with its key; ``url`` is the server's."""
    yield from problems_of(keys)
    keep = keys.keep_alive
    if keep == AUTO and not _is_here(url):
        yield "keep_alive", f"{AUTO} goes by this machine's memory, and {url} is another; give a duration"
    if keep != AUTO:
        seconds = seconds_of(keep)
        if seconds is None:
            yield "keep_alive", f"{keep} is no duration; write seconds as 300, a duration as '5m', or 'auto'"
        elif seconds == 0:
            yield "keep_alive", f"{keep} unloads a model as soon as it is loaded; the run says when it goes"
    if not (math.isfinite(keys.unload_within_s) and keys.unload_within_s > 0):
        yield "unload_within_s", f"{keys.unload_within_s:g}: give a number of seconds above 0"
    for name in keys.options:
        if name in SET_BY_RUN:
            yield name, f"the run sets it; use {SET_BY_RUN[name]}"


def _split_port(place: str) -> tuple[str, str]:
    """Host and port; an IPv6 address may stand alone, in brackets or without."""
    if place.startswith("["):
        name, _, rest = place[1:].partition("]")
        return name, rest.removeprefix(":")
    if place.count(":") > 1:
        return place, ""
    name, _, port = place.partition(":")
    return name, port


def _is_here(url: str) -> bool:
    """Whether an address is this machine's own."""
    name, _ = _split_port(url.partition("://")[2].partition("/")[0])
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
