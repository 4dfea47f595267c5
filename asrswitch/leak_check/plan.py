"""What a leak check is to do, as a value: made from options and the environment, and checked here."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from asrswitch import plan as run_plan
from asrswitch.errors import UsageError
from asrswitch.model import Model
from asrswitch.native.locate import find_library

DEFAULT_CYCLES = 6
DEFAULT_THREADS = 2  # enough for a thread pool to show what it loses; valgrind runs one thread at a time
DEFAULT_MAX_NEW_TOKENS = 16
DEFAULT_TIMEOUT_S = 3600.0
SHORT_CYCLES = 2  # of the run that the longer one is compared with: what is made once is made in these
_FEWEST, _MOST = SHORT_CYCLES + 1, 10_000
_DRIVEN_MODELS = 2


class Tool(enum.Enum):
    """The valgrind tools that are used."""

    MEMCHECK = "memcheck"
    MASSIF = "massif"
    DHAT = "dhat"


class LeakCheckOptions(msgspec.Struct, frozen=True):
    """The command line as it was given; None where an option was not."""

    tool: str = Tool.MEMCHECK.value
    library: str | None = None
    models: Sequence[str] = ()
    audio: str | None = None
    cycles: int = DEFAULT_CYCLES
    threads: int = DEFAULT_THREADS
    context: int | None = None
    language: str | None = None
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    timeout_s: float = DEFAULT_TIMEOUT_S
    driver: str | None = None
    out: str | None = None


class LeakCheckPlan(msgspec.Struct, frozen=True):
    """Everything that decides what a leak check does. All paths are absolute."""

    tool: Tool
    library: str
    models: tuple[Model, ...]
    audio: str
    cycles: tuple[int, ...]  # of each model: one number a run, the shorter first
    threads: int
    context: int | None
    language: str | None
    max_new_tokens: int
    timeout_s: float  # for one phase
    driver: str | None  # the native program that makes the cycles, instead of our worker
    out: str | None

    @property
    def extra_cycles(self) -> int:
        """By how many cycles of each model the longer run is longer."""
        return self.cycles[-1] - self.cycles[0]


def make_leak_check_plan(options: LeakCheckOptions, environ: Mapping[str, str]) -> LeakCheckPlan:
    """Turn options and environment into a checked plan.

    Raises:
        UsageError: a value out of range, a missing or unreadable file, options that exclude each other.
        LibraryError: a library that is not there.
    """
    if not _FEWEST <= options.cycles <= _MOST:
        raise UsageError(f"--cycles is {options.cycles}: give a number from {_FEWEST} to {_MOST}")
    tool = Tool(options.tool)
    # Models, clip and what the environment says are the same as for a run, and checked there.
    run = run_plan.make_plan(
        run_plan.Options(
            iterations="1",
            models=options.models,
            audio=[options.audio] if options.audio else [],
            threads=options.threads,
            context=options.context,
            language=options.language,
            max_new_tokens=options.max_new_tokens,
            timeout_s=options.timeout_s,
        ),
        environ,
        datetime.now(),
    )
    driver = _driver(options.driver, tool, len(run.models)) if options.driver is not None else None
    return LeakCheckPlan(
        tool=tool,
        # The driver brings its library; without one named, what is in the driver itself is examined.
        library=driver if driver and not options.library else str(find_library(options.library, environ)),
        models=run.models,
        audio=run.clips[0].path,
        cycles=(options.cycles,) if tool is Tool.MASSIF else (SHORT_CYCLES, options.cycles),
        threads=run.threads,
        context=run.context,
        language=run.language,
        max_new_tokens=run.max_new_tokens,
        timeout_s=run.timeout_s,
        driver=driver,
        out=str(Path(options.out).absolute()) if options.out is not None else None,
    )


def make_out_directory(out: str) -> Path:
    """Create the directory that takes valgrind's files."""
    path = Path(out)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{path}: cannot make this directory ({error.strerror}); name another by --out"
        ) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"{path}: this directory is not writable; name another by --out")
    return path


def _driver(word: str, tool: Tool, n_models: int) -> str:
    path = Path(word).absolute()
    if not path.is_file() or not os.access(path, os.X_OK):
        raise UsageError(f"{word}: no program that can be run; check --driver, or build the native tests")
    if tool is not Tool.MEMCHECK:
        raise UsageError(f"--driver with --tool {tool.value}: the driver goes with memcheck; leave one out")
    if n_models > _DRIVEN_MODELS:
        raise UsageError(f"--driver with {n_models} models: it alternates {_DRIVEN_MODELS}; give fewer")
    return str(path)
