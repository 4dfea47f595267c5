"""Make runs."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from asrswitch import __version__, audio
from asrswitch.commands.common import Parser, alone, console
from asrswitch.commands.report import exit_code, show_runs
from asrswitch.errors import AsrSwitchError, LogError, UsageError
from asrswitch.interleave import n_cycles_over, take_turns
from asrswitch.native.locate import VARIABLE, find_library
from asrswitch.plan import (
    ALL,
    ALLOCATORS,
    DEFAULT_MAX_NEW_TOKENS,
    DEFAULT_SAMPLE_HZ,
    DEFAULT_TIMEOUT_S,
    LOG_NAME,
    Options,
    Order,
    Plan,
    Strategy,
    Trimming,
    make_out_directory,
    make_plans,
)
from asrswitch.records import LogWriter, Record
from asrswitch.report.console import render_schedule, show
from asrswitch.report.progress import RunProgress
from asrswitch.resume import Earlier, read_interrupted
from asrswitch.runner import Runner
from asrswitch.schedule import make_schedule
from asrswitch.stats.sequential import FIRST_LOOK
from asrswitch.worker_process import StopSignals

_DESCRIPTION = (
    "Switch between speech models again and again; measure what it costs and whether the memory comes back."
)
_EPILOG = f"""\
other commands: report RUN_DIR, bench, leak-check, models convert|synth|show; each has its own --help
examples:
  python -m asrswitch --iters 50
  python -m asrswitch --iters auto --model small=s.bin --model large=l.bin --check
environment: INFERENCE_THREADS, CONTEXT_LENGTH, ASR_LANGUAGE, {VARIABLE} stand in for absent options.
exit codes: 0 done, 1 failure, 2 usage, 130 stopped by Ctrl-C, 143 by SIGTERM; --check: 3 leak, 4 inconclusive
"""


def main(words: Sequence[str]) -> int:
    """Make a run, or several that take turns, or go on with them."""
    parser = _run_parser()
    given = parser.parse_args(words)
    earlier = _earlier(parser, given) if given.resume is not None else []
    plans = [run.plan for run in earlier] or make_plans(_options(given), os.environ, datetime.now())
    logs = [list(run.records) for run in earlier] or [[] for _ in plans]
    terminal = console()
    if given.dry_run:
        for plan in plans:
            if plan.until_decided:
                plan = msgspec.structs.replace(plan, iterations=min(plan.iterations, FIRST_LOOK))
                show(
                    terminal,
                    [Text(f"the first {plan.iterations} iterations; until decided there may be more")],
                )
            show(terminal, render_schedule(plan, make_schedule(plan)))
        return 0
    library = find_library(earlier[0].library if earlier else given.library, os.environ)
    directory = Path(plans[0].out) if plans[0].variant is None else Path(plans[0].out).parent
    ended_by: AsrSwitchError | None = None
    with (
        alone(plans[0].allow_concurrent),
        tempfile.TemporaryDirectory(prefix="asrswitch-") as scratch,
        StopSignals() as stop,
    ):
        clips = [audio.prepare(Path(clip.path), Path(scratch)) for clip in plans[0].clips]
        paths = [make_out_directory(plan.out, resume=bool(earlier)) / LOG_NAME for plan in plans]
        try:
            _run_in_turns(plans, logs, paths, library, clips, stop, terminal)
        except AsrSwitchError as error:
            ended_by = error
    if ended_by:
        with contextlib.suppress(LogError):  # it may hold nothing at all
            show_runs(terminal, directory)
        raise ended_by
    summaries = show_runs(terminal, directory)
    if failures := [failure for summary in summaries for failure in summary.failures]:
        first, count = failures[0], sum(failure.attempt == 1 for failure in failures)
        where = f"iteration {first.iteration}, {first.model}, {first.phase}"
        raise AsrSwitchError(f"{count} failure{'s' * (count > 1)}; the first: {where}: {first.message}")
    return exit_code(summaries, check=given.check)


def _run_in_turns(
    plans: Sequence[Plan],
    logs: Sequence[list[Record]],
    paths: Sequence[Path],
    library: Path,
    clips: Sequence[audio.PreparedClip],
    stop: StopSignals,
    terminal: Console,
) -> None:
    """Run plans stretch by stretch; ``logs`` are their earlier records, and grow where that is looked at."""
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(RunProgress(terminal, plans, n_cycles_over(logs)))
        runners = []
        for plan, log, path in zip(plans, logs, paths, strict=True):
            writer = stack.enter_context(LogWriter(path, resume=bool(log)))
            observers = [progress.observer(plan), *([log.append] if plan.until_decided else [])]
            runner = Runner(plan, library, clips, writer, stop, observers, earlier=log)
            runners.append(stack.enter_context(runner))
        for run, cycles in take_turns(plans, logs):
            runners[run].run(cycles)


def _options(given: argparse.Namespace) -> Options:
    if given.iters is None:
        raise UsageError("--iters is missing: give a number of iterations, or auto; see --help")
    return Options(
        iterations=given.iters,
        models=given.model,
        audio=given.audio,
        references=given.reference,
        threads=given.threads,
        context=given.context,
        language=given.language,
        strategy=given.strategy,
        max_new_tokens=given.max_new_tokens,
        timeout_s=given.timeout,
        out=given.out,
        preload=given.preload,
        lock=given.lock,
        trim=given.trim,
        sample_hz=given.sample_hz,
        order=given.order,
        seed=given.seed,
        allow_concurrent=given.allow_concurrent,
        allocator=given.allocator,
        memory_limit=given.memory_limit,
        restart_above=given.restart_above,
        switches_per_hour=given.switches_per_hour,
    )


def _earlier(parser: argparse.ArgumentParser, given: argparse.Namespace) -> list[Earlier]:
    """The runs to go on with; they go on as they began, so that no other option has a meaning."""
    defaults = vars(parser.parse_args([]))
    for name, value in vars(given).items():
        if value != defaults[name] and name not in ("resume", "check", "dry_run"):
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} with --resume: the run goes on as it began; leave {option} out")
    return read_interrupted(Path(given.resume))


def _run_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m asrswitch",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        # Wide enough for the longest option, so that each has one line and all fit a screen.
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=25),
        usage="%(prog)s --iters N [options]",
    )
    add = parser.add_argument
    several: Any = {"action": "append", "default": []}
    add("--iters", metavar="N", help="turns of each model; auto[:500|:30m] until decided")
    add("--model", **several, metavar="LABEL=PATH", help="repeatable; default: the two embedded ones")
    add("--audio", **several, metavar="FILE", help="repeatable; default: an embedded telephone number")
    add("--reference", **several, metavar="TEXT", help="or @FILE, one a clip; default: .txt beside it")
    add("--language", metavar="NAME", help="force it: Chinese, zh, English, en, and so on")
    add("--threads", type=int, metavar="N", help="default: the physical cores this process may use")
    add("--context", type=int, metavar="TOKENS", help="size of the KV cache; default: the model's")
    tokens = DEFAULT_MAX_NEW_TOKENS
    add("--max-new-tokens", type=int, default=tokens, metavar="N", help="default: %(default)s")
    strategies, allocators = [*(s.value for s in Strategy), ALL], [*ALLOCATORS, ALL]
    add("--strategy", choices=strategies, default="reload", metavar="NAME",
        help="reload (default), restart, resident, isolate, all")  # fmt: skip
    add("--allocator", choices=allocators, default=ALLOCATORS[0], metavar="NAME",
        help=", ".join(allocators))  # fmt: skip
    add("--memory-limit", metavar="SIZE", help="of a worker, as 300M or 2G; models are held to it")
    add("--restart-above", metavar="SIZE", help="fresh worker for larger models; default: if tight")
    add("--switches-per-hour", type=float, metavar="N", help="what to recommend a strategy for")
    add("--order", choices=[o.value for o in Order], default=Order.SMALL_FIRST.value, metavar="NAME",
        help="small-first (default), given, or shuffle by --seed")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="of shuffle; default: %(default)s")
    add("--allow-concurrent", action="store_true", help="run beside others that measure here")
    add("--preload", action="store_true", help="read the whole model file ahead while loading")
    add("--lock", action="store_true", help="pin the weights in memory")
    add("--trim", choices=[t.value for t in Trimming], default=Trimming.PROBE.value, metavar="NAME",
        help="after unloads: probe a copy (default), always, never")  # fmt: skip
    add("--sample-hz", type=float, default=DEFAULT_SAMPLE_HZ, metavar="N",
        help="samples of memory between readings; default: %(default)g")  # fmt: skip
    add("--out", metavar="DIR", help="for the log; default: runs/<time>")
    add("--resume", metavar="DIR", help="go on with the interrupted run of that --out")
    add("--library", metavar="FILE", help="another library with the same C interface")
    timeout = DEFAULT_TIMEOUT_S
    add("--timeout", type=float, default=timeout, metavar="S", help="for a phase; default: %(default)g s")
    add("--check", action="store_true", help="exit 3 on a leak, 4 when inconclusive")
    add("--dry-run", action="store_true", help="print the schedule and stop")
    add("--version", action="version", version=f"asrswitch {__version__}", help="print it and stop")
    return parser
