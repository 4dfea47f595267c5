"""Hold runs against each other."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from asrswitch import __version__
from asrswitch.commands.common import (
    FAILURE,
    INCONCLUSIVE,
    PLAIN_WIDTH,
    Parser,
    add_format,
    add_out,
    check_out,
    console,
)
from asrswitch.compare.bounds import apply_bounds, parse_bounds
from asrswitch.compare.comparison import compare
from asrswitch.compare.report import SCHEMA, WRITERS, CompareReport, render_text
from asrswitch.compare.runs import Side, read_sides, what_differs
from asrswitch.convert.atomic import atomic_output
from asrswitch.errors import UsageError, printable
from asrswitch.report.console import show

REMEDY_FOR_OUTPUT = "use -o FILE"
READER_MAY_LEAVE = True
_EPILOG = """\
examples:
  asrswitch compare runs/monday runs/tuesday
  asrswitch compare runs/two-libraries                          runs that took turns: the surest comparison
  asrswitch compare --group before=a1,a2,a3 --group after=b1,b2,b3
  asrswitch compare A B --fail-on 'ttft>10%,tokens_per_s<-5%,heap_slope>0,retained>1M,wer>0.5%'
exit codes: 0 done, 1 a bound of --fail-on is broken, 2 usage, or runs of different things,
  4 a figure of --fail-on could not be compared
"""


def main(words: Sequence[str]) -> int:
    """Compare runs with the first of them."""
    given = make_parser().parse_args(words)
    bounds = [] if given.fail_on is None else parse_bounds(given.fail_on)
    check_out(given.out)
    sides = read_sides(given.runs, _groups(given.group))
    if not given.force:
        _refuse_differences(sides)
    comparison = compare(sides)
    outcome = apply_bounds(bounds, comparison) if bounds else None
    report = CompareReport(SCHEMA, __version__, comparison, outcome)
    if given.out:
        with atomic_output(given.out) as file:
            file.write(WRITERS[given.format](report, PLAIN_WIDTH).encode())
    elif given.format == "text":
        terminal = console()
        show(terminal, render_text(report, terminal.width))
    else:
        print(WRITERS[given.format](report, PLAIN_WIDTH), end="")
    if outcome is None:
        return 0
    return FAILURE if outcome.broken else INCONCLUSIVE if outcome.unjudged else 0


def _refuse_differences(sides: Sequence[Side]) -> None:
    lines = [
        f"{other.name} against {sides[0].name}: {line}"
        for other in sides[1:]
        for line in what_differs(sides[0], other)
    ]
    if lines:
        for line in lines:
            print(f"asrswitch: {printable(line)}", file=sys.stderr)
        raise UsageError(
            "these runs are of different things, as said above; make runs that are alike, or give --force"
        )


def _groups(words: Sequence[str]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for word in words:
        name, equals, paths = word.partition("=")
        members = paths.split(",")
        if not (name and equals and all(members)):
            raise UsageError(f"--group {word}: write NAME=RUN,RUN, for example before=runs/1,runs/2")
        groups.setdefault(name, []).extend(map(Path, members))
    return groups


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="asrswitch compare",
        description="Hold runs against the first of them: ratios, intervals, and what is more than chance.",
        epilog=_EPILOG,
        usage="%(prog)s A B [C ...] [options]",
    )
    add = parser.add_argument
    add("runs", nargs="*", type=Path, metavar="RUN", help="a run's directory, or its log; A is the baseline")
    add("--group", action="append", default=[], metavar="NAME=A,B",
        help="several runs of one side; repeatable, the first is the baseline")  # fmt: skip
    add("--fail-on", metavar="BOUNDS", help="exit 1 when a change is more than chance, and beyond a bound")
    add("--force", action="store_true", help="compare what is of different machines, models, clips, options")
    add_format(parser, WRITERS)
    add_out(parser)
    return parser
