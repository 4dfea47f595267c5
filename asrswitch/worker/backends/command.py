"""Runs any program that takes a model and an audio file and prints text: a process for each transcription.

What is asked for is measured from outside: the time of each piece of text as it is read, and the kernel's
own account of the process's memory when it is waited for (``ru_maxrss``, getrusage(2)).
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import select
import signal
import subprocess
import time
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asrswitch import native
from asrswitch.native.processes import descendants, name_of, state_of
from asrswitch.worker.backends import Backend, BackendError, Transcription
from asrswitch.worker.backends.pieces import whole_characters
from asrswitch.worker.protocol import LoadOptions

PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
MOST_OUTPUT_BYTES = 1 << 20  # an hour's transcript is a tenth of it
_KEPT_ERRORS_BYTES = 1 << 20
_LONGEST_LAST_LINE = 300
_GRACE_S = 0.5  # for children that end with the program, but not at once
_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
_KIB = 1024


class CommandBackend(Backend):
    """A program by its configuration, as ``asrswitch.backend_choice`` checked it."""

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self._program: str = configuration["program"]
        self._words: list[str | list[str]] = configuration["command"]
        self._directory: str = configuration["directory"]
        self._remove = [re.compile(pattern) for pattern in configuration["remove"]]
        self._text = re.compile(configuration["text"]) if configuration["text"] else None
        self._figures = {
            name: (re.compile(figure["pattern"]), figure["scale"])
            for name, figure in configuration["figures"].items()
        }
        self._environ = {**os.environ, **configuration["environment"]}
        self.capabilities = {
            "streams": configuration["streams"],
            "loads": False,
            "restarts": False,
            "forces_language": any("{language" in word for word in _flat(self._words)),
            "runs_processes": True,
        }
        self._options: dict[str, LoadOptions] = {}
        self._c_library = native.open_process()
        # What the program leaves behind becomes a child of this process, and is found.
        self._c_library.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def load(self, label: str, options: LoadOptions) -> tuple[int, int]:
        self._options[label] = options
        now = time.monotonic_ns()
        return now, now

    def restart(self, label: str) -> tuple[int, int]:
        raise BackendError("each transcription is a process of its own: there is nothing to restart")

    def unload(self, label: str) -> tuple[int, int]:
        raise BackendError("each transcription is a process of its own: there is nothing to unload")

    def renew(self) -> tuple[int, int]:
        raise BackendError("each transcription is a process of its own: there is nothing to start anew")

    def processes(self) -> Sequence[int | str]:
        return ()  # one that runs is a child of this process, and none runs between transcriptions

    def resident(self) -> Sequence[str]:
        return ()

    def infer(self, label: str, given: str) -> Transcription:
        words = fill_in(self._words, values_of(self._options[label], given))
        submitted_ns = time.monotonic_ns()
        process = self._start([self._program, *words[1:]])
        output = _Output(process)
        try:
            output.read()
        except BaseException:
            process.kill()
            raise
        finally:
            if output.too_much:
                process.kill()
            _, status, usage = os.wait4(process.pid, 0)
            returned_ns = time.monotonic_ns()
            process.returncode = os.waitstatus_to_exitcode(status)
            left_behind = _end_children(0 if output.too_much else _GRACE_S)
            output.close()
        self._check(process.returncode, output)
        printed = whole_characters(output.chunks)
        return Transcription(
            submitted_ns,
            returned_ns,
            pieces=cut(printed, self._remove, self._text),
            statistics=[],
            peak_rss_bytes=usage.ru_maxrss * _KIB,
            reported=self._reported("".join(text for _, text in printed), bytes(output.errors)),
            left_behind=left_behind,
        )

    def _start(self, words: list[str]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self._directory,
                env=self._environ,
                bufsize=0,
                # In the worker's group, which is killed as one; but who kills the worker alone ends it too.
                preexec_fn=lambda: native.die_with_parent(self._c_library),
            )
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            where = error.filename if isinstance(error, OSError) and error.filename else self._program
            raise BackendError(f"{where}: cannot be run ({reason}); check --backend") from None

    def _check(self, code: int, output: _Output) -> None:
        name = Path(self._program).name
        if output.too_much:
            raise BackendError(
                f"{name} printed more than {MOST_OUTPUT_BYTES:,} bytes and was ended; "
                "have it print the text alone"
            )
        if code != 0:
            how = f"was killed by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
            said = output.last_line()
            raise BackendError(f"{name} {how}{f': {said}' if said else ' and said nothing'}")

    def _reported(self, printed: str, errors: bytes) -> dict[str, float]:
        """The numbers that the program says of itself, the last of each; what is none is left out."""
        found = {}
        for name, (pattern, scale) in self._figures.items():
            for text in (errors.decode("utf-8", "replace"), printed):
                matches = [match[1] for match in pattern.finditer(text) if match[1] is not None]
                if matches:
                    with contextlib.suppress(ValueError):
                        value = float(matches[-1].replace(",", "")) * scale
                        if math.isfinite(value):
                            found[name] = value
                    break
        return found


class _Output:
    """What a program writes, as it comes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout and process.stderr
        self.chunks: list[tuple[int, bytes]] = []  # of standard output, with when each was read
        self.errors = bytearray()  # the end of standard error
        self.too_much = False
        self._count = 0
        self._process = process
        self._output, self._error = process.stdout.fileno(), process.stderr.fileno()

    def read(self) -> None:
        """Until the program has ended, or has closed both."""
        ended = -1
        with contextlib.suppress(OSError):  # Linux before 5.3: until both are closed, by children too
            ended = os.pidfd_open(self._process.pid)
        poll = select.poll()
        open_ = {self._output, self._error}
        for descriptor in open_:
            os.set_blocking(descriptor, False)
            poll.register(descriptor, select.POLLIN)
        if ended >= 0:
            poll.register(ended, select.POLLIN)
        try:
            while open_ and not self.too_much:
                ready = {descriptor for descriptor, _ in poll.poll()}
                for descriptor in ready & open_:
                    if not self._take(descriptor):
                        poll.unregister(descriptor)
                        open_.remove(descriptor)
                if ended in ready:
                    for descriptor in open_:
                        while not self.too_much and self._take(descriptor, last=True):
                            pass
                    return
        finally:
            if ended >= 0:
                os.close(ended)

    def close(self) -> None:
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()

    def last_line(self) -> str:
        """What it said last, on standard error or else on standard output."""
        printed = b"".join(chunk for _, chunk in self.chunks)
        for said in (bytes(self.errors), printed):
            lines = said.decode("utf-8", "replace").split("\n")
            if words := next((line.strip() for line in reversed(lines) if line.strip()), ""):
                return words[:_LONGEST_LAST_LINE]
        return ""

    def _take(self, descriptor: int, last: bool = False) -> bool:
        """Read what is there; whether there may be more, or with ``last`` whether there was any."""
        try:
            chunk = os.read(descriptor, 65536)
        except BlockingIOError:
            return not last
        now = time.monotonic_ns()
        if descriptor == self._output and chunk:
            self.chunks.append((now, chunk))
            self._count += len(chunk)
            self.too_much = self._count > MOST_OUTPUT_BYTES
        elif chunk:
            with contextlib.suppress(OSError):  # the disk is full: nothing is lost but the log
                os.write(2, chunk)
            self.errors += chunk
            del self.errors[:-_KEPT_ERRORS_BYTES]
        return bool(chunk)


def values_of(options: LoadOptions, audio: str) -> dict[str, str | None]:
    """What each placeholder stands for; None where that was not given."""
    model = Path(options["model"])
    context = options.get("context")
    return {
        "model": str(model),
        "model_dir": str(model if model.is_dir() else model.parent),
        "model_name": model.name,
        "audio": audio,
        "threads": str(options["threads"]),
        "language": options.get("language"),
        "language_code": options.get("language_code"),
        "context": None if context is None else str(context),
        "max_new_tokens": str(options["max_new_tokens"]),
    }


def fill_in(words: Sequence[str | list[str]], values: Mapping[str, str | None]) -> list[str]:
    """The words with what they stand for; a group in which a value was not given is left out."""

    def filled(word: str) -> str:
        return PLACEHOLDER.sub(lambda found: values.get(found[1]) or "", word)

    given = []
    for word in words:
        group = [word] if isinstance(word, str) else word
        names = [name for part in group for name in PLACEHOLDER.findall(part)]
        if isinstance(word, str) or all(values[name] is not None for name in names):
            given += [filled(part) for part in group]
    return given


def cut(
    pieces: list[tuple[int, str]], remove: Sequence[re.Pattern[str]], text: re.Pattern[str] | None
) -> list[tuple[int, str]]:
    """What of each piece is text: what no pattern of ``remove`` matches, and of that ``text``'s group.

    Raises:
        BackendError: something is left, and ``text`` does not match it.
    """
    if not remove and text is None:
        return pieces
    whole = "".join(piece for _, piece in pieces)
    places = array("L", range(len(whole)))  # of each character that is left, in all that was printed
    for pattern in remove:
        kept: list[str] = []
        at = array("L")
        begin = 0
        for match in pattern.finditer(whole):
            kept.append(whole[begin : match.start()])
            at += places[begin : match.start()]
            begin = match.end()
        whole, places = "".join([*kept, whole[begin:]]), at + places[begin:]
    if text is not None:
        found = text.search(whole)
        if found is None and whole.strip():
            raise BackendError(
                f"nothing in what was printed is matched by text = {text.pattern!r}; it begins with "
                f"{whole.strip()[:_LONGEST_LAST_LINE]!r}"
            )
        begin, end = found.span(1) if found else (0, 0)
        whole, places = whole[max(begin, 0) : max(end, 0)], places[max(begin, 0) : max(end, 0)]
    cuts: list[tuple[int, str]] = []
    first = printed = 0
    for at_ns, piece in pieces:
        printed += len(piece)
        last = bisect_left(places, printed)
        if last > first:
            cuts.append((at_ns, whole[first:last]))
        first = last
    return cuts


def signal_name(number: int) -> str:
    """SIGSEGV for 11; the number for those without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end_children(grace_s: float) -> list[str]:
    """End and reap all processes below this one; the names of those that did not by themselves."""
    deadline = time.monotonic() + grace_s
    names: list[str] = []
    killed: set[int] = set()
    while left := _living():
        if time.monotonic() > deadline:
            for pid in left:
                if pid not in killed:
                    killed.add(pid)
                    names.append(name_of(pid))
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    return names


def _living() -> list[int]:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return [pid for pid in descendants([os.getpid()]) if state_of(pid) not in (None, "Z")]


def _flat(words: Sequence[str | list[str]]) -> list[str]:
    return [part for word in words for part in ([word] if isinstance(word, str) else word)]
