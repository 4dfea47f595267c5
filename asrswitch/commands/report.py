"""Show runs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from asrswitch.allocators import compare_allocators
from asrswitch.commands.common import FAILURE, INCONCLUSIVE, LEAK, Parser, console
from asrswitch.errors import printable
from asrswitch.plan import LOG_NAME, Need, make_need
from asrswitch.records import TornLineWarning, read_log
from asrswitch.report.console import render_allocators, render_strategies, render_summary, show
from asrswitch.resume import find_logs, plan_of, sort_runs
from asrswitch.stats.verdict import Word
from asrswitch.strategies import compare_strategies
from asrswitch.summary import Summary, summarise


def main(words: Sequence[str]) -> int:
    """Print the tables of a run, or the comparison of several, from their logs."""
    parser = Parser(prog="python -m asrswitch report", description="Print the tables of an earlier run.")
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="the run's --out directory, or its log")
    parser.add_argument("--memory-limit", metavar="SIZE", help="recommend a strategy for so much memory")
    parser.add_argument(
        "--switches-per-hour", type=float, metavar="N", help="recommend a strategy for so many switches"
    )
    parser.add_argument(
        "--check", action="store_true", help="exit 1 on failures, 3 on a leak, 4 when inconclusive"
    )
    given = parser.parse_args(words)
    need = make_need(given.memory_limit, given.switches_per_hour)
    summaries = show_runs(console(), given.run_dir, need)
    return exit_code(summaries, check=True) if given.check else 0


def show_runs(terminal: Console, path: Path, need: Need | None = None) -> list[Summary]:
    """Show a run, or the comparison of those that took turns; ``need`` is what that is to recommend for."""
    logs = [path] if path.is_file() else find_logs(path) or [path / LOG_NAME]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TornLineWarning)
        runs = sort_runs([read_log(log) for log in logs])
    summaries = [summarise(records) for records in runs]
    plans = [plan_of(records) for records in runs]
    if len(runs) == 1:
        show(terminal, render_summary(summaries[0]))
    elif len({plan.strategy for plan in plans}) > 1:
        need = need or Need(plans[0].memory_limit_bytes, plans[0].switches_per_hour)
        comparison = compare_strategies(
            list(zip(plans, summaries, strict=True)), need.memory_limit_bytes, need.switches_per_hour
        )
        show(terminal, render_strategies(comparison))
    else:
        names = [plan.allocator for plan in plans]
        show(terminal, render_allocators(compare_allocators(list(zip(names, summaries, strict=True)))))
    parts = [Text(f"warning: {printable(str(warning.message))}", style="yellow") for warning in caught]
    place = f"log: {printable(str(logs[0]))}"
    if len(logs) > 1:
        shown = printable(str(path))
        place = f"logs: {shown}/*/{LOG_NAME}; `report {shown}/NAME` shows one run"
    show(terminal, [*parts, Text(place)])
    return summaries


def exit_code(summaries: Sequence[Summary], check: bool) -> int:
    """1 where something failed; with ``check``, 3 where memory leaks and 4 where that is not decided."""
    if any(summary.failures for summary in summaries):
        return FAILURE
    words = {summary.word for summary in summaries}
    if not check:
        return 0
    return LEAK if Word.LEAK in words else INCONCLUSIVE if Word.INCONCLUSIVE in words else 0
