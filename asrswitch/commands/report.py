"""Show runs: on the terminal, or as Markdown, CSV, JSON or an HTML file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from asrswitch.commands.common import (
    FAILURE,
    INCONCLUSIVE,
    INVALID,
    LEAK,
    Parser,
    add_format,
    add_out,
    check_out,
    console,
)
from asrswitch.convert.atomic import atomic_output
from asrswitch.errors import UsageError, printable
from asrswitch.plan import LOG_NAME, Need, make_need
from asrswitch.report.console import show
from asrswitch.report.runs import Report, read_report
from asrswitch.report.tables import parts, to_csv, to_json, to_markdown, to_text
from asrswitch.resume import find_logs
from asrswitch.stats.verdict import Word
from asrswitch.summary import Summary

REMEDY_FOR_OUTPUT = "use -o FILE"
READER_MAY_LEAVE = True
HTML_NAME = "report.html"
_FORMATS = ("text", "md", "csv", "json", "html")
_ROWS = ("models", "turns")
_EXAMPLES = """examples:
  asrswitch report runs/20260101-120000
  asrswitch report runs/20260101-120000 -f html
  asrswitch report runs/20260101-120000 -f csv --rows turns -o turns.csv
"""


def main(words: Sequence[str]) -> int:
    """Show a run, or the comparison of several, made anew from their logs."""
    given = make_parser().parse_args(words)
    if given.rows and given.format != "csv":
        raise UsageError(f"--rows {given.rows} with --format {given.format}: it is of csv; add --format csv")
    need = make_need(given.memory_limit, given.switches_per_hour)
    check_out(given.out)
    if not given.run_dir.is_file() and not find_logs(given.run_dir):
        raise UsageError(f"{given.run_dir}: holds no {LOG_NAME}; name a run's directory or its log")
    report = read_report(given.run_dir, None if need == Need(None, None) else need)
    _write(report, given.format, given.rows or "models", given.out)
    return exit_code(report.summaries, check=True) if given.check else 0


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="asrswitch report",
        usage="%(prog)s RUN_DIR [options]",
        description="Show an earlier run, made anew from its log; of several that took turns, compare them.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="the run's --out directory, or its log")
    add_format(parser, _FORMATS, "; html writes RUN_DIR/report.html")
    add_out(parser)
    parser.add_argument(
        "--rows", choices=_ROWS, help="of csv: one row a model (default), or one a transcription"
    )
    parser.add_argument("--memory-limit", metavar="SIZE", help="recommend a strategy for so much memory")
    parser.add_argument(
        "--switches-per-hour", type=float, metavar="N", help="recommend a strategy for so many switches"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit 1 on failures, 5 when not to be trusted, 3 on a leak, 4 when inconclusive",
    )
    return parser


def _write(report: Report, form: str, rows: str, out: Path | None) -> None:
    if form == "text" and out is None:
        show(console(), parts(report))
        return
    if form == "html" and out is None:
        out = (report.path if report.path.is_dir() else report.path.parent) / HTML_NAME
    content = _render(report, form, rows)
    if out is None:
        print(content, end="")
        return
    with atomic_output(out) as file:
        file.write(content.encode())
    print(printable(str(out)))


def _render(report: Report, form: str, rows: str) -> str:
    if form == "html":
        from asrswitch.report.html import render_html  # slow to import

        return render_html(report)
    if form == "csv":
        return to_csv(report, each_turn=rows == "turns")
    return {"text": to_text, "md": to_markdown, "json": to_json}[form](report)


def exit_code(summaries: Sequence[Summary], check: bool) -> int:
    """1 for a failure; with ``check`` 5 for figures not to be trusted, 3 for a leak, 4 for no verdict."""
    if any(summary.failures for summary in summaries):
        return FAILURE
    if not check:
        return 0
    if any(summary.invalid for summary in summaries):
        return INVALID
    words = {summary.word for summary in summaries}
    return LEAK if Word.LEAK in words else INCONCLUSIVE if Word.INCONCLUSIVE in words else 0
