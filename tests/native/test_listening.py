"""Who listens on a port, of real sockets and processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from asrswitch.native.listening import listeners

FORKS = """
import os, socket, sys
listening = socket.socket()
listening.bind(("127.0.0.1", 0))
listening.listen()
if os.fork():
    print(listening.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("family", "bound", "asked"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "127.0.0.1", "localhost"),
        (socket.AF_INET, "0.0.0.0", "127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
    ],
)
def test_this_process_is_found_by_its_port(family: socket.AddressFamily, bound: str, asked: str) -> None:
    with socket.socket(family) as listening:
        try:
            listening.bind((bound, 0))
        except OSError:
            pytest.skip(f"this machine has no address {bound}")
        port = listening.getsockname()[1]
        assert listeners(asked, port) == []  # bound is not listening
        listening.listen()
        assert listeners(asked, port) == [os.getpid()]
        assert listeners(asked, port - 1) == []


def test_one_that_listens_elsewhere_is_not_meant() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.2", 0))
        listening.listen()
        port = listening.getsockname()[1]
        assert listeners("127.0.0.1", port) == []
        assert listeners("192.0.2.1", port) == []  # no address of this machine
        assert listeners("no-such-host.invalid", port) == []


def test_of_forked_servers_the_first_is_named() -> None:
    words = [sys.executable, "-S", "-c", FORKS]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        assert listeners("127.0.0.1", int(server.stdout.readline())) == [server.pid]
        assert server.stdin
        server.stdin.close()
