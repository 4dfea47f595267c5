"""Make runs."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from asrswitch import __version__, audio
from asrswitch.commands.common import Parser, alone, console, scratch_directory
from asrswitch.commands.report import exit_code
from asrswitch.convert.atomic import atomic_output
from asrswitch.errors import AsrSwitchError, UsageError
from asrswitch.experiment import placed, read_experiment
from asrswitch.interleave import n_cycles_over, take_turns
from asrswitch.memory_prediction import may_predict
from asrswitch.model_file import read_model_file
from asrswitch.native.locate import VARIABLE, find_library
from asrswitch.plan import (
    ALLOCATORS,
    DEFAULT_MAX_NEW_TOKENS,
    DEFAULT_SAMPLE_HZ,
    DEFAULT_TIMEOUT_S,
    LOG_NAME,
    CacheState,
    Options,
    Plan,
    Strategy,
    make_out_directory,
)
from asrswitch.prompts import sandbox
from asrswitch.prompts.checks import needs_sandbox
from asrswitch.records import LogWriter, Record
from asrswitch.report.console import render_schedule, show
from asrswitch.report.progress import RunProgress
from asrswitch.report.runs import read_report
from asrswitch.report.tables import parts, to_json
from asrswitch.resume import Earlier, read_interrupted
from asrswitch.runner import Runner
from asrswitch.schedule import make_schedule
from asrswitch.stats.sequential import FIRST_LOOK
from asrswitch.summary import Summary
from asrswitch.variants import make_plans, make_varying
from asrswitch.worker_process import StoppedError, StopSignals

REMEDY_FOR_OUTPUT = "`report RUN_DIR` prints a run's tables"
# Options that are read here, or that make several plans of one set of options.
_OF_THE_COMMAND = ("resume", "experiment", "check", "dry_run", "quiet", "json")
_NOT_OF_A_PLAN = {
    "type",
    "threads",
    "context",
    "strategy",
    "allocator",
    "library",
    "cache",
    "restart_above",
    *_OF_THE_COMMAND,
}
_HELP = f"""\
usage: asrswitch [run] --iters N [options]            `python -m asrswitch` does the same

Switch between speech models again and again; measure what it costs and whether the memory comes back.

  -r, --iters N            turns of each model; auto, auto:500, auto:30m: until the verdict is decided
  -m, --model [LABEL=]PATH    or a name as in `models list`; repeatable; default: the embedded ones
      --type TYPE          of models given by name, as q4_0
  -a, --audio FILE         repeatable; default: an embedded telephone number
      --reference TEXT     or @FILE, one a clip; default: .txt beside it
      --language NAME      force it: Chinese, zh, English, en, and so on
  -t, --threads N          default: the physical cores this process may use
  -c, --context TOKENS     size of the KV cache; default: the model's
  -n, --max-new-tokens N   default: {DEFAULT_MAX_NEW_TOKENS}
  -s, --strategy NAME      {", ".join(s.value for s in Strategy)}, or all
      --allocator NAME     {", ".join(ALLOCATORS)}, or all
  -l, --library FILE       another library with the same C interface; repeatable
      --backend NAME[:CONFIG]    chatllm (default), command, ollama, openai, and others: docs/backends.md
      --prompts NAME       for backends that take texts: questions, sentences, or a TOML file
      --memory-limit SIZE, --switches-per-hour N    workers are held to it; to recommend a strategy for
      --restart-above SIZE    larger models get a fresh worker or server; 0 is all; never
      --order NAME         small-first (default), given, shuffle by --seed N, packed (as many loaded as fit)
      --preload, --lock    read the whole model file ahead while loading; pin the weights in memory
      --cache, --trim NAME    before loads files as-is, cold, warm; after unloads probe a copy, always, never
      --sample-hz N        samples of memory between readings; default: {DEFAULT_SAMPLE_HZ:g}
      --allow-concurrent   run beside others that measure here
      --timeout S          for a phase; default: {DEFAULT_TIMEOUT_S:g} s
  -o, --out DIR            for the log; default: runs/<time>
      --resume DIR         go on with the interrupted run of that --out
      --experiment FILE    options from a TOML file; those of the command line win
      --label TEXT, --metadata KEY=VALUE   written down with the run
      --check, --quiet, --json    exit codes that judge; nothing but the result; the result as JSON
      --dry-run, --version, -h, --help; as the only option: --completion bash|zsh|fish

Lists as in -t 1,2 or -s reload,isolate (-c, --type, --allocator, --cache, --restart-above), -l twice: turns.
Other verbs: transcribe, bench, leak-check, report, compare, models, doctor; each has its own --help.
  python -m asrswitch --iters 50
  python -m asrswitch --iters auto -m small.bin -m large.bin --check
Environment, for absent options: INFERENCE_THREADS, CONTEXT_LENGTH, ASR_LANGUAGE, {VARIABLE}.
Exit codes: 0 done, 1 failure, 2 wrong usage, 130 stopped by Ctrl-C, 143 by SIGTERM;
with --check 3 leak, 4 inconclusive, 5 invalid.
"""


def main(words: Sequence[str]) -> int:
    """Make a run, or several that take turns, or go on with them."""
    given = vars(make_parser().parse_args(words))
    earlier = _earlier(given) if "resume" in given else []
    options = _merge(given)
    plans = [run.plan for run in earlier] or _plans(given, options)
    logs = [list(run.records) for run in earlier] or [[] for _ in plans]
    terminal = console()
    named = [*(run.library for run in earlier)] if earlier else [plan.library for plan in plans]
    libraries = [_engine(plan, library) for plan, library in zip(plans, named, strict=True)]
    _check_models(plans, libraries)
    if any(needs_sandbox(prompt) for prompt in plans[0].prompts):
        sandbox.confinement()
    if options.get("dry_run"):
        _show_schedules(terminal, plans)
        return 0
    directory = Path(plans[0].out) if plans[0].variant is None else Path(plans[0].out).parent
    places = dict.fromkeys([*(Path(plan.out) for plan in plans), directory])
    new = [place for place in places if not place.exists()]
    ended_by: AsrSwitchError | None = None
    with (
        alone(plans[0].allow_concurrent),
        scratch_directory() as scratch,
        StopSignals() as stop,
    ):
        clips = [audio.prepare(Path(clip.path), scratch) for clip in plans[0].clips]
        paths = [make_out_directory(plan.out, resume=bool(earlier)) / LOG_NAME for plan in plans]
        calm = options.get("quiet") or options.get("json")
        with RunProgress(Console(stderr=True), plans, n_cycles_over(logs), quiet=bool(calm)) as progress:
            try:
                _run_in_turns(plans, libraries, logs, paths, clips, stop, progress)
            except AsrSwitchError as error:
                ended_by = error
    as_json = bool(options.get("json"))
    if ended_by:
        with contextlib.suppress(AsrSwitchError):  # the log may hold nothing at all, the disk be full
            if _was_anything_read(directory):
                _show(terminal, directory, as_json)
            elif not (earlier or isinstance(ended_by, StoppedError)):  # one that was stopped can go on
                _remove_unbegun(paths, new)
        raise ended_by
    summaries = _show(terminal, directory, as_json)
    if failures := [failure for summary in summaries for failure in summary.failures]:
        first, count = failures[0], sum(failure.attempt == 1 for failure in failures)
        where = f"iteration {first.iteration}, {first.model}, {first.phase}"
        raise AsrSwitchError(f"{count} failure{'s' * (count > 1)}; the first: {where}: {first.message}")
    return exit_code(summaries, check=bool(options.get("check")))


def _engine(plan: Plan, library: str | None) -> Path | None:
    """The library, or the program, that runs a plan's models; other backends have neither.

    Raises:
        LibraryError: no library was found.
        UsageError: the program of a run that goes on is there no more.
    """
    if plan.backend.is_default:
        return find_library(library, os.environ)
    program = plan.backend.program
    if program and not os.access(program, os.X_OK):
        raise UsageError(f"{program}: there is no such program any more; put it back, or begin a new run")
    return Path(program) if program else None


def _check_models(plans: Sequence[Plan], libraries: Sequence[Path | None]) -> None:
    """Refuse, before anything is measured, what is no model file of our engine's.

    Other libraries may read other files, and say themselves what they cannot.

    Raises:
        UsageError: a file is at fault; the message names the field and its offset.
    """
    pairs = zip(plans, libraries, strict=True)
    ours = [plan for plan, library in pairs if plan.backend.is_default and library and may_predict(library)]
    for path in dict.fromkeys(model.path for plan in ours for model in plan.models):
        try:
            read_model_file(Path(path))
        except AsrSwitchError as error:
            raise UsageError(str(error)) from None


def _was_anything_read(directory: Path) -> bool:
    return any(run.summary.resident for run in read_report(directory).runs)


def _remove_unbegun(paths: Sequence[Path], new: Sequence[Path]) -> None:
    """Leave nothing of runs that never began, unless one of their workers said something.

    Args:
        paths: their logs.
        new: the directories that were made for them.
    """
    said = [worker for path in paths for worker in path.parent.glob("worker-*.log")]
    with contextlib.suppress(OSError):
        if not any(worker.stat().st_size for worker in said):
            for file in (*paths, *said):
                file.unlink(missing_ok=True)
            for place in new:
                place.rmdir()


def _show(terminal: Console, directory: Path, as_json: bool) -> list[Summary]:
    """Print the result, and leave it beside the log as ``summary.json``."""
    result = read_report(directory)
    content = to_json(result)
    if as_json:
        print(content, end="")
    else:
        show(terminal, parts(result))
    with atomic_output(directory / "summary.json") as file:
        file.write(content.encode())
    return result.summaries


def _show_schedules(terminal: Console, plans: Sequence[Plan]) -> None:
    for plan in plans:
        if plan.until_decided:
            plan = msgspec.structs.replace(plan, iterations=min(plan.iterations, FIRST_LOOK))
            show(terminal, [Text("the first look at the verdict comes after these; there may be more")])
        show(terminal, render_schedule(plan, make_schedule(plan)))


def _run_in_turns(
    plans: Sequence[Plan],
    libraries: Sequence[Path | None],
    logs: Sequence[list[Record]],
    paths: Sequence[Path],
    clips: Sequence[audio.PreparedClip],
    stop: StopSignals,
    progress: RunProgress,
) -> None:
    """Run plans stretch by stretch; ``logs`` are their earlier records, and grow where that is looked at."""
    with contextlib.ExitStack() as stack:
        runners = []
        for plan, library, log, path in zip(plans, libraries, logs, paths, strict=True):
            writer = stack.enter_context(LogWriter(path, resume=bool(log)))
            observers = [progress.observer(plan, log), *([log.append] if plan.until_decided else [])]
            runner = Runner(plan, library, clips, writer, stop, observers, earlier=log)
            runners.append(stack.enter_context(runner))
        for run, cycles in take_turns(plans, logs):
            runners[run].run(cycles)


def _merge(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the command line gives, and what its experiment file gives besides."""
    if "experiment" not in given:
        return dict(given)
    return {**read_experiment(Path(given["experiment"])), **given}


def _plans(given: Mapping[str, Any], options: Mapping[str, Any]) -> list[Plan]:
    """The plans; ``options`` are what the command line gives and what its experiment file gives besides.

    Raises:
        UsageError: an option that is wrong or missing, with its place where the file has it.
    """
    try:
        return _checked_plans(options)
    except UsageError as error:
        if "experiment" not in given:
            raise
        raise placed(error, Path(given["experiment"]), options.keys() - given.keys()) from None


def _checked_plans(options: Mapping[str, Any]) -> list[Plan]:
    if "iters" not in options:
        raise UsageError("--iters is missing: give a number of iterations, or auto; see --help")
    names = {"iters": "iterations", "model": "models", "reference": "references", "timeout": "timeout_s"}
    plain = {names.get(name, name): value for name, value in options.items() if name not in _NOT_OF_A_PLAN}
    varying = make_varying(
        options.get("strategy", Strategy.RELOAD.value),
        options.get("allocator", ALLOCATORS[0]),
        options.get("type"),
        options.get("threads"),
        options.get("context"),
        options.get("library", ()),
        options.get("cache", CacheState.AS_IS.value),
        options.get("restart_above"),
    )
    return make_plans(Options(**plain), varying, os.environ, datetime.now())


def _earlier(given: Mapping[str, Any]) -> list[Earlier]:
    """The runs to go on with; they go on as they began, so that hardly any other option has a meaning."""
    for name in given:
        if name not in ("resume", "allow_concurrent", "check", "dry_run", "quiet", "json"):
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} with --resume: the run goes on as it began; leave {option} out")
    found = read_interrupted(Path(given["resume"]))
    if not given.get("allow_concurrent"):
        return found
    replace = msgspec.structs.replace  # what may be beside a run is no part of what it measures
    return [replace(run, plan=replace(run.plan, allow_concurrent=True)) for run in found]


class _RunParser(Parser):
    """Options that were not given are absent, so that an experiment file can give them."""

    def __init__(self) -> None:
        super().__init__(prog="asrswitch", argument_default=argparse.SUPPRESS)

    def format_help(self) -> str:
        return _HELP


def make_parser() -> argparse.ArgumentParser:
    parser = _RunParser()
    add = parser.add_argument
    for names in (
        ("-r", "--iters"),
        ("--language",),
        ("--type",),
        ("-t", "--threads"),
        ("-c", "--context"),
        ("-s", "--strategy"),
        ("--backend",),
        ("--allocator",),
        ("--memory-limit",),
        ("--restart-above",),
        ("--order",),
        ("--cache",),
        ("--prompts",),
        ("--trim",),
        ("-o", "--out"),
        ("--resume",),
        ("--experiment",),
        ("--label",),
    ):
        add(*names)
    for names in (
        ("-m", "--model"),
        ("-a", "--audio"),
        ("--reference",),
        ("-l", "--library"),
        ("--metadata",),
    ):
        add(*names, action="append")
    for names in (("-n", "--max-new-tokens"), ("--seed",)):
        add(*names, type=int)
    for name in ("--switches-per-hour", "--sample-hz", "--timeout"):
        add(name, type=float)
    for name in ("--preload", "--lock", "--allow-concurrent", "--check", "--quiet", "--json", "--dry-run"):
        add(name, action="store_true")
    add("--version", action="version", version=f"asrswitch {__version__}")
    return parser
