"""The command line. Only this module prints and exits."""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from asrswitch.commands.common import READER_GONE
from asrswitch.errors import AsrSwitchError, UsageError, printable

VERBS = ("run", "transcribe", "report", "compare", "bench", "leak-check", "models", "doctor")


class _Output(io.TextIOBase):
    """Standard output or standard error, which may be closed, full, or go away while a run goes on.

    The first failure is kept in ``error``, and what would follow it is dropped: a display that nobody sees is
    no reason to end a measurement.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.error = None if stream else OSError(errno.EBADF, os.strerror(errno.EBADF))
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def write(self, text: str) -> int:
        if self._stream and not self.error:
            with self._noting_failure():
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        if self._stream and not self.error:
            with self._noting_failure():
                self._stream.flush()

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        assert self._stream
        try:
            yield
        except OSError as error:
            self.error = error
            # What is still buffered goes to nowhere when the process ends.
            with Path(os.devnull).open("w") as nothing:
                os.dup2(nothing.fileno(), self._stream.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; errors become one line on stderr."""
    output, errors = _Output(sys.stdout), _Output(sys.stderr)
    with contextlib.redirect_stderr(errors):
        return _main(argv, output)


def _main(argv: Sequence[str] | None, output: _Output) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    module, rest = _module(words)
    was_help = False
    with contextlib.redirect_stdout(output):
        try:
            code = _answer(words, module, rest)
        except SystemExit as done:  # after --help and --version
            code, was_help = int(done.code or 0), True
    output.flush()
    if not output.error:
        return code
    command = importlib.import_module(module)
    if output.error.errno == errno.EPIPE and (was_help or getattr(command, "READER_MAY_LEAVE", False)):
        return code or READER_GONE  # an answer that `--check` or `--fail-on` asks for counts for more
    remedy = "send it to a file or a pipe that is there, with room"
    if not was_help:
        remedy = getattr(command, "REMEDY_FOR_OUTPUT", remedy)
    message = f"standard output: cannot be written ({output.error.strerror})"
    print(f"asrswitch: {message}; {remedy}", file=sys.stderr)
    return code or AsrSwitchError.exit_code


def _module(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The name of the module that answers, and the words that are for it."""
    if words[:1] == ["--completion"]:
        return "asrswitch.completion", words[1:]
    if words and words[0] in VERBS:
        return module_of(words[0]), words[1:]
    return module_of("run"), words


def module_of(verb: str) -> str:
    """The name of a verb's module."""
    return f"asrswitch.commands.{verb.replace('-', '_')}"


def _answer(words: Sequence[str], module: str, rest: Sequence[str]) -> int:
    try:
        _check_text(words)
        _check_verb(words)
        # Each verb imports what it needs: none waits for the others' libraries.
        return int(importlib.import_module(module).main(rest))
    except AsrSwitchError as error:
        return _complain(error)
    except OSError as error:  # a name too long for a file, for one
        where = "" if error.filename is None else f"{error.filename}: "
        remedy = "give a shorter name" if error.errno == errno.ENAMETOOLONG else "check it and try again"
        return _complain(AsrSwitchError(f"{where}{error.strerror or error}; {remedy}"))
    except KeyboardInterrupt:
        print("asrswitch: stopped by SIGINT", file=sys.stderr)
        return 130


def _check_verb(words: Sequence[str]) -> None:
    """Refuse a first word that is neither a verb nor an option."""
    if words and words[0] not in VERBS and not words[0].startswith("-"):
        near = difflib.get_close_matches(words[0], VERBS, 1)
        perhaps = f"perhaps {near[0]}; " if near else ""
        raise UsageError(f"'{words[0]}': no such verb; {perhaps}there are {', '.join(VERBS)}, and --help")


def _check_text(words: Sequence[str]) -> None:
    """Refuse names that the log, which is JSON, could not hold."""
    try:
        here = str(Path.cwd())
    except FileNotFoundError:
        raise UsageError("the current directory is gone; change to one that is there") from None
    for word in [*words, here]:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{word}: not UTF-8; rename the file or directory") from None


def _complain(error: AsrSwitchError) -> int:
    print(f"asrswitch: {printable(str(error))}", file=sys.stderr)
    return error.exit_code
