"""What an input to a model will take in memory, as the engine itself predicts it in a worker process."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
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
from asrswitch.worker_process import StoppedError, StopSignals, worker

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
    command: Command = {
        "command": "memory_needs",
        "load": {
            "model": str(model.absolute()),
            "threads": question.threads,
            "context": question.context,
            "language": None,
            "max_new_tokens": question.max_new_tokens,
            "preload": False,
            "lock": False,
        },
        "clip_s": question.clip_s,
    }
    try:
        library = find_library(None, environ)
        with (
            tempfile.TemporaryDirectory(prefix="asrswitch-") as scratch,
            worker(library, Path(scratch) / "worker.log", stop) as process,
        ):
            needs = process.request(command, MemoryNeeds, DEFAULT_TIMEOUT_S)
    except StoppedError:
        raise
    except AsrSwitchError as error:
        return NoPrediction(str(error))
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
