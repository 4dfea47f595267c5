"""The runner's end of a worker: starting it, asking it, noticing how it ended."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from asrswitch.errors import AsrSwitchError, LibraryError, printable
from asrswitch.memory.cgroup import LimitedGroup
from asrswitch.worker.protocol import Command, Error, Hello, Malloc

if TYPE_CHECKING:
    from typing_extensions import Self

_PACKAGE_ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 120.0
_EXIT_GRACE_S = 5.0
_LONGEST_LAST_WORDS = 65536  # bytes
_Reply = TypeVar("_Reply")


class WorkerError(AsrSwitchError):
    """The command failed; the worker is still there. ``malloc`` is its heap after the failure."""

    def __init__(self, message: str, malloc: Malloc | None = None) -> None:
        super().__init__(message)
        self.malloc = malloc


class WorkerLostError(AsrSwitchError):
    """The worker ended by itself or by another's hand."""

    def __init__(self, returncode: int, said: bytes = b"") -> None:
        self.said = said  # the end of what it wrote to its log since its last command
        self.signal = signal.Signals(-returncode).name if returncode < 0 else None
        self.returncode = returncode if returncode >= 0 else None
        how = f"was killed by {self.signal}" if self.signal else f"ended with exit code {returncode}"
        super().__init__(f"the worker {how}")


class WorkerTimeoutError(AsrSwitchError):
    """The worker did not answer in time, and was killed."""


class StoppedError(AsrSwitchError):
    """The user, or the system, asked the run to stop."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number).name
        self.exit_code = 128 + number  # as a shell reports it
        super().__init__(f"stopped by {self.signal}")


class StopSignals:
    """While entered, SIGINT, SIGTERM and SIGHUP are noted and seen at the next wait, never mid-record.

    One that is ignored stays so: nohup asks for it.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, signal.Handlers | int | None] = {}

    def __enter__(self) -> Self:
        self.wakeup, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in self._SIGNALS:
            if signal.getsignal(number) is signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, self._note)  # type: ignore[assignment]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.wakeup)
        os.close(self._write)

    def check(self) -> None:
        """Raise ``StoppedError`` if a signal has come."""
        if self._received is not None:
            raise StoppedError(self._received)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._received = self._received or number
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"!")


def worker_program(library: str) -> list[str]:
    """The command line of a worker with a library of chatllm.cpp's interface."""
    return [sys.executable, "-m", "asrswitch.worker", library]


def backend_program(name: str, configuration: Mapping[str, Any]) -> list[str]:
    """The command line of a worker with another backend."""
    told = msgspec.json.encode(configuration).decode()
    return [sys.executable, "-m", "asrswitch.worker", "--backend", name, told]


def start_process(
    command: Sequence[str], log: Path, environ: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, with pipes to it and from it; its errors go to ``log``.

    Raises:
        OSError: it cannot be started, or the log not be opened.
    """
    with log.open("ab") as errors:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=_PACKAGE_ROOT,  # `-m` looks there first: worker and runner are of the same package
            env=environ,
            start_new_session=True,
            bufsize=0,
        )


class WorkerProcess:
    """A running worker in a session of its own, so that a Ctrl-C reaches the runner alone.

    Everything that it or the library prints goes to ``log``.
    """

    _group: LimitedGroup | None = None
    _log_mark = 0  # what comes after it was written since the last command

    def __init__(
        self,
        program: Sequence[str],
        log: Path,
        stop: StopSignals,
        timeout_s: float,
        environ: Mapping[str, str] | None = None,
        memory_limit_bytes: int | None = None,
    ) -> None:
        """Start it and wait until it is ready.

        Args:
            program: its command line.
            log: takes what it prints.
            stop: what ends the wait for an answer.
            timeout_s: for being ready.
            environ: its environment; None is ours.
            memory_limit_bytes: of its private writable memory (RLIMIT_DATA of setrlimit(2)), and where we may
                make a control group, of all that it is charged for.

        Raises:
            WorkerError: it cannot be started, or says that it cannot use its library or configuration.
            WorkerLostError: it ended before it was ready.
            WorkerTimeoutError: it was not ready in time.
            StoppedError: a signal came.
        """
        self._stop = stop
        self._unread: list[bytes] = []  # what it wrote after its last whole line
        self._log = log
        self._log_mark = self._log_size()
        try:
            self._process = start_process(program, log, environ)
        except OSError as error:
            raise WorkerError(
                f"{error.filename or sys.executable}: a worker cannot be started with it ({error.strerror}); "
                "make room or raise the limit, and run again"
            ) from None
        try:
            self.limited_by = self._limit_memory(memory_limit_bytes)
            self.hello = self._receive(Hello, timeout_s)
        except BaseException:
            self.kill()
            raise

    def _limit_memory(self, limit: int | None) -> Literal["cgroup", "rlimit"] | None:
        """Hold it to the limit by what there is; that it has ended already is noticed elsewhere."""
        pid = self._process.pid
        with contextlib.suppress(OSError):
            # When the machine runs out of memory, the kernel is to end the worker and not who measures it.
            Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
        if limit is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            # An allocation that fails can be reported; what a control group ends is killed.
            resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))
        self._group = LimitedGroup.around(pid, limit)
        return "cgroup" if self._group else "rlimit"

    def request(self, command: Command, reply: type[_Reply], timeout_s: float) -> _Reply:
        """Send a command and wait for its reply.

        Raises:
            WorkerError: the command failed in the library.
            WorkerLostError: the worker is gone.
            WorkerTimeoutError: no reply within ``timeout_s``; the worker was killed.
            StoppedError: a signal came; the worker is still busy.
        """
        assert self._process.stdin
        self._log_mark = self._log_size()
        try:
            self._process.stdin.write(msgspec.json.encode(command) + b"\n")
        except BrokenPipeError:
            raise self.lost() from None
        return self._receive(reply, timeout_s)

    def lost(self) -> WorkerLostError:
        """Make sure that the worker is gone and tell how it ended."""
        try:
            returncode = self._process.wait(_EXIT_GRACE_S)
        except subprocess.TimeoutExpired:  # it closed its pipe and stayed
            self.kill()
            returncode = self._process.returncode
        self.kill()
        return WorkerLostError(returncode, self._last_words())

    def _log_size(self) -> int:
        with contextlib.suppress(OSError):
            return self._log.stat().st_size
        return 0

    def _last_words(self) -> bytes:
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            log.seek(max(self._log_mark, self._log_size() - _LONGEST_LAST_WORDS))
            return log.read(_LONGEST_LAST_WORDS)
        return b""

    def close(self) -> None:
        """Let the worker exit, and kill it if it does not."""
        if self._process.poll() is None:
            self.tell_to_exit()
            self._await_exit()
        self.kill()

    def _await_exit(self) -> None:
        """Wait until it has ended, to the moment: ``Popen.wait`` looks at growing intervals."""
        try:
            descriptor = os.pidfd_open(self._process.pid)
        except OSError:  # Linux before 5.3 has none
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_EXIT_GRACE_S)
            return
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(_EXIT_GRACE_S * 1000)
        finally:
            os.close(descriptor)

    def tell_to_exit(self) -> None:
        """Ask it to end, and do not wait."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(msgspec.json.encode(Command(command="exit")) + b"\n")

    def kill(self) -> None:
        """Kill the worker and whatever it started; does nothing the second time."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._group:
            self._group.remove()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def _receive(self, reply: type[_Reply], timeout_s: float) -> _Reply:
        line = self._read_line(timeout_s)
        try:
            message = msgspec.json.decode(line)
            if isinstance(message, dict) and "error" in message:
                said = msgspec.convert(message, Error)
                raise WorkerError(printable(" ".join(said["error"].split())), said["malloc"])
            return msgspec.convert(message, reply)
        except msgspec.MsgspecError as error:
            raise WorkerError(f"the worker's answer makes no sense ({error})") from None

    def _read_line(self, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        overdue = f"no answer within {timeout_s:g} s; the worker was killed"
        while not self._unread or b"\n" not in self._unread[-1]:
            chunk = self._read_chunk(deadline, overdue)
            if not chunk:
                raise self.lost()
            self._unread.append(chunk)
        line, _, rest = b"".join(self._unread).partition(b"\n")
        self._unread = [rest]
        return line

    def _read_chunk(self, deadline: float, overdue: str) -> bytes:
        """What it writes next, nothing at its end; killed with the message ``overdue`` after the deadline."""
        assert self._process.stdout
        output = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(output, select.POLLIN)
        poll.register(self._stop.wakeup, select.POLLIN)
        while True:
            self._stop.check()
            left = deadline - time.monotonic()
            if left <= 0:
                self.kill()
                raise WorkerTimeoutError(overdue)
            ready = [descriptor for descriptor, _ in poll.poll(min(left, 3600.0) * 1000)]
            if output in ready:
                return os.read(output, 65536)


@contextlib.contextmanager
def worker(
    library: Path, log: Path, stop: StopSignals, environ: Mapping[str, str] | None = None
) -> Iterator[WorkerProcess]:
    """A worker that is let go at the end, and killed when something went wrong.

    Raises:
        LibraryError: none starts with this library.
        StoppedError: a signal came.
    """
    try:
        process = WorkerProcess(worker_program(str(library)), log, stop, START_TIMEOUT_S, environ)
    except WorkerError as error:
        raise LibraryError(str(error)) from None
    except (WorkerLostError, WorkerTimeoutError) as error:
        raise LibraryError(
            f"{library}: no worker starts with it ({error}); name another by --library"
        ) from None
    try:
        yield process
        process.close()
    finally:
        process.kill()
