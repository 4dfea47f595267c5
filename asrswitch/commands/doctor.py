"""Say what this machine can do, what of a report it cannot give, and how to get that."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.text import Text

from asrswitch import __version__, machine, native
from asrswitch.commands.common import FAILURE, Parser, console
from asrswitch.doctor.asrswitch_checks import check_asrswitch
from asrswitch.doctor.engine_checks import check_engines
from asrswitch.doctor.findings import Diagnosis, Finding, Mark, Section, diagnose
from asrswitch.doctor.machine_checks import check_machine
from asrswitch.doctor.measuring_checks import check_measuring
from asrswitch.errors import printable
from asrswitch.report.console import show
from asrswitch.worker_process import StopSignals

READER_MAY_LEAVE = True
_STYLES = {Mark.OK: "green", Mark.LIMITED: "yellow", Mark.MISSING: "bold red"}
_MARK_WIDTH = max(len(mark.value) for mark in Mark)
_EPILOG = """\
Each line is marked ok, limited or missing. Exit codes: 0 a run is possible, 1 it is not, 2 usage.
example: asrswitch doctor --json
"""


def main(words: Sequence[str]) -> int:
    """Examine this machine."""
    given = make_parser().parse_args(words)
    with StopSignals() as stop:
        diagnosis = examine(stop)
    if given.json:
        print(msgspec.json.format(msgspec.json.encode(diagnosis)).decode())
    else:
        show(console(), render(diagnosis))
    return 0 if diagnosis.ready else FAILURE


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="asrswitch doctor",
        description="What this machine can do, what will be missing from a report, and how to get it.",
        epilog=_EPILOG,
    )
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    return parser


def examine(stop: StopSignals) -> Diagnosis:
    """Make all checks.

    Raises:
        StoppedError: a signal came.
    """
    proc = Path("/proc")
    flags = machine.cpu_flags((proc / "cpuinfo").read_text(errors="replace"))
    return diagnose(
        __version__,
        [
            Section("this machine", check_machine(machine.describe(), flags, os.environ)),
            Section("measuring", check_measuring(proc, native.open_process())),
            Section("asrswitch", check_asrswitch(os.environ, stop)),
            Section("other engines", check_engines(os.environ)),
        ],
    )


def render(diagnosis: Diagnosis) -> list[Text]:
    """A diagnosis as lines."""
    findings = [finding for section in diagnosis.sections for finding in section.findings]
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for section in diagnosis.sections:
        lines.append(Text(section.title, style="bold"))
        for finding in section.findings:
            lines += _lines(finding, width)
    n_limited = sum(finding.mark is Mark.LIMITED for finding in findings)
    n_missing = sum(finding.mark is Mark.MISSING for finding in findings)
    can = "a run is possible" if diagnosis.ready else "no run is possible"
    style = _STYLES[Mark.OK if diagnosis.ready else Mark.MISSING]
    lines.append(Text(f"{can}: {n_limited} limited, {n_missing} missing", style=style))
    return lines


def _lines(finding: Finding, width: int) -> list[Text]:
    head = Text("  ")
    head.append(f"{finding.mark.value:{_MARK_WIDTH}}", style=_STYLES[finding.mark])
    head.append(f"  {finding.subject:{width}}  {printable(finding.found)}")
    indent = " " * (_MARK_WIDTH + width + 6)
    lines = [head]
    if finding.lost:
        lines.append(Text(f"{indent}without it: {printable(finding.lost)}"))
    if finding.remedy:
        lines.append(Text(f"{indent}to get it: {printable(finding.remedy)}"))
    return lines
