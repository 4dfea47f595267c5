"""valgrind's command lines, and a worker that runs under it."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import msgspec

from asrswitch.errors import AsrSwitchError, printable
from asrswitch.leak_check.plan import Tool
from asrswitch.worker.protocol import Command, Hello
from asrswitch.worker_process import StopSignals, WorkerProcess, WorkerTimeoutError

_PACKAGE_ROOT = Path(__file__).resolve().parent.parent.parent
# vgdb would leave its pipes behind when valgrind is killed. A library's symbols are kept for blocks that
# outlive it.
_COMMON = ("--vgdb=no", "--keep-debuginfo=yes")
_N_FRAMES = "--num-callers=40"
_OPTIONS = {
    Tool.MEMCHECK: (
        "--leak-check=full",
        "--show-leak-kinds=all",
        "--leak-resolution=high",
        "--error-limit=no",
        "--xml=yes",
        _N_FRAMES,
    ),
    # Call trees are not read, and make snapshots slow.
    Tool.MASSIF: ("--time-unit=ms", "--max-snapshots=1000", "--detailed-freq=1000"),
    Tool.DHAT: (_N_FRAMES,),
}
_OUTPUT = {Tool.MEMCHECK: "--xml-file", Tool.MASSIF: "--massif-out-file", Tool.DHAT: "--dhat-out-file"}
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}  # the same dictionaries in every run
_OBJECTS_ARE_BLOCKS = {"PYTHONMALLOC": "malloc"}
# glibc frees a thread's stack with the thread.
_TUNABLES, _NO_STACK_CACHE = "GLIBC_TUNABLES", "glibc.pthread.stack_cache_size=0"


def find_valgrind() -> str:
    """Path of valgrind.

    Raises:
        AsrSwitchError: it is not installed.
    """
    path = shutil.which("valgrind")
    if path is None:
        raise AsrSwitchError("valgrind is not installed, and leak-check needs it: `apt install valgrind`")
    return path


def version(valgrind: str) -> str:
    """What it says of itself.

    Raises:
        AsrSwitchError: it does not run.
    """
    try:
        done = subprocess.run([valgrind, "--version"], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        raise AsrSwitchError(f"{valgrind}: does not run; install it again: `apt install valgrind`") from None
    return printable(done.stdout.strip())


def command_line(valgrind: str, tool: Tool, output: Path, program: Sequence[str]) -> list[str]:
    """Run ``program`` under a tool that writes to ``output``."""
    words = [valgrind, f"--tool={tool.value}", *_COMMON, *_OPTIONS[tool]]
    # % begins a variable in valgrind's file names.
    words.append(f"{_OUTPUT[tool]}={str(output).replace('%', '%%')}")
    if tool is Tool.MEMCHECK:
        words.append(f"--suppressions={resources.files('asrswitch') / 'leak_check' / 'python.supp'}")
    return [*words, *program]


def environment(environ: Mapping[str, str], tool: Tool) -> dict[str, str]:
    """The environment of a program under a tool."""
    tunables = [word for word in environ.get(_TUNABLES, "").split(":") if word]
    # dhat's time goes with the blocks; Python's are not what it is asked about, and stay in Python's pools.
    objects = {} if tool is Tool.DHAT else _OBJECTS_ARE_BLOCKS
    return {**environ, **_ENVIRONMENT, **objects, _TUNABLES: ":".join([*tunables, _NO_STACK_CACHE])}


class ValgrindProcess(WorkerProcess):
    """A program under valgrind: our worker, or one that takes no commands."""

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], log: Path, stop: StopSignals
    ) -> None:
        self._stop = stop
        self._buffer = b""
        self._log = log
        self.started_s = time.monotonic()
        try:
            with log.open("wb") as errors:
                self._process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    cwd=_PACKAGE_ROOT,  # `-m` looks there first: worker and runner are of the same package
                    env=dict(environ),
                    start_new_session=True,  # a Ctrl-C reaches the runner alone
                    bufsize=0,
                )
        except OSError as error:
            raise AsrSwitchError(
                f"{command[0]}: cannot be started ({error.strerror}); make room or raise the limit, run again"
            ) from None

    def maps(self) -> str:
        """The text of its ``/proc/PID/maps``; nothing where that cannot be read."""
        try:
            return Path(f"/proc/{self._process.pid}/maps").read_text(errors="replace")
        except OSError:
            return ""

    def greet(self, timeout_s: float) -> None:
        """Wait until the worker is ready; errors as of ``request``."""
        self.hello = self._receive(Hello, timeout_s)

    def rest(self, seconds: float) -> None:
        """Let time pass in which nothing is asked of it, unless a signal comes."""
        poll = select.poll()
        poll.register(self._stop.wakeup, select.POLLIN)
        poll.poll(seconds * 1000)
        self._stop.check()

    def exit(self) -> None:
        """Tell the worker to exit; ``finish`` waits for it."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(msgspec.json.encode(Command(command="exit")) + b"\n")

    def finish(self, timeout_s: float) -> int:
        """Wait for the end, the tool's own search included; the lines that the program still printed.

        Raises:
            WorkerLostError: it ended otherwise than with exit code 0.
            WorkerTimeoutError: it did not end within ``timeout_s``; it was killed.
            StoppedError: a signal came.
        """
        assert self._process.stdout
        output = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(output, select.POLLIN)
        poll.register(self._stop.wakeup, select.POLLIN)
        deadline = time.monotonic() + timeout_s
        n_lines = 0
        while True:
            self._stop.check()
            left = deadline - time.monotonic()
            if left <= 0:
                self.kill()
                raise WorkerTimeoutError(f"no end within {timeout_s:g} s; it was killed")
            ready = [descriptor for descriptor, _ in poll.poll(min(left, 3600.0) * 1000)]
            if output in ready:
                chunk = os.read(output, 65536)
                if not chunk:
                    break
                n_lines += chunk.count(b"\n")
        lost = self.lost()
        if lost.returncode != 0:
            raise lost
        return n_lines

    def complaint(self) -> str:
        """The last that the program, or valgrind of itself, printed on standard error; or nothing."""
        lines = self._log.read_text(errors="replace").splitlines()
        said = [line for line in lines if line.strip() and not line.startswith("==")]  # the tool's account
        return f"; it said: {printable(said[-1].strip())}" if said else ""


def worker_program(library: str) -> list[str]:
    """The worker's command line."""
    return [sys.executable, "-m", "asrswitch.worker", library]
