"""Python code that nobody has read is run here: in a process of its own that can compute, and little else.

``confined.py`` is the program of that process. It has limits of time and memory, no environment, no input,
no output but what came of the code, no capabilities, and a seccomp filter (``system_calls.py``) that
refuses new processes, programs, sockets, signals and writing, so that whatever the code does ends with the
one process. All of that holds for root too. Without the filter nothing is run. Where the kernel has
Landlock (Linux 5.13), only Python's own library can be read; ``Confinement`` tells.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib import resources
from typing import TypeVar

import msgspec

from asrswitch.errors import AsrSwitchError, printable
from asrswitch.prompts.system_calls import computing_only

_T = TypeVar("_T")
_RESULTS_BYTES = 64 << 10  # more than it says of itself


class SandboxError(AsrSwitchError):
    """Code cannot be confined on this machine, so it was not run."""


class Limits(msgspec.Struct, frozen=True):
    """What code may use."""

    seconds: float = 5.0  # by the wall clock, its process's start included
    memory_bytes: int = 256 << 20  # of address space, in which Python itself has some 30 MiB


class Confinement(msgspec.Struct, frozen=True):
    """What holds on this machine beyond that without which nothing is run."""

    files: bool  # it reads only Python's own library; otherwise all that the user may read


class Raised(msgspec.Struct, frozen=True):
    """The exception that ended the code."""

    kind: str  # its class
    text: str  # in one line
    piece: str  # the name of the piece that was run
    line: int | None  # of that piece, where it is known


class Outcome(msgspec.Struct, frozen=True):
    """What came of the code: at most one of ``raised`` and ``ended``; with neither it ran to its end."""

    confinement: Confinement
    raised: Raised | None = None
    ended: str | None = None  # what ended its process: "took longer than 5 s"

    @property
    def passed(self) -> bool:
        return self.raised is None and self.ended is None


class _Ready(msgspec.Struct):
    refused: str | None
    files: bool


class _Result(msgspec.Struct):
    raised: Raised | None


def confinement() -> Confinement:
    """What holds on this machine, tried with no code.

    Raises:
        SandboxError: code would not be run here.
    """
    return run_confined({}).confinement


def run_confined(pieces: Mapping[str, str], limits: Limits | None = None) -> Outcome:
    """Run Python code that is not trusted, and wait for its end.

    Args:
        pieces: by name statements that are run in this order in one module (``__name__`` is "answer"), until
            one raises.
        limits: what it may use; by default what ``Limits`` says.

    Raises:
        SandboxError: it cannot be confined here, and was not run.
    """
    limits = limits or Limits()
    results = os.memfd_create("results")
    try:
        ended = _run(_job(pieces, limits), results, limits)
        lines = os.pread(results, _RESULTS_BYTES, 0).splitlines()
    finally:
        os.close(results)
    ready = _read(lines[0], _Ready) if lines else None
    if ready is None or ready.refused is not None:
        why = ready.refused if ready else f"its Python, {sys.executable}, {ended or 'told nothing'}"
        raise SandboxError(printable(f"code cannot be confined here ({why}); choose prompts without code"))
    holds = Confinement(ready.files)
    result = _read(lines[1], _Result) if len(lines) > 1 else None
    if ended is not None or result is None:
        return Outcome(holds, ended=ended or "ended before its end was reached")
    if result.raised is None:
        return Outcome(holds)
    told = {"kind": printable(result.raised.kind), "text": printable(result.raised.text)}
    return Outcome(holds, msgspec.structs.replace(result.raised, **told))


def _job(pieces: Mapping[str, str], limits: Limits) -> bytes:
    machine = os.uname().machine
    try:
        program = computing_only(machine)
    except KeyError:
        raise SandboxError(
            f"code cannot be confined on {machine}, whose system calls are not known; "
            "choose prompts without code"
        ) from None
    job = {
        "parent": os.getpid(),
        "memory_bytes": limits.memory_bytes,
        "cpu_s": math.ceil(limits.seconds) + 1,
        "results_bytes": _RESULTS_BYTES,
        "filter": program.hex(),
        "pieces": list(pieces.items()),
    }
    return json.dumps(job).encode()  # ASCII, whatever the code is


def _run(job: bytes, results: int, limits: Limits) -> str | None:
    """Start the program and see it end; how it did, unless it ended by itself and well."""
    program = str(resources.files("asrswitch") / "prompts" / "confined.py")
    words = [sys.executable, "-I", "-S", "-B", "-X", "utf8", program]
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=results,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            start_new_session=True,  # Ctrl-C is not for it
        )
    except OSError as error:
        raise SandboxError(
            f"{sys.executable}: does not start ({error.strerror}), and answers' code needs it"
        ) from None
    with process:
        try:
            process.communicate(job, timeout=limits.seconds)
        except subprocess.TimeoutExpired:
            return f"took longer than {limits.seconds:g} s"
        finally:
            process.kill()  # it has no others
    if process.returncode < 0:
        return f"was ended by {_signal_name(-process.returncode)}"
    return f"ended with exit code {process.returncode}" if process.returncode else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _read(line: bytes, kind: type[_T]) -> _T | None:
    """A line that the program wrote, or its code in its place."""
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
