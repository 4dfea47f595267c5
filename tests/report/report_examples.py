"""Logs of runs that never were, with times, samples and what may go wrong."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from asrswitch.memory.sampler import Samples
from asrswitch.model import Model
from asrswitch.plan import LOG_NAME, Clip
from asrswitch.records import (
    End,
    Failure,
    Malloc,
    Reading,
    Record,
    Run,
    Timeline,
    Transcription,
    WorkerStarted,
)
from helpers.records import MIB, cycle, run_of

BEGIN = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
STEP_MS = 100
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>$$x$$@{y}&amp;'\"|*_"

replace = msgspec.structs.replace


def stamped(records: Sequence[Record], begin: datetime = BEGIN) -> list[Record]:
    """The records, each 100 ms after the one before, with a sample before each reading."""
    found: list[Record] = []
    for record in records:
        if isinstance(record, Reading):
            ms = STEP_MS * len(found)
            memory = record.memory
            samples = Samples((float(ms),), (memory.anonymous_bytes + MIB,), (memory.file_bytes,), 1, 0.1)
            found.append(
                Timeline(
                    cycle=record.cycle,
                    iteration=record.iteration,
                    model=record.model,
                    worker=record.worker,
                    until=record.point,
                    samples=samples,
                )
            )
        found.append(record)
    return [
        replace(record, at=(begin + timedelta(milliseconds=STEP_MS * index)).isoformat())
        for index, record in enumerate(found)
    ]


def run_records(iterations: int = 12, leak_bytes: int = 0, **plan: Any) -> list[Record]:
    """A complete run; with ``leak_bytes`` each cycle of model b leaves as much more in its heap."""
    records: list[Record] = [run_of(iterations, **plan), WorkerStarted(worker=1, pid=1, log="worker-1.log")]
    left = 0
    for index in range(2 * iterations):
        label = "ab"[index % 2]
        for record in cycle(index, label, wer=0.0):
            if isinstance(record, Reading):
                if record.point == "after_unload" and label == "b":
                    left += leak_bytes
                memory, malloc = record.memory, record.malloc
                assert malloc
                record = replace(
                    record,
                    memory=replace(
                        memory,
                        rss_bytes=memory.rss_bytes + left,
                        anonymous_bytes=memory.anonymous_bytes + left,
                        peak_rss_bytes=memory.peak_rss_bytes + left,
                    ),
                    malloc=Malloc(malloc.held_bytes + left, malloc.kept_bytes, malloc.arena_bytes, 0),
                )
            records.append(record)
    return stamped([*records, End("complete")])


def killed_records(iterations: int = 12) -> list[Record]:
    """A run whose worker was killed while it transcribed, and which went on in a fresh one."""
    records = run_records(iterations)
    at = next(index for index, r in enumerate(records) if isinstance(r, Transcription) and r.iteration == 4)
    lost = records[at]
    assert isinstance(lost, Transcription)
    failure = Failure(
        cycle=lost.cycle, iteration=4, model=lost.model, worker=1, phase="transcribe", kind="died",
        message="was ended by SIGKILL", signal="SIGKILL", at=lost.at,
    )  # fmt: skip
    begins = next(
        index
        for index, r in enumerate(records)
        if isinstance(r, Reading) and r.cycle == lost.cycle and r.point == "before_load"
    )
    again = [replace(record, worker=2) if hasattr(record, "cycle") else record for record in records[begins:]]
    return [*records[:at], failure, *again]


def hostile_records(iterations: int = 12) -> list[Record]:
    """A run whose label, clip and texts are what they should not be."""
    models = (Model(HOSTILE, "/a"), Model("b", "/b"))
    found: list[Record] = []
    for record in run_records(iterations):
        if isinstance(record, Run):
            plan = replace(record.plan, models=models, clips=(Clip(HOSTILE, HOSTILE),), label="=1+1")
            record = replace(record, plan=plan)
        elif getattr(record, "model", None) == "a":
            record = replace(record, model=HOSTILE)
        if isinstance(record, Transcription):
            record = replace(
                record, clip=HOSTILE, text=HOSTILE, normalised=f"{HOSTILE} x", reference=HOSTILE,
                reference_normalised=HOSTILE,
            )  # fmt: skip
        found.append(record)
    return found


def write_log(directory: Path, records: Sequence[Record]) -> Path:
    """The directory of a run with such a log."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = b"".join(msgspec.json.encode(record) + b"\n" for record in records)
    (directory / LOG_NAME).write_bytes(lines)
    return directory
