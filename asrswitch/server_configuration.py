"""The keys that configuration files of all servers have, checked here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec

from asrswitch.worker.backends.server import ANSWERS_WITHIN_S

_LONGEST_S = 86_400


class ServerKeys(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a server is, and how it is restarted; a backend's own keys come with a class of its own."""

    url: str | None = None  # as http://127.0.0.1:8080
    restart: list[str] = []  # a command that ends the server, starts it again, and itself comes to an end
    docker: str = ""  # the container that the server runs in
    pid: int | None = None  # of the server, where it is not to be looked for by the port
    answers_within_s: float = ANSWERS_WITHIN_S  # a restarted server, and one that is asked for its models


def problems_of(keys: ServerKeys) -> Iterator[tuple[str, str]]:
    """What is wrong, each with its key."""
    if keys.url is not None and (problem := url_problem(keys.url)):
        yield "url", problem
    if keys.restart and not keys.restart[0].strip():
        yield "restart", "its first word is to be a program"
    if keys.pid is not None and not 0 < keys.pid < 1 << 31:
        yield "pid", f"{keys.pid} is no process; leave it out, or give the server's"
    if keys.pid is not None and (keys.restart or keys.docker):
        yield "pid", "a server that is restarted becomes another process; leave pid out"
    if not 0 < keys.answers_within_s <= _LONGEST_S:
        yield (
            "answers_within_s",
            f"{keys.answers_within_s:g}: give a number of seconds above 0 and up to {_LONGEST_S}",
        )


def url_problem(url: str) -> str | None:
    """Why this is no address of a server; None where it is one."""
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_right = is_right and (parts.port is None or 0 < parts.port < 65536)
        (parts.hostname or "").encode("idna")  # a part that is empty or too long cannot be looked up
        parts.path.encode("ascii")
    except ValueError:
        is_right = False
    if not is_right or not url.isprintable() or " " in url:
        return f"{url} is no address; write it as http://127.0.0.1:8080"
    if parts.username or parts.password or parts.query or parts.fragment:
        return f"{url} has more than host, port and path; take the rest out"
    return None


def of_server(keys: ServerKeys) -> dict[str, Any]:
    """The arguments of ``Server`` besides the address."""
    return {
        "restart": keys.restart,
        "docker": keys.docker,
        "pid": keys.pid,
        "answers_within_s": keys.answers_within_s,
    }
