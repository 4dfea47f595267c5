"""Print the best strategy by memory limit and switch rate: recommend.py RUN_DIR LIMITS RATES

RUN_DIR is of a run with `--strategy all`; limits are as `--memory-limit` takes them, rates are switches an
hour, both with commas between them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from asrswitch.plan import make_need
from asrswitch.records import read_log
from asrswitch.resume import find_logs, plan_of, sort_runs
from asrswitch.strategies import compare_strategies
from asrswitch.summary import summarise


def main() -> None:
    """Print a row for each limit."""
    logs = sort_runs([read_log(path) for path in find_logs(Path(sys.argv[1]))])
    runs = [(plan_of(records), summarise(records)) for records in logs]
    rates = sys.argv[3].split(",")
    print(f"| memory limit | {' | '.join(f'{rate} an hour' for rate in rates)} |")
    print(f"| --- |{' --- |' * len(rates)}")
    for limit in sys.argv[2].split(","):
        cells = []
        for rate in rates:
            need = make_need(limit, float(rate))
            found = compare_strategies(runs, need.memory_limit_bytes, need.switches_per_hour)
            cells.append(f"`{found.recommended.value}`" if found.recommended else "none fits")
        print(f"| {limit} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
