"""Transcribe audio files."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import platform
import stat
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn, TextIO

import msgspec
import numpy as np
import soundfile
import soxr

from asrswitch import __version__
from asrswitch.audio import MAX_SECONDS
from asrswitch.catalogue import label_and_path
from asrswitch.commands.common import FAILURE, READER_GONE, Once, Parser, add_out, check_out
from asrswitch.errors import AsrSwitchError, AudioError, UsageError, printable
from asrswitch.plan import (
    DEFAULT_MAX_NEW_TOKENS,
    check_new_tokens,
    context_from,
    language_from,
    readable_file,
    threads_from,
)
from asrswitch.transcription.api import DEFAULT_MAX_CHUNK_S, LEAST_MAX_CHUNK_S, Model, Result, Stream, load
from asrswitch.transcription.sources import Source

REMEDY_FOR_OUTPUT = "use -o FILE"
STDIN = "-"
_DEFAULT_MODEL = "digits-large"
_EPILOG = """\
examples:
  asrswitch transcribe -m 0.6b.bin talk.mp3
  asrswitch transcribe -m 1.7b.bin --json *.flac -o talks.jsonl
  ffmpeg -v error -i film.mkv -f wav - | asrswitch transcribe -m 0.6b.bin -
Text on stdout, as it comes where that is a terminal; a file that fails is a line on stderr, and exit code 1.
INFERENCE_THREADS, CONTEXT_LENGTH, ASR_LANGUAGE, ASRSWITCH_LIBRARY stand in for absent options.
"""


class _ReaderGoneError(Exception):
    """Whoever read the output has closed it."""


class _OutputError(AsrSwitchError):
    """The output cannot be written; there is no use in going on."""


def main(words: Sequence[str]) -> int:
    """Transcribe each file; failure if one of them could not be."""
    given = make_parser().parse_args(words)
    label, named = label_and_path(_DEFAULT_MODEL if given.model is None else given.model)
    path = readable_file(named, "--model")
    _check(given)
    failed = False
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(
            load(
                path,
                threads=threads_from(given.threads, os.environ),
                context=context_from(given.context, os.environ),
                language=language_from(given.language, os.environ),
                max_new_tokens=given.max_new_tokens,
                library=given.library,
            )
        )
        output = sys.stdout if given.out is None else stack.enter_context(_open(given.out))
        if given.model is None:
            _note(f"no --model is given: {label} of this package transcribes, which knows spoken digits only")
        writer = _Writer(output, given.out, several=len(given.files) > 1)
        for word in given.files:
            try:
                with model.transcribe(_source(word), max_chunk=given.max_chunk, stream=True) as stream:
                    if given.json:
                        writer.line(_as_json(word, label, model, _finish(stream)))
                    else:
                        writer.text(word, stream)
                _warn_of_cuts(word, stream.result, given.max_new_tokens)
            except _OutputError:
                raise
            except _ReaderGoneError:
                return READER_GONE
            except AsrSwitchError as error:
                _note(str(error))
                failed = True
    return FAILURE if failed else 0


class _Writer:
    """Where texts go. Each is a line, below one with the file's name where there are several files.

    A terminal gets them without control characters: a model or a library is not to give it orders.
    """

    def __init__(self, output: TextIO, path: Path | None, several: bool) -> None:
        self._output = output
        self._path = path  # None for standard output
        self._several = several
        self._live = output.isatty()
        self._blank = ""  # before the next heading

    def text(self, word: str, stream: Stream) -> None:
        """Write a text as it comes: in its pieces where that is seen, else in repaired chunks."""
        written = 0
        in_line = False
        try:
            for piece in stream:
                addition = _without_controls(piece) if self._live else stream.text[written:]
                if addition:
                    self._write(addition if in_line else self._heading(word) + addition)
                    in_line = True
                    written += len(addition)
            rest = "" if self._live else stream.text[written:]
            self._write((rest if in_line else self._heading(word) + rest) + "\n")
        except (KeyboardInterrupt, AsrSwitchError) as error:
            if in_line and not isinstance(error, _OutputError):
                self._write("\n")  # what follows begins a line of its own
            raise

    def line(self, line: str) -> None:
        """Write a line."""
        self._write((_without_controls(line) if self._live else line) + "\n")

    def _heading(self, word: str) -> str:
        if not self._several:
            return ""
        blank, self._blank = self._blank, "\n"
        return f"{blank}==> {printable(word)} <==\n"

    def _write(self, text: str) -> None:
        try:
            self._output.write(text)
            self._output.flush()
        except OSError as error:
            self._fail(error)
        # The command line's standard output raises nothing and keeps its first error, for a run to go on;
        # here there is nothing to go on for.
        if kept := getattr(self._output, "error", None):
            self._output.error = None  # type: ignore[attr-defined]
            self._fail(kept)

    def _fail(self, error: OSError) -> NoReturn:
        if error.errno == errno.EPIPE:
            raise _ReaderGoneError from None
        where = "standard output" if self._path is None else str(self._path)
        raise _OutputError(f"{where}: cannot be written ({error.strerror}); name another place by -o FILE")


def _without_controls(text: str) -> str:
    """The text with its control characters as escapes, which are also JSON's.

    Only these, where ``printable`` takes more: words of Persian and Hindi are written with joiners, and
    Chinese has a wide space.
    """
    return "".join(
        f"\\u{ord(letter):04x}" if unicodedata.category(letter) == "Cc" else letter for letter in text
    )


@contextlib.contextmanager
def _open(path: Path) -> Iterator[TextIO]:
    """Written as the texts come, so that those that are done are there whatever happens to the rest.

    Where there were none, no empty file is left.
    """
    is_new = not path.exists()
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); name another place by -o") from None
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):  # each write was flushed, and has told
            file.close()
        with contextlib.suppress(OSError):
            if is_new and path.is_file() and path.stat().st_size == 0:
                path.unlink()


def _finish(stream: Stream) -> Result:
    for _ in stream:
        pass
    return stream.result


def _warn_of_cuts(word: str, result: Result, limit: int) -> None:
    if cuts := [f"{chunk.start_s:.1f} s" for chunk in result.chunks if chunk.cut_off]:
        _note(f"{word}: the text from {', '.join(cuts)} ends at {limit} tokens; raise --max-new-tokens")


def _as_json(word: str, label: str, model: Model, result: Result) -> str:
    everything = {
        "file": word,
        **msgspec.structs.asdict(result),
        "model": {"label": label, "path": str(model.path.absolute()), "bytes": model.path.stat().st_size},
        "threads": model.threads,
        "library": str(model.library),
        "versions": {
            "asrswitch": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "soundfile": soundfile.__version__,
            "libsndfile": soundfile.__libsndfile_version__,
            "soxr": soxr.__version__,
        },
    }
    return msgspec.json.encode(everything).decode()


def _source(word: str) -> Source:
    if word != STDIN:
        return word
    if sys.stdin is None or sys.stdin.isatty():
        raise AudioError("standard input: has no audio; send some, as in `... transcribe - < a.wav`")
    return sys.stdin.buffer


def _check(given: argparse.Namespace) -> None:
    check_new_tokens(given.max_new_tokens)
    if not LEAST_MAX_CHUNK_S <= given.max_chunk <= MAX_SECONDS:
        least = f"{LEAST_MAX_CHUNK_S:g} to {MAX_SECONDS:,}"
        raise UsageError(f"--max-chunk is {given.max_chunk:g}: give seconds from {least}")
    if given.files.count(STDIN) > 1:
        raise UsageError(f"{STDIN} is given twice: there is one standard input")
    for word in given.files:
        if word != STDIN and not _is_stream(word):
            readable_file(word, "transcribe")
        with contextlib.suppress(OSError):
            if given.out is not None and given.out.samefile(word):
                raise UsageError(f"--out {given.out}: is one of the files to transcribe; name another")
    check_out(given.out)


def _is_stream(word: str) -> bool:
    """Whether it is a pipe or a device, as a shell's <(...) is, which is there but no file."""
    with contextlib.suppress(OSError):
        return not stat.S_ISREG(Path(word).stat().st_mode) and not Path(word).is_dir()
    return False


def _note(text: str) -> None:
    print(f"asrswitch: {printable(text)}", file=sys.stderr)


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="asrswitch transcribe",
        usage="%(prog)s FILE [FILE ...] [options]",
        description="Transcribe audio of any length.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="WAV, FLAC, OGG, MP3 and so on; - is stdin")
    add("-m", "--model", action=Once, metavar="[LABEL=]PATH",
        help="or a name as in `models list`; default: an embedded one that knows digits")  # fmt: skip
    add("--language", metavar="NAME", help="force it: Chinese, zh, English, en, and so on")
    add("-t", "--threads", type=int, metavar="N", help="default: the physical cores this process may use")
    add("-c", "--context", type=int, metavar="TOKENS", help="size of the KV cache; default: the model's")
    add("-n", "--max-new-tokens", type=int, default=DEFAULT_MAX_NEW_TOKENS, metavar="N",
        help="for each piece of audio; default: %(default)s")  # fmt: skip
    add("--max-chunk", type=float, default=DEFAULT_MAX_CHUNK_S, metavar="SECONDS",
        help="longer audio is cut where it is quiet; default: %(default)g")  # fmt: skip
    add("--json", action="store_true", help="a line of JSON for each file: text, pieces, times, versions")
    add_out(parser)
    add("--output", dest="out", type=Path, help=argparse.SUPPRESS)  # what --out was called
    add("-l", "--library", metavar="FILE", help="another library with the same C interface")
    return parser
