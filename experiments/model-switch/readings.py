"""Print what memory was after some of a run's unloads, as a Markdown table: readings.py RUN_DIR SWITCH..."""

from __future__ import annotations

import sys
from pathlib import Path

from asrswitch.records import Reading, Trim, read_log


def main() -> None:
    """Read the log and print the rows of the switches asked for, counted from 1."""
    log = read_log(Path(sys.argv[1]) / "run.jsonl")
    readings = [r for r in log if isinstance(r, Reading) and r.point == "after_unload"]
    trims = {r.cycle: r for r in log if isinstance(r, Trim)}
    print(
        "| switch | model | RSS | anonymous | malloc holds | malloc keeps | a trim gives back | "
        "mappings, threads, descriptors |"
    )
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for switch in map(int, sys.argv[2:]):
        if switch > len(readings):
            sys.exit(f"switch {switch}: the run has {len(readings)}")
        reading = readings[switch - 1]
        memory, malloc, trim = reading.memory, reading.malloc, trims.get(reading.cycle)
        held, kept = (f"{malloc.held_bytes:,}", f"{malloc.kept_bytes:,}") if malloc else ("–", "–")
        trimmed = "–"
        if trim and trim.anonymous_before_bytes is not None and trim.anonymous_bytes is not None:
            trimmed = f"{trim.anonymous_before_bytes - trim.anonymous_bytes:,}"
        counts = f"{memory.mappings}, {memory.threads}, {memory.descriptors}"
        sizes = f"{memory.rss_bytes:,} | {memory.anonymous_bytes:,} | {held} | {kept} | {trimmed}"
        print(f"| {switch} | {reading.model} | {sizes} | {counts} |")


if __name__ == "__main__":
    main()
