"""``load`` a model, ``transcribe`` with it: the same engine as the command line's, in this process.

Threads: any thread may call anything. A model transcribes one source at a time; a call that finds it busy
waits for its turn. Each transcription runs on a thread of its own, which the library's callbacks come on, so
that the caller can be interrupted; the library lets other Python threads run meanwhile. ``Model.close`` and
``Stream.close`` end a transcription that is in progress, within 250 ms.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, overload

import msgspec

from asrswitch import machine
from asrswitch.audio import MAX_SECONDS, SAMPLE_RATE
from asrswitch.catalogue import find_model
from asrswitch.errors import UsageError
from asrswitch.figures import Figures, Output, figure_out, split_output
from asrswitch.native.locate import find_library
from asrswitch.plan import DEFAULT_MAX_NEW_TOKENS, LANGUAGES, MOST_THREADS, MOST_TOKENS
from asrswitch.transcription.engine import Engine, EngineError
from asrswitch.transcription.sources import Source, check_source, name_of, read_blocks
from asrswitch.transcription.splitting import Samples, split
from asrswitch.transcription.transcript import (
    TranscriptStream,
    join,
    merge_languages,
    repair_repetitions,
    separator,
)
from asrswitch.worker.protocol import LoadOptions

if TYPE_CHECKING:
    from typing_extensions import Self

DEFAULT_MAX_CHUNK_S = 60.0
LEAST_MAX_CHUNK_S = 1.0
_ABORT_AGAIN_S = 0.005  # an input that is just beginning does not hear an abort
_DROPPED_WAIT_S = 1.0


class Chunk(msgspec.Struct, frozen=True):
    """A piece of the audio, which the engine was given by itself."""

    start_s: float
    end_s: float
    language: str | None
    text: str
    raw: str  # what the engine wrote, header and all
    cut_off: bool  # it has as many tokens as it may: there may be more to say
    figures: Figures

    @property
    def output(self) -> Output:
        return Output(self.language, self.text)


class Timings(msgspec.Struct, frozen=True):
    """Times as docs/figures.md defines them; of several chunks together."""

    load_ms: float
    ttft_ms: float | None  # of the first chunk with text, from when that was submitted
    inference_ms: float  # of the chunks one after the other; decoding the audio is not in it
    rtf: float
    tokens_per_s: float | None


class Result(msgspec.Struct, frozen=True):
    """A transcription."""

    text: str
    language: str | None  # as the model heard it, or was told; ``Chinese,English`` where it changes
    raw: str  # of all chunks, a line each
    audio_s: float
    tokens: int
    prompt_tokens: int | None
    timings: Timings
    chunks: tuple[Chunk, ...]


class Stream(Iterator[str]):
    """The text of a transcription in pieces, as it comes.

    Put together they are the text of ``result``, but for the repair of runaway repetition, which comes after
    a chunk. Nothing begins before the first piece is asked for; from then on the engine works ahead, however
    slowly they are taken. Closing it, or dropping it, ends the transcription.
    """

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._closed = False
        self._chunks: list[Chunk] = []
        self._result: Result | None = None
        self._pieces = _follow(job, self._chunks)

    def __next__(self) -> str:
        if self._closed:
            raise StopIteration
        try:
            return next(self._pieces)
        except StopIteration as end:
            self._result = end.value or self._result
            raise StopIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the transcription if it is in progress: there are no more pieces, for no thread."""
        self._closed = True
        self._job.stop()

    @property
    def text(self) -> str:
        """Of the chunks that are done and whose pieces were taken, repaired."""
        return join(chunk.output for chunk in self._chunks)

    @property
    def result(self) -> Result:
        """The whole; there once all pieces were taken.

        Raises:
            UsageError: they were not.
        """
        if self._result is None:
            raise UsageError("the stream has no result yet: take all its pieces first")
        return self._result


class Model:
    """A loaded model; a context manager. Made by ``load``."""

    def __init__(self, library: Path, options: LoadOptions) -> None:
        self._engine = Engine(library, options)
        self.path = Path(options["model"])
        self.library = library
        self.threads = options["threads"]
        self.language = options["language"]  # that was forced
        self.max_new_tokens = options["max_new_tokens"]
        self.load_ms = self._engine.load_ms
        self._turn = threading.Condition()  # guards what follows, and calls of abort and close
        self._job: _Job | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @overload
    def transcribe(
        self,
        source: Source,
        *,
        rate: float | None = None,
        max_chunk: float = DEFAULT_MAX_CHUNK_S,
        stream: Literal[False] = False,
    ) -> Result: ...

    @overload
    def transcribe(
        self,
        source: Source,
        *,
        rate: float | None = None,
        max_chunk: float = DEFAULT_MAX_CHUNK_S,
        stream: Literal[True],
    ) -> Stream: ...

    def transcribe(
        self,
        source: Source,
        *,
        rate: float | None = None,
        max_chunk: float = DEFAULT_MAX_CHUNK_S,
        stream: bool = False,
    ) -> Result | Stream:
        """Transcribe audio of any length.

        Args:
            source: a path, the bytes of a file, a file object open for bytes, or an array [frames] or
                [frames, channels] of floating-point numbers, int16 or int32.
            rate: of an array, samples a second.
            max_chunk: seconds of audio given to the model at a time; longer audio is cut where it is quiet.
            stream: return the text in pieces, as it comes.

        Raises:
            AudioError: the audio cannot be used; a stream raises it at the first piece.
            EngineError: the engine failed; likewise.
            UsageError: an argument makes no sense, or the model is closed.
        """
        check_source(source, rate)
        if not LEAST_MAX_CHUNK_S <= max_chunk <= MAX_SECONDS:
            raise UsageError(
                f"max_chunk is {max_chunk:g}: give seconds from {LEAST_MAX_CHUNK_S:g} to {MAX_SECONDS:,}"
            )
        with self._turn:
            self._check_open()
        pieces = Stream(_Job(self, source, rate, int(max_chunk * SAMPLE_RATE)))
        if stream:
            return pieces
        for _ in pieces:
            pass
        return pieces.result

    def close(self) -> None:
        """Unload the model, ending what it transcribes; a second call does nothing."""
        with self._turn:
            if self._closed:
                return
            self._closed = True
            self._turn.notify_all()
            while self._job:
                self._engine.abort()
                self._turn.wait(_ABORT_AGAIN_S)
        self._engine.close()

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"{self.path}: the model is closed; load it again")

    @contextlib.contextmanager
    def _turn_of(self, job: _Job) -> Iterator[Engine]:
        """Wait for the engine, unless the job is stopped or the model closed meanwhile."""
        with self._turn:
            self._turn.wait_for(lambda: self._closed or job.stopping or not self._job)
            self._check_open()
            if job.stopping:
                raise _Stopped
            self._job = job
        try:
            yield self._engine
        finally:
            with self._turn:
                self._job = None
                self._turn.notify_all()

    def _abort(self, job: _Job) -> None:
        with self._turn:
            self._turn.notify_all()
            if self._job is job:
                self._engine.abort()


class _Stopped(Exception):
    """Nobody wants the rest."""


class _Job:
    """One transcription on a thread of its own; what it says comes through ``said``."""

    def __init__(self, model: Model, source: Source, rate: float | None, most_samples: int) -> None:
        self.said: queue.SimpleQueue[str | Chunk | Result | BaseException] = queue.SimpleQueue()
        self.stopping = False
        self._model = model
        self._source = source
        self._rate = rate
        self._most_samples = most_samples
        self._thread = threading.Thread(target=self._run, name="asrswitch-transcribe")

    def start(self) -> None:
        self._thread.start()

    def stop(self, longest_wait_s: float = math.inf) -> None:
        """End it, if it has not ended, and wait for that."""
        self.stopping = True
        deadline = time.monotonic() + longest_wait_s
        while self._thread.is_alive() and time.monotonic() < deadline:
            if threading.current_thread() is self._thread:  # which collects garbage; it will see
                return
            self._model._abort(self)
            self._thread.join(_ABORT_AGAIN_S)

    def _run(self) -> None:
        try:
            with self._model._turn_of(self) as engine:
                result = self._transcribe(engine)
            self.said.put(result)
        except MemoryError:
            name = name_of(self._source)
            self.said.put(EngineError(f"{name}: out of memory; free some, or give less at a time"))
        except BaseException as error:  # it is raised where the pieces are taken
            self.said.put(error)

    def _transcribe(self, engine: Engine) -> Result:
        name = name_of(self._source)
        chunks: list[Chunk] = []
        said = Output(None, "")  # by the last chunk with text
        begin = 0
        with contextlib.closing(read_blocks(self._source, self._rate)) as blocks:
            for samples in split(self._while_wanted(blocks), self._most_samples):
                try:
                    chunk = self._transcribe_chunk(engine, samples, begin, said)
                except EngineError as error:
                    self._check_wanted()
                    where = name if begin == 0 else f"{name}, from {begin / SAMPLE_RATE:.1f} s"
                    raise EngineError(f"{where}: {error}") from None
                self.said.put(chunk)
                chunks.append(chunk)
                said = chunk.output if chunk.text else said
                begin += len(samples)
        return _result(chunks, self._model.load_ms)

    def _transcribe_chunk(self, engine: Engine, samples: Samples, begin: int, before: Output) -> Chunk:
        transcript = TranscriptStream()
        forced = self._model.language
        begun = False

        def say(text: str) -> None:
            nonlocal begun
            if text and not begun:
                begun = True
                text = separator(before, Output(transcript.language or forced, text)) + text
            if text:
                self.said.put(text)

        def listen(piece: str) -> None:
            if self._unwanted():
                engine.abort()
            say(transcript.feed(piece))

        run = engine.run(samples, listen)
        say(transcript.finish())
        raw = "".join(text for _, text in run.pieces)
        output = split_output(repair_repetitions(raw))
        seconds = len(samples) / SAMPLE_RATE
        figures = figure_out(run.pieces, run.submitted_ns, run.returned_ns, seconds, run.statistics)
        return Chunk(
            start_s=begin / SAMPLE_RATE,
            end_s=(begin + len(samples)) / SAMPLE_RATE,
            language=output.language or forced,
            text=output.text,
            raw=raw,
            cut_off=(figures.tokens or 0) >= self._model.max_new_tokens,
            figures=figures,
        )

    def _while_wanted(self, blocks: Iterator[Samples]) -> Iterator[Samples]:
        for block in blocks:
            self._check_wanted()
            yield block

    def _check_wanted(self) -> None:
        self._model._check_open()
        if self._unwanted():
            raise _Stopped

    def _unwanted(self) -> bool:
        """Whether it was stopped, or the program is ending and waits for this thread."""
        return self.stopping or not threading.main_thread().is_alive()


def load(
    model: str | os.PathLike[str],
    *,
    threads: int | None = None,
    context: int | None = None,
    language: str | None = None,
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    library: str | os.PathLike[str] | None = None,
    preload: bool = False,
    lock: bool = False,
) -> Model:
    """Load a model; use the result in a ``with`` statement, or close it.

    Args:
        model: path of a ``.bin`` file, or the name of an embedded or a fetched model.
        threads: of the engine; the physical cores that this process may use.
        context: tokens in the KV cache, of audio, prompt and text together; what the model was made for.
        language: force it, by its name or code, as Chinese or zh; the model tells it by itself.
        max_new_tokens: the most that a chunk's text can have.
        library: another ``libchatllm.so``, or one with the same C interface; ASRSWITCH_LIBRARY, or our own.
        preload: read the whole model file while loading, so that no request waits for a disk.
        lock: pin the weights in memory, which RLIMIT_MEMLOCK must allow.

    Raises:
        UsageError: an argument makes no sense, or there is no such file.
        LibraryError: no library, or one without the interface.
        EngineError: the model cannot be loaded.
    """
    path = _model_file(os.fspath(model))
    for name, number, most in (
        ("threads", threads, MOST_THREADS),
        ("context", context, MOST_TOKENS),
        ("max_new_tokens", max_new_tokens, MOST_TOKENS),
    ):
        if number is not None and not 1 <= number <= most:
            raise UsageError(f"{name} is {number}: give a number from 1 to {most}")
    forced = None if language is None else _language_name(language)
    options: LoadOptions = {
        "model": str(path),
        "threads": machine.physical_cores() if threads is None else threads,
        "context": context,
        "language": forced,
        "max_new_tokens": max_new_tokens,
        "preload": preload,
        "lock": lock,
    }
    return Model(find_library(None if library is None else os.fspath(library), os.environ), options)


def _follow(job: _Job, chunks: list[Chunk]) -> Generator[str, None, Result | None]:
    """The job's pieces of text as they come, and its result unless it was stopped.

    Its chunks are added to ``chunks``.
    """
    try:
        job.start()
        while True:
            said = job.said.get()
            if isinstance(said, str):
                yield said
            elif isinstance(said, Chunk):
                chunks.append(said)
            elif isinstance(said, Result):
                return said
            elif isinstance(said, _Stopped):
                return None
            else:
                raise said
    finally:
        # The garbage collector may be who drops it, in the middle of anything: it is not to wait for ever.
        job.stop(_DROPPED_WAIT_S)


def _result(chunks: Sequence[Chunk], load_ms: float) -> Result:
    figures = [chunk.figures for chunk in chunks]
    audio_s = chunks[-1].end_s
    inference_ms = sum(figure.inference_ms for figure in figures)
    spoken = [figure for figure in figures if figure.tokens_per_s]
    speaking_s = sum((figure.callbacks - 1) / (figure.tokens_per_s or 1) for figure in spoken)
    prompts = [figure.prompt_tokens for figure in figures if figure.prompt_tokens is not None]
    return Result(
        text=join(chunk.output for chunk in chunks),
        language=merge_languages(chunk.language for chunk in chunks),
        raw="\n".join(chunk.raw for chunk in chunks),
        audio_s=audio_s,
        tokens=sum(figure.tokens or 0 for figure in figures),
        prompt_tokens=sum(prompts) if len(prompts) == len(figures) else None,
        timings=Timings(
            load_ms=load_ms,
            ttft_ms=next((figure.ttft_ms for figure in figures if figure.ttft_ms is not None), None),
            inference_ms=inference_ms,
            rtf=inference_ms / 1e3 / audio_s,
            tokens_per_s=sum(figure.callbacks - 1 for figure in spoken) / speaking_s if spoken else None,
        ),
        chunks=tuple(chunks),
    )


def _model_file(word: str) -> Path:
    path = Path(word)
    with contextlib.suppress(OSError):  # a name too long for a file, for one
        if path.is_file():
            return path
        if path.exists():
            raise UsageError(f"{word}: not a file; give a model's .bin file")
    found = find_model(word)
    if found is None:
        raise UsageError(
            f"{word}: no such file, and no model of that name; `models list` shows those there are"
        )
    return found


def _language_name(word: str) -> str:
    for code, name in LANGUAGES.items():
        if word.casefold() in (code, name.casefold()):
            return name
    raise UsageError(
        f"language {word}: unknown; use one of {', '.join(LANGUAGES.values())}, or a code like zh"
    )
