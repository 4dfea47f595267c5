"""Print ways to manage memory side by side, as a Markdown table: policies.py DIR...

Each directory is of one way and named for it; it holds a run, or several that are taken together.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from asrswitch.plan import Strategy
from asrswitch.records import End, Failure, Record, Run, Transcription, WorkerStarted, read_log
from asrswitch.resume import find_logs
from asrswitch.summary import summarise
from asrswitch.turns import Turn, turns_of

_MIB = 1 << 20


def _seconds(records: Sequence[Record]) -> float:
    """Wall time of a run, with the starts of its processes and what measuring takes."""
    run, end = records[0], records[-1]
    assert isinstance(run, Run) and isinstance(end, End) and end.at
    first = next(record.at for record in records[1:] if record.at)
    return (datetime.fromisoformat(end.at) - datetime.fromisoformat(first)).total_seconds()


def _turn_ms(turn: Turn) -> float | None:
    """Load, time to first token and release."""
    ttft_ms = turn.transcriptions[0].figures.ttft_ms if turn.transcriptions else None
    return None if turn.overhead_ms is None or ttft_ms is None else turn.overhead_ms + ttft_ms


def _usual(records: Sequence[Record]) -> list[Turn]:
    """The turns that a strategy has again and again: where models stay loaded, not those that load them."""
    run = records[0]
    assert isinstance(run, Run)
    stays = run.plan.strategy in (Strategy.RESIDENT, Strategy.RESTART)
    last = run.plan.iterations * len(run.plan.models) - len(run.plan.models)
    return [turn for turn in turns_of(records) if not stays or (turn.load is None and turn.cycle < last)]


def _middle(values: Sequence[float | None], form: str, unit: float = 1) -> str:
    known = [value for value in values if value is not None]
    text = f"{statistics.median(known) / unit:{form}}" if known else "–"
    return text.removeprefix("-") if text.strip("-0.") == "" else text  # no minus before a zero


def _row(name: str, logs: list[list[Record]], labels: Sequence[str]) -> str:
    flat = [record for records in logs for record in records]
    failures = [record for record in flat if isinstance(record, Failure)]
    planned = done = recovered = 0
    for records in logs:
        run = records[0]
        assert isinstance(run, Run)
        spoken = {record.cycle for record in records if isinstance(record, Transcription)}
        planned += run.plan.iterations * len(run.plan.models)
        done += len(spoken)
        recovered += len(spoken & {record.cycle for record in records if isinstance(record, Failure)})
    summaries = [summarise(records) for records in logs]
    usual = [turn for records in logs for turn in _usual(records)]
    starts = [record.start_ms for record in flat if isinstance(record, WorkerStarted)]
    retained = [turn.retained_bytes for records in logs for turn in turns_of(records)]
    peak = max(summary.resident.peak for summary in summaries if summary.resident)
    refused = sum(failure.kind == "refused" for failure in failures)
    ran_out = sum(failure.out_of_memory for failure in failures)
    turns = [_middle([_turn_ms(turn) for turn in usual if turn.model == label], ",.1f") for label in labels]
    cells = [
        name,
        f"{done} of {planned}",
        str(refused),
        str(ran_out),
        str(len(failures) - refused - ran_out),
        str(recovered),
        str(len(starts)),
        _middle(starts, ",.0f"),
        f"{sum(map(_seconds, logs)):,.1f}",
        *turns,
        f"{peak / _MIB:,.1f}",
        _middle(retained, ",.2f", _MIB),
        f"{max(known) / _MIB:,.2f}" if (known := [value for value in retained if value is not None]) else "–",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print a row for each directory."""
    ways = {Path(name): [read_log(path) for path in find_logs(Path(name))] for name in sys.argv[1:]}
    runs = [records[0] for logs in ways.values() for records in logs]
    labels = list(dict.fromkeys(m.label for run in runs if isinstance(run, Run) for m in run.plan.models))
    names = [
        "", "turns", "refused", "out of memory", "other failures", "recovered", "processes",
        "start of one, ms", "in all, s", *(f"a turn of {label}, ms" for label in labels), "peak, MiB",
        "retained, MiB", "at most, MiB",
    ]  # fmt: skip
    print(f"| {' | '.join(names)} |\n| --- |{' ---: |' * (len(names) - 1)}")
    for directory, logs in ways.items():
        print(_row(directory.name, logs, labels))


if __name__ == "__main__":
    main()
