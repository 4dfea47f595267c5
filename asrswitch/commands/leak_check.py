"""Look for leaks under valgrind."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from asrswitch.commands.common import FAILURE, INCONCLUSIVE, LEAK, Parser, alone, step_bar
from asrswitch.leak_check.measure import measure, n_steps
from asrswitch.leak_check.plan import (
    DEFAULT_CYCLES,
    DEFAULT_MAX_NEW_TOKENS,
    DEFAULT_THREADS,
    DEFAULT_TIMEOUT_S,
    LeakCheckOptions,
    Tool,
    make_leak_check_plan,
)
from asrswitch.leak_check.report import WRITERS, LeakCheckReport, make_report
from asrswitch.stats.verdict import Word
from asrswitch.worker_process import StopSignals


def main(words: Sequence[str]) -> int:
    """Make cycles under valgrind, and print what each further one loses."""
    given = make_parser().parse_args(words)
    options = LeakCheckOptions(
        tool=given.tool,
        library=given.library,
        models=given.model,
        audio=given.audio,
        cycles=given.cycles,
        threads=given.threads,
        max_new_tokens=given.max_new_tokens,
        timeout_s=given.timeout,
        driver=given.driver,
        out=given.out,
    )
    plan = make_leak_check_plan(options, os.environ)
    started_at = datetime.now()
    with (
        alone(given.allow_concurrent),
        tempfile.TemporaryDirectory(prefix="asrswitch-") as scratch,
        StopSignals() as stop,
        step_bar(n_steps(plan)) as progress,
    ):
        measured = measure(plan, Path(scratch), stop, progress)
    report = make_report(plan, measured, started_at)
    print(WRITERS[given.format](report), end="")
    return _leak_check_code(report) if given.check else 0


def _leak_check_code(report: LeakCheckReport) -> int:
    if report.word is Word.LEAK:
        return LEAK
    if report.library_mistakes:
        return FAILURE
    return INCONCLUSIVE if report.word is Word.INCONCLUSIVE else 0


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m asrswitch leak-check",
        description="Load, transcribe, unload under valgrind: what is lost in each cycle, and where it was "
        "allocated. Two runs of different length tell what grows from what is made once.",
    )
    add = parser.add_argument
    add("--tool", choices=[tool.value for tool in Tool], default=Tool.MEMCHECK.value,
        help="memcheck: lost blocks and errors; massif: the heap over time; dhat: who allocates how much; "
        "default: %(default)s")  # fmt: skip
    add("--library", metavar="FILE", help="another library with the same C interface")
    add("-m", "--model", action="append", default=[], metavar="[LABEL=]PATH",
        help="or a name as in `models list`; repeatable; default: the two embedded ones")  # fmt: skip
    add("--audio", metavar="FILE", help="default: the embedded telephone number")
    add("--cycles", type=int, default=DEFAULT_CYCLES, metavar="N",
        help="of each model, in the longer run; default: %(default)s")  # fmt: skip
    add("--threads", type=int, default=DEFAULT_THREADS, metavar="N", help="default: %(default)s")
    add(
        "--max-new-tokens",
        type=int,
        default=DEFAULT_MAX_NEW_TOKENS,
        metavar="N",
        help="default: %(default)s",
    )
    add("--driver", metavar="FILE",
        help="what makes the cycles, not our worker: FILE N MODEL_A MODEL_B CLIP, a line each")  # fmt: skip
    add("--timeout", type=float, default=DEFAULT_TIMEOUT_S, metavar="S",
        help="for a phase; default: %(default)g seconds")  # fmt: skip
    add(
        "--format",
        choices=WRITERS,
        default="text",
        help="default: %(default)s; json holds every site",
    )
    add("--allow-concurrent", action="store_true", help="run beside others that measure here")
    add("--out", metavar="DIR", help="keep valgrind's own files there")
    add(
        "--check",
        action="store_true",
        help="exit 3 on a leak, 1 on errors in the library, 4 when inconclusive",
    )
    return parser
