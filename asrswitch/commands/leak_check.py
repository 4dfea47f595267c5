"""Look for leaks under valgrind."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from datetime import datetime

from asrswitch.commands.common import (
    FAILURE,
    INCONCLUSIVE,
    LEAK,
    Once,
    Parser,
    add_format,
    alone,
    scratch_directory,
    step_bar,
)
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

_EPILOG = """\
examples:
  asrswitch leak-check                                a minute or so with the embedded models
  asrswitch leak-check -l ./libother.so -m s.bin --cycles 10 --check
  asrswitch leak-check --tool massif -m 0.6b.bin      minutes
"""


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
        context=given.context,
        language=given.language,
        max_new_tokens=given.max_new_tokens,
        timeout_s=given.timeout,
        driver=given.driver,
        out=given.out,
    )
    plan = make_leak_check_plan(options, os.environ)
    started_at = datetime.now()
    with (
        alone(given.allow_concurrent),
        scratch_directory() as scratch,
        StopSignals() as stop,
        step_bar(n_steps(plan)) as progress,
    ):
        measured = measure(plan, scratch, stop, progress)
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
        prog="asrswitch leak-check",
        usage="%(prog)s [options]",
        description="Load, transcribe, unload under valgrind: what is lost in each cycle, and where it was "
        "allocated.\nTwo runs of different length tell what grows from what is made once.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--tool", choices=[tool.value for tool in Tool], default=Tool.MEMCHECK.value,
        help="lost blocks, the heap over time, or who allocates; default: %(default)s")  # fmt: skip
    add("-m", "--model", action="append", default=[], metavar="[LABEL=]PATH",
        help="or a name as in `models list`; repeatable; default: the two embedded ones")  # fmt: skip
    add("-a", "--audio", action=Once, metavar="FILE", help="default: the embedded telephone number")
    add("--cycles", type=int, default=DEFAULT_CYCLES, metavar="N",
        help="of each model, in the longer run; default: %(default)s")  # fmt: skip
    add("-t", "--threads", type=int, default=DEFAULT_THREADS, metavar="N", help="default: %(default)s")
    add("-c", "--context", type=int, metavar="TOKENS", help="size of the KV cache; default: the model's")
    add("--language", metavar="NAME", help="force it: Chinese, zh, English, en, and so on")
    add("-n", "--max-new-tokens", type=int, default=DEFAULT_MAX_NEW_TOKENS, metavar="N",
        help="default: %(default)s")  # fmt: skip
    add("-l", "--library", metavar="FILE", help="another library with the same C interface")
    add("--driver", metavar="FILE",
        help="what makes the cycles, not our worker: FILE N MODEL_A MODEL_B CLIP, a line each")  # fmt: skip
    add("--timeout", type=float, default=DEFAULT_TIMEOUT_S, metavar="S",
        help="for a phase; default: %(default)g seconds")  # fmt: skip
    add("--allow-concurrent", action="store_true", help="run beside others that measure here")
    add_format(parser, WRITERS, "; json holds every site")
    add("-o", "--out", metavar="DIR", help="keep valgrind's own files there")
    add("--check", action="store_true",
        help="exit 3 on a leak, 1 on errors in the library, 4 when inconclusive")  # fmt: skip
    return parser
