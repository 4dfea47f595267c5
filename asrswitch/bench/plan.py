"""What a benchmark is to do, as a value: made from options and the environment, and checked here."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from asrswitch import plan as run_plan
from asrswitch.catalogue import label_and_path
from asrswitch.errors import LibraryError, UsageError
from asrswitch.model import Model
from asrswitch.native.locate import find_library
from asrswitch.plan import DEFAULT_TIMEOUT_S, threads_from
from asrswitch.variants import numbers_from, types_from

DEFAULT_REPETITIONS = 10
DEFAULT_WARMUPS = 2
DEFAULT_MAX_NEW_TOKENS = 48
MOST_REPETITIONS = 10_000
LIBRARY_NAMES = ("A", "B")


class BenchOptions(msgspec.Struct, frozen=True):
    """The command line as it was given; None where an option was not."""

    models: Sequence[str] = ()  # [LABEL=]PATH
    audio: str | None = None
    types: str | None = None  # of models that are given by name, with commas between
    threads: str | None = None  # N[,N...], or ranges
    context: int | None = None
    language: str | None = None
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    repetitions: int = DEFAULT_REPETITIONS
    warmups: int = DEFAULT_WARMUPS
    libraries: Sequence[str] = ()
    timeout_s: float = DEFAULT_TIMEOUT_S


class BenchPlan(msgspec.Struct, frozen=True):
    """Everything that decides what a benchmark does. All paths are absolute."""

    models: tuple[Model, ...]
    audio: str | None  # None: 11 seconds of an embedded sample
    threads: tuple[int, ...]
    max_new_tokens: int
    repetitions: int
    warmups: int
    libraries: tuple[str, ...]  # A, or A and B
    gauges: tuple[str, ...]  # libraries of which the first that can measures the ceilings
    context: int | None
    language: str | None
    timeout_s: float


def make_bench_plan(options: BenchOptions, environ: Mapping[str, str]) -> BenchPlan:
    """Turn options and environment into a checked plan.

    Raises:
        UsageError: a value out of range, a missing or unreadable file, a label used twice, a third library.
        LibraryError: a library that is not there.
    """
    if not 1 <= options.repetitions <= MOST_REPETITIONS:
        raise UsageError(
            f"--repetitions is {options.repetitions}: give a number from 1 to {MOST_REPETITIONS}"
        )
    if not 0 <= options.warmups <= MOST_REPETITIONS:
        raise UsageError(f"--warmups is {options.warmups}: give a number from 0 to {MOST_REPETITIONS}")
    if len(options.libraries) > len(LIBRARY_NAMES):
        raise UsageError(f"{len(options.libraries)} --library: give one, or two to compare")
    threads = [threads_from(count, environ) for count in numbers_from("--threads", options.threads)]
    # Models, clip and what the environment says are the same as for a run, and checked there.
    run = run_plan.make_plan(
        run_plan.Options(
            iterations="1",
            models=_of_each_type(options.models, types_from(options.types), environ),
            type=options.types if not options.models else None,
            audio=[options.audio] if options.audio else [],
            threads=threads[0],
            context=options.context,
            language=options.language,
            max_new_tokens=options.max_new_tokens,
            timeout_s=options.timeout_s,
        ),
        environ,
        datetime.now(),
    )
    libraries = [str(find_library(word, environ)) for word in options.libraries or (None,)]
    gauges = list(libraries)
    for variables in (environ, {}):  # another's library cannot, but ours can
        with contextlib.suppress(LibraryError):
            gauges.append(str(find_library(None, variables)))
    return BenchPlan(
        models=run.models,
        audio=run.clips[0].path if options.audio else None,
        threads=tuple(threads),
        max_new_tokens=run.max_new_tokens,
        repetitions=options.repetitions,
        warmups=options.warmups,
        libraries=tuple(libraries),
        gauges=tuple(dict.fromkeys(gauges)),
        context=run.context,
        language=run.language,
        timeout_s=run.timeout_s,
    )


def _of_each_type(words: Sequence[str], types: Sequence[str | None], environ: Mapping[str, str]) -> list[str]:
    """LABEL=PATH of each model in each type; of several types the label says which."""
    models = []
    for word in words:
        for type in types:
            label, path = label_and_path(word, type, environ)
            models.append(f"{label}-{type}={path}" if len(types) > 1 else f"{label}={path}")
    return models
