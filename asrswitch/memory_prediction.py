"""What an input to a model will take in memory, as the engine itself predicts it in a worker process."""

from __future__ import annotations

import contextlib
import math
import mmap
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from asrswitch.errors import AsrSwitchError, UsageError
from asrswitch.native.locate import find_library
from asrswitch.plan import (
    DEFAULT_MAX_NEW_TOKENS,
    DEFAULT_TIMEOUT_S,
    check_new_tokens,
    context_from,
    threads_from,
)
from asrswitch.worker.protocol import Command, MemoryNeeds
from asrswitch.worker_process import StoppedError, StopSignals, WorkerError, WorkerProcess, worker

DEFAULT_CLIP_S = 11.0


class MemoryOptions(msgspec.Struct, frozen=True):
    """The input that is asked about; None where the option was not given."""

    clip_s: float = DEFAULT_CLIP_S
    context: int | None = None
    threads: int | None = None
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS


class MemoryQuestion(msgspec.Struct, frozen=True):
    """The same, checked. ``context`` is None where the model's own longest counts."""

    clip_s: float
    context: int | None
    threads: int
    max_new_tokens: int


class MemoryPrediction(msgspec.Struct, frozen=True):
    """What the input takes, in bytes. The parts of the anonymous memory are not all there at one time."""

    question: MemoryQuestion
    weights_bytes: int  # file-backed, and shared by all processes that have the model loaded
    anonymous_bytes: int  # at its highest
    loaded_bytes: int  # of those, from load to unload
    clip_bytes: int
    encoder_workspace_bytes: int
    decoder_workspace_bytes: int
    kv_cache_bytes: int


class NoPrediction(msgspec.Struct, frozen=True):
    """Why there is none, in a line."""

    reason: str


def make_question(options: MemoryOptions, environ: Mapping[str, str]) -> MemoryQuestion:
    """Check what was given, and add what the environment says as it does for a run.

    Raises:
        UsageError: a value out of range.
    """
    if not (math.isfinite(options.clip_s) and options.clip_s > 0):
        raise UsageError(f"--clip is {options.clip_s:g}: give a number of seconds above 0")
    check_new_tokens(options.max_new_tokens)
    context, threads = context_from(options.context, environ), threads_from(options.threads, environ)
    return MemoryQuestion(options.clip_s, context, threads, options.max_new_tokens)


def predict_memory(
    model: Path, model_bytes: int, question: MemoryQuestion, environ: Mapping[str, str], stop: StopSignals
) -> MemoryPrediction | NoPrediction:
    """Ask the library, wherever a run would find it, in a process of its own.

    Args:
        model: the model file.
        model_bytes: its size.
        question: the input to it.
        environ: may name the library.
        stop: what ends the wait for an answer.

    Raises:
        StoppedError: a signal came; no worker is left.
    """
    try:
        library = find_library(None, environ)
    except AsrSwitchError as error:
        return NoPrediction(str(error))
    (prediction,) = predict_each(library, [(model, model_bytes)], question, None, stop)
    return prediction


def predict_each(
    library: Path,
    models: Sequence[tuple[Path, int]],
    question: MemoryQuestion,
    environ: Mapping[str, str] | None,
    stop: StopSignals,
) -> list[MemoryPrediction | NoPrediction]:
    """Ask a library about several model files of known sizes, one after the other, in a process of its own.

    Raises:
        StoppedError: a signal came; no worker is left.
    """
    predictions: list[MemoryPrediction | NoPrediction] = []
    try:
        with (
            tempfile.TemporaryDirectory(prefix="asrswitch-") as scratch,
            worker(library, Path(scratch) / "worker.log", stop, environ) as process,
        ):
            for model, model_bytes in models:
                try:
                    predictions.append(_predict(process, model, model_bytes, question))
                except WorkerError as error:
                    predictions.append(NoPrediction(str(error)))
    except StoppedError:
        raise
    except (AsrSwitchError, OSError) as error:  # of the worker: nothing more is to be had from it
        predictions += [NoPrediction(str(error))] * (len(models) - len(predictions))
    return predictions


def may_predict(library: Path) -> bool:
    """Whether it is worth asking: what a library exports stands in its file by name."""
    with (
        contextlib.suppress(OSError, ValueError),  # an empty file cannot be mapped
        library.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return content.find(b"chatllm_ext_memory_needs") >= 0
    return False


def _predict(
    process: WorkerProcess, model: Path, model_bytes: int, question: MemoryQuestion
) -> MemoryPrediction:
    command: Command = {
        "command": "memory_needs",
        "load": {
            "model": str(model.absolute()),
            "threads": question.threads,
            "context": question.context,
            "max_new_tokens": question.max_new_tokens,
        },
        "clip_s": question.clip_s,
    }
    needs = process.request(command, MemoryNeeds, DEFAULT_TIMEOUT_S)
    return MemoryPrediction(
        question=question,
        weights_bytes=model_bytes,
        anonymous_bytes=needs["peak"],
        loaded_bytes=needs["loaded"],
        clip_bytes=needs["clip"],
        encoder_workspace_bytes=needs["encoder"],
        decoder_workspace_bytes=needs["decoder"],
        kv_cache_bytes=needs["kv_cache"],
    )
