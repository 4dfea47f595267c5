"""Print the verdicts of runs, as a Markdown table: verdicts.py RUN_DIR..."""

from __future__ import annotations

import sys
from pathlib import Path

from asrswitch.records import read_log
from asrswitch.resume import find_logs, plan_of, sort_runs
from asrswitch.stats.verdict import Verdict
from asrswitch.summary import SubjectVerdict, summarise

_SERIES = ("heap in use", "anonymous memory", "resident memory")


def _cell(verdict: Verdict, name: str) -> str:
    found = verdict.series[name].verdict if name in verdict.series else None
    if found is None or found.slope is None or found.detectable is None:
        return "–"
    slope = found.slope
    return f"{slope.slope:+,.0f} ({slope.low:+,.0f} to {slope.high:+,.0f}), from {found.detectable:,.0f}"


def _row(name: str, item: SubjectVerdict) -> str:
    verdict = item.verdict
    cells = [name, item.subject, str(verdict.iterations), f"`{verdict.word.value}`"]
    cells += [_cell(verdict, series) for series in _SERIES]
    return f"| {' | '.join(cells)} | {' + '.join(item.growth_by_model) or '–'} |"


def main() -> None:
    """Print a row for each verdict; bytes an iteration, with 95 % intervals and the smallest growth seen."""
    print(f"| run | models | iterations judged | verdict | {' | '.join(_SERIES)} | grows with |")
    print("| --- | --- | ---: | --- | ---: | ---: | ---: | --- |")
    for directory in map(Path, sys.argv[1:]):
        for records in sort_runs([read_log(path) for path in find_logs(directory)]):
            for item in summarise(records).verdicts:
                print(_row(Path(plan_of(records).out).name, item))


if __name__ == "__main__":
    main()
