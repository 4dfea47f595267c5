"""Print what memory was after some of a run's unloads, as a Markdown table: readings.py RUN_DIR CYCLE..."""

from __future__ import annotations

import sys
from pathlib import Path

from asrswitch.records import Reading, read_log


def main() -> None:
    """Read the log and print the rows of the cycles asked for, counted from 1."""
    log = read_log(Path(sys.argv[1]) / "run.jsonl")
    readings = [r for r in log if isinstance(r, Reading) and r.point == "after_unload"]
    print(
        "| switch | model | RSS | anonymous | malloc holds | malloc keeps | mappings, threads, descriptors |"
    )
    print("| ---: | --- | ---: | ---: | ---: | ---: | --- |")
    for cycle in map(int, sys.argv[2:]):
        reading = readings[cycle - 1]
        memory, malloc = reading.memory, reading.malloc
        held, kept = (f"{malloc.held_bytes:,}", f"{malloc.kept_bytes:,}") if malloc else ("–", "–")
        counts = f"{memory.mappings}, {memory.threads}, {memory.descriptors}"
        sizes = f"{memory.rss_bytes:,} | {memory.anonymous_bytes:,} | {held} | {kept}"
        print(f"| {cycle} | {reading.model} | {sizes} | {counts} |")


if __name__ == "__main__":
    main()
