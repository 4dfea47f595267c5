"""Requests to a server that answers as it is told, and its restart by a command."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrswitch.worker.backends import BackendError
from asrswitch.worker.backends.server import Server, memory_group, number_of
from support import wait_for

Answering = Callable[..., tuple[str, list[bytes]]]


@pytest.fixture
def answering() -> Iterator[Answering]:
    """Servers that send these bytes to who connects, and close: their address, and what they heard."""
    with contextlib.ExitStack() as stack:

        def start(answer: bytes) -> tuple[str, list[bytes]]:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            heard: list[bytes] = []

            def serve() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        with listening.accept()[0] as connection:
                            heard.append(request(connection))
                            connection.sendall(answer)

            threading.Thread(target=serve, daemon=True).start()
            return f"http://127.0.0.1:{listening.getsockname()[1]}", heard

        yield start


def request(connection: socket.socket) -> bytes:
    """All of a request, head and body, or what came of it before who asks went away."""
    said = b""
    while b"\r\n\r\n" not in said and (piece := connection.recv(1 << 16)):
        said += piece
    length = re.search(rb"Content-Length: (\d+)", said)
    while length and len(said.partition(b"\r\n\r\n")[2]) < int(length[1]):
        if not (piece := connection.recv(1 << 16)):
            break
        said += piece
    return said


def http(body: bytes, status: str = "200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n\r\n".encode() + body


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_json_goes_there_and_back(answering: Answering) -> None:
    url, heard = answering(http(b'{"models": []}'))
    server = Server(f"{url}/below/", key="secret")
    assert server.call("POST", "/load", {"model": "a"}) == {"models": []}
    head, _, body = heard[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /below/load HTTP/1.1")
    assert b"Authorization: Bearer secret" in head and b"Content-Type: application/json" in head
    assert body == b'{"model": "a"}'
    assert Server(answering(http(b""))[0]).call("GET", "/") is None


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "/x: EOF: the server closed the connection"),
        (http(b"{}", length=100), "/x: EOF: the server closed the connection"),
        (http(b"<html>"), "/x: the reply is no JSON (<html>); is this the right server?"),
        (http(b'{"error": "no such model"}', "404 Not Found"), "/x: status 404: no such model; see"),
        (http(b'{"error": {"message": "boom"}}', "500 Oh"), "/x: status 500: boom; see"),
        (http(b'{"detail": "busy"}', "503 Oh"), "/x: status 503: busy; see"),
        (http(b"line\nline", "500 Oh"), "/x: status 500: line line; see"),
        (http(b"", "502 Oh"), "/x: status 502: nothing; see"),
        (http(b"[" * 200_000), "/x: the reply is no JSON ([[["),
        (http(b"[" * 60_000, "500 Oh"), "/x: status 500: [[["),
        (http(b"1" * (33 << 20)), "/x: the reply is longer than 32 MiB; is this the right server?"),
        (CHUNKED + b"-5\r\nhello\r\n", "/x: "),
        (b"SSH-2.0-OpenSSH\r\n", "/x: the answer is no HTTP (SSH-2.0-OpenSSH); is this the right server?"),
    ],
)
def test_what_goes_wrong_is_one_line(answer: bytes, says: str, answering: Answering) -> None:
    url, _ = answering(answer)
    with pytest.raises(BackendError, match=re.escape(says)) as raised:
        Server(url).call("GET", "/x")
    assert str(raised.value).startswith(url) and "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (b"x" * (5 << 20), "/x: a line of the reply is longer than 4 MiB; is this the right server?"),
        ((b"x" * (1 << 20) + b"\n") * 33, "/x: the reply is longer than 32 MiB; is this"),
        (b"\n" * ((1 << 20) + 1), "/x: the reply has more than 1,048,576 lines; is this the right server?"),
    ],
)
def test_a_stream_has_its_bounds(lines: bytes, says: str, answering: Answering) -> None:
    server = Server(answering(http(lines))[0])
    with server.open("GET", "/x") as response, pytest.raises(BackendError, match=re.escape(says)):
        for _ in server.read_lines(response, "/x"):
            pass


@pytest.mark.parametrize(
    "head", [b"", b"HTTP/1.1 200 OK\r\n", http(b"[", length=99), http(b"[", length=99)[:-1]]
)
def test_one_that_is_asked_in_time_is_cut_off_however_slowly_it_answers(head: bytes) -> None:
    over = threading.Event()

    def serve() -> None:
        with listening.accept()[0] as connection, contextlib.suppress(OSError):
            request(connection)
            connection.sendall(head)
            while not over.wait(0.05):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        began = time.monotonic()
        with pytest.raises(BackendError, match=r"/x: no answer within 0\.3 s; see the server's own log"):
            Server(f"http://127.0.0.1:{listening.getsockname()[1]}").call("GET", "/x", within_s=0.3)
        assert 0.3 <= time.monotonic() - began < 30
        over.set()
        thread.join()


def test_a_key_is_nowhere_in_what_a_server_says_not_even_its_beginning(answering: Answering) -> None:
    key = "sk-" + "K" * 40
    for said in (b'{"error": "%s"}' % (b"x" * 280 + key.encode()), b"x" * 280 + key.encode()):
        with pytest.raises(BackendError) as raised:
            Server(answering(http(said, "401 No"))[0], key=key).call("GET", "/x")
        assert "xx(the key)" in str(raised.value) and "sk-" not in str(raised.value)
    with pytest.raises(BackendError) as raised:
        Server(answering(f"no HTTP {key}\r\n".encode())[0], key=key).call("GET", "/x")
    assert "no HTTP (the key)" in str(raised.value)


@given(st.one_of(st.none(), st.booleans(), st.text(max_size=3), st.integers(), st.floats()))
def test_a_number_is_one_that_can_be_a_count_a_size_or_a_time(told: object) -> None:
    right = isinstance(told, int | float) and not isinstance(told, bool) and 0 <= told <= 1e15
    assert number_of(told) == (told if right else None)


def test_a_number_of_any_length_is_no_float() -> None:
    assert number_of(10**400) is None and number_of(10**15) == 1e15


def test_a_server_that_is_not_there(answering: Answering) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(BackendError, match="no server answers; start it, or correct its address"):
        Server(url).call("GET", "/")


def test_its_process_is_who_listens_unless_it_is_said(answering: Answering) -> None:
    url, _ = answering(http(b""))
    assert Server(url).processes() == [os.getpid()]
    assert Server(url, pid=1).processes() == [1]
    assert Server("http://127.0.0.1:1").processes() == []


def test_a_number_that_became_another_processs_is_not_the_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\ncat {tmp_path}/pid\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    first, second = (subprocess.Popen(["sleep", "30"]) for _ in range(2))
    try:
        given = Server("http://127.0.0.1:1", pid=first.pid)
        container = Server("http://127.0.0.1:1", docker="llm")
        assert given.processes() == [first.pid]
        assert container.processes() == []  # Docker does not tell
        (tmp_path / "pid").write_text(str(first.pid))
        assert container.processes() == [first.pid], "it is asked again"
        (tmp_path / "pid").write_text(str(second.pid))
        assert container.processes() == [first.pid], "and then no more"
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert given.processes() == []
        assert container.processes() == [second.pid]
    finally:
        for process in (first, second):
            process.kill()
            process.wait()


def test_a_restart_is_over_once_the_server_answers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = tmp_path / "server.py"
    program.write_text(
        "import http.server, os, time\n"
        "if os.fork():\n    os._exit(0)\n"
        "time.sleep(0.2)\n"
        "handler = http.server.SimpleHTTPRequestHandler\n"
        f"http.server.HTTPServer(('127.0.0.1', {port}), handler).serve_forever()\n"
    )
    server = Server(f"http://127.0.0.1:{port}", restart=[sys.executable, "-S", str(program)])
    assert server.can_restart
    began, ended = server.restart()
    assert ended - began >= 200e6
    (pid,) = server.processes()
    assert isinstance(pid, int) and pid != os.getpid()
    os.kill(pid, 9)
    wait_for(lambda: not server.processes())


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("/no/such/program", "/no/such/program: cannot be run (No such file or directory); correct restart"),
        ("sh -c 'exit 3'", "sh -c exit 3: ended with exit code 3"),
        ("sleep 30", "sleep 30: has not come to an end within 0.3 s"),
        ("true", "the restarted server does not answer within 0.3 s"),
    ],
)
def test_a_restart_that_fails_says_why(command: str, says: str) -> None:
    server = Server("http://127.0.0.1:1", restart=shlex.split(command), answers_within_s=0.3)
    with pytest.raises(BackendError, match=re.escape(says)):
        server.restart()


def test_a_container_is_its_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\n[ $4 = llm ] && echo {os.getppid()}\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    server = Server("http://127.0.0.1:1", docker="llm")
    assert server.can_restart
    assert server.processes() == [os.getppid()]  # of our own group: its processes are not all the container's
    assert Server("http://127.0.0.1:1", docker="none").processes() == []


@pytest.mark.parametrize(("line", "directory"), [("0::/box", "box"), ("5:cpu,memory:/box", "memory/box")])
def test_a_control_group_is_found_where_it_is_another_than_ours(
    line: str, directory: str, tmp_path: Path
) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    for pid, said in ((os.getpid(), line.replace("box", "other")), (7, line)):
        (proc / str(pid)).mkdir(parents=True)
        (proc / str(pid) / "cgroup").write_text(f"1:cpuset:/box\n{said}\n")
    assert memory_group(7, proc, groups) is None
    (groups / directory).mkdir(parents=True)
    (groups / directory / "cgroup.procs").write_text("7\n")
    assert memory_group(7, proc, groups) == str(groups / directory)
    (proc / str(os.getpid()) / "cgroup").write_text(f"{line}\n")
    assert memory_group(7, proc, groups) is None
