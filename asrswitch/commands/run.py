"""Make runs."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from asrswitch import __version__, audio
from asrswitch.commands.common import Parser, alone, console
from asrswitch.commands.report import exit_code
from asrswitch.convert.atomic import atomic_output
from asrswitch.errors import AsrSwitchError, UsageError
from asrswitch.experiment import read_experiment
from asrswitch.interleave import n_cycles_over, take_turns
from asrswitch.native.locate import VARIABLE, find_library
from asrswitch.plan import (
    ALLOCATORS,
    DEFAULT_MAX_NEW_TOKENS,
    DEFAULT_SAMPLE_HZ,
    DEFAULT_TIMEOUT_S,
    LOG_NAME,
    Options,
    Plan,
    Strategy,
    make_out_directory,
)
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
from asrswitch.worker_process import StopSignals

REMEDY_FOR_OUTPUT = "`report RUN_DIR` prints a run's tables"
# Options that are read here, or that make several plans of one set of options.
_OF_THE_COMMAND = ("resume", "experiment", "check", "dry_run", "quiet", "json")
_NOT_OF_A_PLAN = {"type", "threads", "context", "strategy", "allocator", "library", *_OF_THE_COMMAND}
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
      --memory-limit SIZE  of a worker, as 300M or 2G; models are held to it
      --restart-above SIZE    larger models get a fresh worker; default: where memory is tight
      --switches-per-hour N   what to recommend a strategy for
      --order NAME         small-first (default), given, or shuffle by --seed N
      --preload, --lock    read the whole model file ahead while loading; pin the weights in memory
      --trim NAME          after unloads: probe a copy (default), always, never
      --sample-hz N        samples of memory between readings; default: {DEFAULT_SAMPLE_HZ:g}
      --timeout S          for a phase; default: {DEFAULT_TIMEOUT_S:g} s
      --allow-concurrent   run beside others that measure here
  -o, --out DIR            for the log; default: runs/<time>
      --resume DIR         go on with the interrupted run of that --out
      --experiment FILE    options from a TOML file; those of the command line win
      --label TEXT, --metadata KEY=VALUE   written down with the run
      --check              exit 3 on a leak, 4 when inconclusive, 5 when the run is not to be trusted
      --quiet, --json      nothing but the result; the result as JSON
      --dry-run, --version, -h, --help; as the only option: --completion bash|zsh|fish

Lists as in -t 1,2 or -s reload,isolate (-c, --type, --allocator) and -l twice: runs in turns, compared.
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
    plans = [run.plan for run in earlier] or _plans(options)
    logs = [list(run.records) for run in earlier] or [[] for _ in plans]
    terminal = console()
    if options.get("dry_run"):
        _show_schedules(terminal, plans)
        return 0
    libraries = [find_library(plan.library, os.environ) for plan in plans]
    if earlier:
        libraries = [find_library(run.library, os.environ) for run in earlier]
    directory = Path(plans[0].out) if plans[0].variant is None else Path(plans[0].out).parent
    ended_by: AsrSwitchError | None = None
    with (
        alone(plans[0].allow_concurrent),
        tempfile.TemporaryDirectory(prefix="asrswitch-") as scratch,
        StopSignals() as stop,
    ):
        clips = [audio.prepare(Path(clip.path), Path(scratch)) for clip in plans[0].clips]
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
            _show(terminal, directory, as_json)
        raise ended_by
    summaries = _show(terminal, directory, as_json)
    if failures := [failure for summary in summaries for failure in summary.failures]:
        first, count = failures[0], sum(failure.attempt == 1 for failure in failures)
        where = f"iteration {first.iteration}, {first.model}, {first.phase}"
        raise AsrSwitchError(f"{count} failure{'s' * (count > 1)}; the first: {where}: {first.message}")
    return exit_code(summaries, check=bool(options.get("check")))


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
    libraries: Sequence[Path],
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


def _plans(options: Mapping[str, Any]) -> list[Plan]:
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
    )
    return make_plans(Options(**plain), varying, os.environ, datetime.now())


def _earlier(given: Mapping[str, Any]) -> list[Earlier]:
    """The runs to go on with; they go on as they began, so that no other option has a meaning."""
    for name in given:
        if name not in ("resume", "check", "dry_run", "quiet", "json"):
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} with --resume: the run goes on as it began; leave {option} out")
    return read_interrupted(Path(given["resume"]))


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
        ("--allocator",),
        ("--memory-limit",),
        ("--restart-above",),
        ("--order",),
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
