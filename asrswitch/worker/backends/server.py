"""An HTTP server that holds models: requests to it, its processes, its restart."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from asrswitch.native.listening import listeners
from asrswitch.native.processes import began_at
from asrswitch.worker.backends import BackendError, in_a_line

ANSWERS_WITHIN_S = 60.0
_PAUSE_S = 0.02  # between two looks
_BLOCK_BYTES = 1 << 16
# What is told of a text is some hundred bytes a token: more is no answer, and would fill memory.
_LONGEST_LINE = 4 << 20
_LONGEST_REPLY = 32 << 20
_MOST_LINES = 1 << 20
_LARGEST_NUMBER = 1e15
_NOT_YET = (502, 503, 504)  # a proxy says so before what is behind it is up
_PROC = Path("/proc")


class Server:
    """A server by its address. What fails is a ``BackendError`` in one line."""

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        restart: Sequence[str] = (),
        docker: str = "",
        pid: int | None = None,
        answers_within_s: float = ANSWERS_WITHIN_S,
    ) -> None:
        """Keep what is given; nothing is asked yet.

        Args:
            url: as http://127.0.0.1:11434, with a path that all requests' paths follow, or without.
            key: sent with every request, and in no message: a server may repeat one that it refuses.
            restart: a command that ends the server and starts it again, and itself comes to an end.
            docker: the container that the server runs in; without ``restart`` it is restarted by Docker.
            pid: of the server, where it is not to be looked for by the port.
            answers_within_s: so long a restarted server may take until it answers.
        """
        parts = urlsplit(url)
        self.url = url.rstrip("/")
        self._https = parts.scheme == "https"
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (443 if self._https else 80)
        self._path = parts.path.rstrip("/")
        self._key = key
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._restart = list(restart) or (["docker", "restart", docker] if docker else [])
        self._docker = docker
        self._pid = pid
        self._answers_within_s = answers_within_s
        self._found: dict[int, int] = {}  # its first processes, and when each began
        if pid is not None:
            self._found = _with_beginnings([pid])

    @property
    def can_restart(self) -> bool:
        return bool(self._restart)

    def call(self, method: str, path: str, body: object = None, within_s: float | None = None) -> Any:
        """Send JSON, get JSON; None where the reply is empty.

        Args:
            method: as POST.
            path: below the server's address.
            body: sent as JSON; None for none.
            within_s: so long all of it may take; None where who asks is watched by others.
        """
        deadline = math.inf if within_s is None else time.monotonic() + within_s
        value = None
        try:
            with self.open(method, path, body, within_s=within_s) as response:
                said = self.read(response, path)
            value = value_of(said) if said.strip() else None
        except ValueError:
            raise BackendError(
                f"{self.url}{path}: the reply is no JSON ({self.words_of(said)}); is this the right server?"
            ) from None
        except BackendError:
            if time.monotonic() < deadline:
                raise
        if time.monotonic() >= deadline:  # what was cut off may look like a reply
            raise BackendError(f"{self.url}{path}: no answer within {within_s:g} s; see the server's own log")
        return value

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        within_s: float | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request and give the reply, whose status is 2xx and whose body has not been read.

        Args:
            method: as POST.
            path: below the server's address.
            body: bytes, or an iterator of them, as they are; anything else as JSON; None for none.
            headers: besides the server's.
            within_s: after so long the connection is cut off, and whatever is read from it fails.
        """
        connection = self._connection(within_s)
        sent = {**self._headers, **(headers or {})}
        data: Any = body
        if body is not None and not isinstance(body, bytes | Iterator):
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        with contextlib.ExitStack() as held:
            held.callback(connection.close)
            try:
                if within_s is not None:
                    held.enter_context(_cut_off(connection, within_s))
                with contextlib.suppress(BrokenPipeError):  # it has answered before it had all
                    connection.request(method, self._path + path, data, sent)
                response = held.enter_context(connection.getresponse())
                said = b"" if response.status < 300 else response.read(_BLOCK_BYTES)
            except ConnectionRefusedError:
                raise BackendError(
                    f"{self.url}: no server answers; start it, or correct its address"
                ) from None
            except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: a chunk below 0
                raise self._broken(path, error) from None
            if response.status >= 300:
                problem = f"status {response.status}: {self.message_of(said)}"
                raise BackendError(f"{self.url}{path}: {problem}; see the server's own log")
            yield response

    def read(self, response: http.client.HTTPResponse, path: str) -> bytes:
        """The whole of a reply."""
        blocks: list[bytes] = []
        try:
            while block := response.read(_BLOCK_BYTES):
                blocks.append(block)
                if len(blocks) * _BLOCK_BYTES > _LONGEST_REPLY:
                    raise self._too_long(path, "the reply", _LONGEST_REPLY)
            if response.length:  # of a reply that is read in blocks, http.client itself does not mind
                raise http.client.IncompleteRead(b"", response.length)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self._broken(path, error) from None
        return b"".join(blocks)

    def read_lines(self, response: http.client.HTTPResponse, path: str) -> Iterator[tuple[int, bytes]]:
        """Each line of a reply as it comes, with when it was there; until the server ends the reply."""
        size = 0
        for _ in range(_MOST_LINES):
            try:
                line = response.readline(_LONGEST_LINE + 1)
            except (OSError, ValueError, http.client.HTTPException) as error:
                raise self._broken(path, error) from None
            now = time.monotonic_ns()
            if not line:
                return
            size += len(line)
            if len(line) > _LONGEST_LINE:
                raise self._too_long(path, "a line of the reply", _LONGEST_LINE)
            if size > _LONGEST_REPLY:
                raise self._too_long(path, "the reply", _LONGEST_REPLY)
            yield now, line
        raise BackendError(
            f"{self.url}{path}: the reply has more than {_MOST_LINES:,} lines; is this the right server?"
        )

    def message_of(self, said: bytes) -> str:
        """What a server says of an error, in one of the usual forms."""
        with contextlib.suppress(ValueError):
            told = value_of(said)
            for key in ("error", "message", "detail"):
                if isinstance(told, dict) and told.get(key):
                    told = told[key]
            if isinstance(told, str):
                return self.words_of(told)
        return self.words_of(said)

    def words_of(self, said: bytes | str) -> str:
        """What a server says, in a line that does not have the key."""
        text = said if isinstance(said, str) else said.decode("utf-8", "replace")
        return in_a_line(text.replace(self._key, "(the key)") if self._key else text)

    def processes(self) -> list[int | str]:
        """The server's first processes, or its control group; none where they cannot be found."""
        # To look through all processes takes 20 ms, and one that is still there still listens. What is not
        # there any more may have left its number to another's.
        there = [pid for pid, began in self._found.items() if began_at(pid) == began]
        if self._pid is None and (not there or len(there) < len(self._found)):
            self._found = _with_beginnings(self._look())
            there = [*self._found]
        return [(self._docker and memory_group(pid)) or pid for pid in there]

    def restart(self) -> tuple[int, int]:
        """End the server and start it again; when that began, and when it answered."""
        began = time.monotonic_ns()
        self._found = {}
        words = self._restart
        try:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=2,  # the worker's log
                stderr=2,
                start_new_session=True,  # the server that it starts is to outlive this process
                timeout=self._answers_within_s,
                check=False,
            )
        except OSError as error:
            raise BackendError(f"{words[0]}: cannot be run ({error.strerror}); correct restart") from None
        except subprocess.TimeoutExpired:
            raise BackendError(
                f"{' '.join(words)}: has not come to an end within {self._answers_within_s:g} s; restart is "
                "to be a command that leaves the server running and ends"
            ) from None
        if done.returncode:
            raise BackendError(
                f"{' '.join(words)}: ended with exit code {done.returncode}; the worker's log has what it "
                "said, correct restart"
            )
        self.await_answer()
        return began, time.monotonic_ns()

    def await_answer(self) -> None:
        """Wait until the server answers."""
        deadline = time.monotonic() + self._answers_within_s
        while True:
            connection = self._connection(min(5.0, self._answers_within_s))
            try:
                connection.request("GET", f"{self._path}/", headers=self._headers)
                with connection.getresponse() as response:
                    status = response.status
                if status not in _NOT_YET:
                    return
                problem = f"status {status}"
            except (OSError, http.client.HTTPException) as error:
                problem = str(error) or type(error).__name__
            finally:
                connection.close()
            if time.monotonic() > deadline:
                raise BackendError(
                    f"{self.url}: the restarted server does not answer within {self._answers_within_s:g} s "
                    f"({problem}); see its own log, or raise answers_within_s"
                )
            time.sleep(_PAUSE_S)

    def _connection(self, timeout_s: float | None = None) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._https else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=timeout_s)

    def _broken(self, path: str, error: Exception) -> BackendError:
        what = self.words_of(str(error) or type(error).__name__)
        if isinstance(error, http.client.IncompleteRead | http.client.RemoteDisconnected):
            what = "EOF: the server closed the connection"
        elif isinstance(error, http.client.BadStatusLine):
            return BackendError(
                f"{self.url}{path}: the answer is no HTTP ({what}); is this the right server?"
            )
        return BackendError(f"{self.url}{path}: {what}; see the server's own log")

    def _too_long(self, path: str, what: str, most: int) -> BackendError:
        return BackendError(
            f"{self.url}{path}: {what} is longer than {most >> 20} MiB; is this the right server?"
        )

    def _look(self) -> list[int]:
        return _first_process(self._docker) if self._docker else listeners(self._host, self._port)


@contextlib.contextmanager
def _cut_off(connection: http.client.HTTPConnection, within_s: float) -> Iterator[None]:
    """Connect, and end the connection after so long: its own timeout begins anew with each byte."""
    deadline = time.monotonic() + within_s
    connection.connect()
    ours = connection.sock  # the connection forgets it with a reply that is its last

    def end() -> None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(ours, socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _with_beginnings(pids: Sequence[int]) -> dict[int, int]:
    return {pid: began for pid in pids if (began := began_at(pid)) is not None}


def _first_process(container: str) -> list[int]:
    """The container's first process, by its number on this machine; none where Docker does not tell."""
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        words = ["docker", "inspect", "--format", "{{.State.Pid}}", container]
        said = subprocess.run(words, capture_output=True, timeout=10, check=True).stdout
        if (pid := int(said)) > 0:
            return [pid]
    return []


def memory_group(pid: int, proc: Path = _PROC, cgroups: Path = Path("/sys/fs/cgroup")) -> str | None:
    """The directory of a process's control group (cgroups(7)), where it is not ours and can be read."""
    ours, theirs = _groups(os.getpid(), proc), _groups(pid, proc)
    for controller in ("", "memory"):
        path = theirs.get(controller)
        if path and path != ours.get(controller) and path != "/":
            directory = cgroups / controller / path.lstrip("/")
            if (directory / "cgroup.procs").is_file():
                return str(directory)
    return None


def _groups(pid: int, proc: Path) -> dict[str, str]:
    found = {}
    with contextlib.suppress(OSError):
        for line in (proc / str(pid) / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                found[controller] = path
    return found


def value_of(said: bytes) -> Any:
    """What JSON says.

    Raises:
        ValueError: it is none, or nested deeper than can be read.
    """
    try:
        return json.loads(said)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def number_of(told: object) -> float | None:
    """A number that a server says of itself; None where it is none, or can be no count, size or time."""
    if isinstance(told, bool) or not isinstance(told, int | float) or not 0 <= told <= _LARGEST_NUMBER:
        return None
    return float(told)
