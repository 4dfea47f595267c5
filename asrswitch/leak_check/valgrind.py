"""valgrind's command lines, and a worker that runs under it."""

from __future__ import annotations

import select
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from asrswitch.errors import AsrSwitchError, printable
from asrswitch.leak_check.plan import Tool
from asrswitch.worker.protocol import Hello
from asrswitch.worker_process import StopSignals, WorkerProcess, start_process

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
        self._unread = []
        self._log = log
        self.started_s = time.monotonic()
        try:
            self._process = start_process(command, log, environ)
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

    def finish(self, timeout_s: float) -> int:
        """Wait for the end, the tool's own search included; the lines that the program still printed.

        Raises:
            WorkerLostError: it ended otherwise than with exit code 0.
            WorkerTimeoutError: it did not end within ``timeout_s``; it was killed.
            StoppedError: a signal came.
        """
        deadline = time.monotonic() + timeout_s
        overdue = f"no end within {timeout_s:g} s; it was killed"
        n_lines = 0
        while chunk := self._read_chunk(deadline, overdue):
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
