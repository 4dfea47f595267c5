"""An HTTP server that holds models: requests to it, its processes, its restart."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from asrswitch.native.listening import listeners
from asrswitch.native.processes import began_at
from asrswitch.worker.backends import BackendError

_PAUSE_S = 0.02  # between two looks
_LONGEST_WORDS = 300
_NOT_YET = (502, 503, 504)  # a proxy says so before what is behind it is up
_PROC = Path("/proc")


class Server:
    """A server by its address. What fails is a ``BackendError`` in one line."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        restart: Sequence[str] = (),
        docker: str = "",
        pid: int | None = None,
        answers_within_s: float = 60.0,
        probe: str = "/",
    ) -> None:
        """Keep what is given; nothing is asked yet.

        Args:
            url: as http://127.0.0.1:11434, with a path that all requests' paths follow, or without.
            headers: of every request.
            restart: a command that ends the server and starts it again, and itself comes to an end.
            docker: the container that the server runs in; without ``restart`` it is restarted by Docker.
            pid: of the server, where it is not to be looked for by the port.
            answers_within_s: so long a restarted server may take until it answers.
            probe: the path that is asked for then.
        """
        parts = urlsplit(url)
        self.url = url.rstrip("/")
        self._https = parts.scheme == "https"
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (443 if self._https else 80)
        self._path = parts.path.rstrip("/")
        self._headers = {**(headers or {})}
        self._restart = list(restart) or (["docker", "restart", docker] if docker else [])
        self._docker = docker
        self._pid = pid
        self._answers_within_s = answers_within_s
        self._probe = probe
        self._found: dict[int, int | None] = {}  # who listens, and when each began
        self._container: tuple[int, ...] | None = None  # its first process, once it was asked for

    @property
    def can_restart(self) -> bool:
        return bool(self._restart)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send JSON, get JSON; None where the reply is empty."""
        with self.open(method, path, body) as response:
            said = self.read(response, path)
        try:
            return json.loads(said) if said.strip() else None
        except ValueError:
            raise BackendError(
                f"{self.url}{path}: the reply is no JSON ({shortened(said)}); is this the right server?"
            ) from None

    @contextlib.contextmanager
    def open(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request and give the reply, whose status is 2xx and whose body has not been read.

        Args:
            method: as POST.
            path: below the server's address.
            body: bytes, or an iterator of them, as they are; anything else as JSON; None for none.
            headers: besides the server's.
        """
        connection = self._connection()
        sent = {**self._headers, **(headers or {})}
        data: Any = body
        if body is not None and not isinstance(body, bytes | Iterator):
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        with contextlib.ExitStack() as held:
            held.callback(connection.close)
            try:
                with contextlib.suppress(BrokenPipeError):  # it has answered before it had all
                    connection.request(method, self._path + path, data, sent)
                response = held.enter_context(connection.getresponse())
                said = b"" if response.status < 300 else response.read(1 << 16)
            except ConnectionRefusedError:
                raise BackendError(
                    f"{self.url}: no server answers; start it, or correct its address"
                ) from None
            except (OSError, http.client.HTTPException) as error:
                raise self._broken(path, error) from None
            if response.status >= 300:
                problem = f"status {response.status}: {message_of(said)}"
                raise BackendError(f"{self.url}{path}: {problem}; see the server's own log")
            yield response

    def read(self, response: http.client.HTTPResponse, path: str) -> bytes:
        """The whole of a reply."""
        try:
            return response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(path, error) from None

    def read_lines(self, response: http.client.HTTPResponse, path: str) -> Iterator[tuple[int, bytes]]:
        """Each line of a reply as it comes, with when it was there; until the server ends the reply."""
        while True:
            try:
                line = response.readline()
            except (OSError, http.client.HTTPException) as error:
                raise self._broken(path, error) from None
            now = time.monotonic_ns()
            if not line:
                return
            yield now, line

    def processes(self) -> list[int | str]:
        """The server's first processes, or its control group; none where they cannot be found."""
        if self._pid is not None:
            return [self._pid]
        if self._docker:
            return self._of_container()
        # To look through all processes takes 20 ms, and one that is still there still listens.
        if not self._found or any(began_at(pid) != began for pid, began in self._found.items()):
            self._found = {pid: began_at(pid) for pid in listeners(self._host, self._port)}
        return [*self._found]

    def restart(self) -> tuple[int, int]:
        """End the server and start it again; when that began, and when it answered."""
        began = time.monotonic_ns()
        self._container, self._found = None, {}
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
                connection.request("GET", self._path + self._probe, headers=self._headers)
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
        what = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, http.client.IncompleteRead | http.client.RemoteDisconnected):
            what = "EOF: the server closed the connection"
        elif isinstance(error, http.client.BadStatusLine):
            return BackendError(
                f"{self.url}{path}: the answer is no HTTP ({what}); is this the right server?"
            )
        return BackendError(f"{self.url}{path}: {what}; see the server's own log")

    def _of_container(self) -> list[int | str]:
        if self._container is None:
            self._container = _first_process(self._docker)
        found: list[int | str] = []
        for pid in self._container:
            found.append(memory_group(pid) or pid)
        return found


def _first_process(container: str) -> tuple[int, ...]:
    """The container's first process, by its number on this machine; none where Docker does not tell."""
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        words = ["docker", "inspect", "--format", "{{.State.Pid}}", container]
        said = subprocess.run(words, capture_output=True, timeout=10, check=True).stdout
        if (pid := int(said)) > 0:
            return (pid,)
    return ()


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


def message_of(said: bytes) -> str:
    """What a server says of an error, in one of the usual forms."""
    with contextlib.suppress(ValueError):
        told = json.loads(said)
        for key in ("error", "message", "detail"):
            if isinstance(told, dict) and told.get(key):
                told = told[key]
        if isinstance(told, str):
            return shortened(told.encode())
    return shortened(said)


def shortened(said: bytes) -> str:
    words = " ".join(said.decode("utf-8", "replace").split())
    return words[:_LONGEST_WORDS] or "nothing"
