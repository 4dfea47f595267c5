"""Print runs' memory by phase, and its changes and times, by model, as Markdown: phases.py RUN_DIR..."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from asrswitch.records import Point, Reading, Record, read_log
from asrswitch.summary import ModelSummary, Spread, summarise

_MIB = 1 << 20
_POINTS: tuple[Point, ...] = ("before_load", "after_load", "after_infer", "after_unload")
_COLUMNS: dict[str, Callable[[Reading], int | None]] = {
    "RSS": lambda r: r.memory.rss_bytes,
    "anonymous": lambda r: r.memory.anonymous_bytes,
    "file-backed": lambda r: r.memory.file_bytes,
    "highest RSS since the reading before": lambda r: r.memory.peak_rss_bytes,
    "malloc holds": lambda r: r.malloc.held_bytes if r.malloc else None,
    "malloc keeps": lambda r: r.malloc.kept_bytes if r.malloc else None,
}
_ROWS: list[tuple[str, Callable[[ModelSummary], Spread | None], str, float]] = [
    ("load overhead, MiB", lambda m: m.load_overhead_bytes, ",.2f", _MIB),
    ("unload release, MiB", lambda m: m.unload_release_bytes, ",.2f", _MIB),
    ("net growth, MiB", lambda m: m.net_growth_bytes, ",.2f", _MIB),
    ("load, ms", lambda m: m.load_ms, ",.1f", 1),
    ("TTFT, ms", lambda m: m.ttft_ms, ",.1f", 1),
    ("chars/s", lambda m: m.chars_per_s, ",.1f", 1),
    ("tokens/s", lambda m: m.tokens_per_s, ",.1f", 1),
    ("RTF", lambda m: m.rtf, ".3g", 1),
    ("unload, ms", lambda m: m.unload_ms, ",.1f", 1),
    ("switch, ms", lambda m: m.switch_ms, ",.1f", 1),
]


def _phases(records: list[Record], label: str) -> list[str]:
    readings = [record for record in records if isinstance(record, Reading) and record.model == label]
    rows = []
    for point in _POINTS:
        cells = [_median([column(r) for r in readings if r.point == point]) for column in _COLUMNS.values()]
        rows.append(f"| {label} | {point.replace('_', ' ')} | {' | '.join(cells)} |")
    return rows


def _median(values: list[int | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known) / _MIB:,.2f}" if known else "–"


def _spread(spread: Spread | None, form: str, unit: float) -> str:
    if spread is None:
        return "–"
    low, middle, high = (f"{v / unit:{form}}" for v in (spread.minimum, spread.median, spread.maximum))
    return middle if low == high else f"{middle} ({low} to {high})"


def main() -> None:
    """Print both tables."""
    logs = [read_log(Path(name) / "run.jsonl") for name in sys.argv[1:]]
    models = [(records, model) for records in logs for model in summarise(records).models]
    print(f"| model | reading | {' | '.join(_COLUMNS)} |\n| --- | --- |{' ---: |' * len(_COLUMNS)}")
    for records, model in models:
        print("\n".join(_phases(records, model.label)))
    print(f"\n| | {' | '.join(model.label for _, model in models)} |\n| --- |{' ---: |' * len(models)}")
    for name, spread, form, unit in _ROWS:
        print(f"| {name} | {' | '.join(_spread(spread(model), form, unit) for _, model in models)} |")


if __name__ == "__main__":
    main()
