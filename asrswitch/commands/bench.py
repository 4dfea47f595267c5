"""Measure the engine against the machine."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from datetime import datetime

from asrswitch.bench.measure import measure, n_steps
from asrswitch.bench.plan import (
    DEFAULT_MAX_NEW_TOKENS,
    DEFAULT_REPETITIONS,
    DEFAULT_WARMUPS,
    BenchOptions,
    make_bench_plan,
)
from asrswitch.bench.report import WRITERS, make_report, render_text
from asrswitch.commands.common import (
    PLAIN_WIDTH,
    Once,
    Parser,
    add_format,
    add_out,
    alone,
    check_out,
    console,
    scratch_directory,
    step_bar,
)
from asrswitch.convert.atomic import atomic_output
from asrswitch.plan import DEFAULT_TIMEOUT_S
from asrswitch.report.console import show
from asrswitch.worker_process import StopSignals

REMEDY_FOR_OUTPUT = "use --out FILE"

_EPILOG = """\
examples:
  asrswitch bench -m 0.6b.bin                         each stage, and how near it is to the machine's limit
  asrswitch bench -m 0.6b.bin -m 1.7b.bin -t 1,2 -f md -o bench.md
  asrswitch bench -l before.so -l after.so            two builds of a library, run by run
"""


def main(words: Sequence[str]) -> int:
    """Measure ceilings and stages, and print them side by side."""
    given = make_parser().parse_args(words)
    options = BenchOptions(
        models=given.model,
        audio=given.audio,
        types=given.type,
        threads=given.threads,
        context=given.context,
        language=given.language,
        max_new_tokens=given.max_new_tokens,
        repetitions=given.repetitions,
        warmups=given.warmups,
        libraries=given.library,
        timeout_s=given.timeout,
    )
    plan = make_bench_plan(options, os.environ)
    check_out(given.out)
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(atomic_output(given.out)) if given.out else None
        with (
            alone(given.allow_concurrent),
            scratch_directory() as scratch,
            StopSignals() as stop,
            step_bar(n_steps(plan)) as progress,
        ):
            started_at = datetime.now()
            measured = measure(plan, scratch, stop, progress)
        report = make_report(plan, measured, started_at)
        if output:
            output.write(WRITERS[given.format](report, PLAIN_WIDTH).encode())
        elif given.format == "text":
            show(console(), render_text(report))
        else:
            print(WRITERS[given.format](report, PLAIN_WIDTH), end="")
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="asrswitch bench",
        usage="%(prog)s [options]",
        description="Measure what this machine can do at best, and each stage of the engine against it.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("-m", "--model", action="append", default=[], metavar="[LABEL=]PATH",
        help="or a name as in `models list`; repeatable; default: the two embedded ones")  # fmt: skip
    add("--type", metavar="TYPE[,...]", help="of models given by name, as q4_0,q8_0")
    add("-a", "--audio", action=Once, metavar="FILE", help="default: 11 seconds of an embedded sample")
    add("-t", "--threads", metavar="N[,N...]",
        help="as 1,2 or 1-4; default: the physical cores this process may use")  # fmt: skip
    add("-c", "--context", type=int, metavar="TOKENS", help="size of the KV cache; default: the model's")
    add("--language", metavar="NAME", help="force it: Chinese, zh, English, en, and so on")
    add("-n", "--max-new-tokens", type=int, default=DEFAULT_MAX_NEW_TOKENS, metavar="N",
        help="default: %(default)s")  # fmt: skip
    add("-r", "--repetitions", type=int, default=DEFAULT_REPETITIONS, metavar="N",
        help="default: %(default)s")  # fmt: skip
    add("--warmups", type=int, default=DEFAULT_WARMUPS, metavar="N",
        help="repetitions before those, which do not count; default: %(default)s")  # fmt: skip
    add("-l", "--library", action="append", default=[], metavar="FILE",
        help="another library with the same C interface; give two to compare them, run by run")  # fmt: skip
    add("--timeout", type=float, default=DEFAULT_TIMEOUT_S, metavar="S",
        help="for a step; default: %(default)g seconds")  # fmt: skip
    add("--allow-concurrent", action="store_true", help="run beside others that measure here")
    add_format(parser, WRITERS, "; json holds every measurement")
    add_out(parser)
    return parser
