"""The readings that a verdict is made from: chosen in one place, for the verdict and for the charts of it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from asrswitch.plan import Strategy
from asrswitch.records import Eviction, Reading, Record, Release, Run
from asrswitch.schedule import Release as ReleaseKind
from asrswitch.stats.series import MINIMUM_ITERATIONS
from asrswitch.stats.verdict import Sample


class Judged(msgspec.Struct, frozen=True):
    """By subject of a verdict its readings, one an iteration, and whether they are of one process."""

    subjects: dict[str, list[Reading]]
    one_process: bool


def judged_readings(records: Sequence[Record]) -> Judged:
    """One subject when the models take turns; each model when each has the process to itself.

    A reading is the last of its iteration. A crash begins a new process with memory of its own, so the
    longest stretch in one worker is judged; where each turn has a process, all of them are, each as it was
    before its load.
    """
    run = records[0]
    assert isinstance(run, Run)
    plan = run.plan
    labels = [model.label for model in plan.models]
    series = [r for r in records if isinstance(r, Reading) and r.point == "after_unload"]
    if plan.strategy in (Strategy.RESTART, Strategy.RESIDENT):  # the last turns unload: another level
        destroyed = {
            record.cycle
            for record in records
            if isinstance(record, Release) and record.how is ReleaseKind.DESTROY
        }
        series = [reading for reading in series if reading.cycle not in destroyed]
    if plan.strategy is Strategy.RESTART:
        subjects = {label: [r for r in series if r.model == label] for label in labels}
    else:
        last = len(labels) - 1
        ends = [r for r in series if r.cycle % len(labels) == last]
        if any(isinstance(record, Eviction) for record in records):
            # There and back other models are left in the end: only every second iteration is like the last.
            ends = [r for r in ends if r.iteration % 2 == ends[-1].iteration % 2]
        subjects = {" + ".join(labels): ends}
    if plan.strategy is Strategy.ISOLATE:
        return Judged(subjects, one_process=False)
    stretches = {name: _longest_stretch(those) for name, those in subjects.items()}
    # Where workers are exchanged too often for a verdict on one, there is one on all, as with `isolate`.
    if plan.restart_above_bytes is not None and all(
        len(stretch) < MINIMUM_ITERATIONS for stretch in stretches.values()
    ):
        return Judged(subjects, one_process=False)
    return Judged(stretches, one_process=True)


def sample_of(reading: Reading) -> Sample:
    """What is judged of a reading."""
    memory, malloc = reading.memory, reading.malloc
    counts = {"mappings": memory.mappings, "threads": memory.threads, "descriptors": memory.descriptors}
    return Sample(
        resident_bytes=memory.rss_bytes + memory.swap_bytes,
        anonymous_bytes=memory.anonymous_bytes + memory.swap_bytes,
        file_bytes=memory.file_bytes,
        held_bytes=malloc.held_bytes if malloc else None,
        kept_bytes=malloc.kept_bytes if malloc else None,
        counts={name: count for name, count in counts.items() if count is not None},
    )


def _longest_stretch(readings: Sequence[Reading]) -> list[Reading]:
    stretches: dict[int, list[Reading]] = {}
    for reading in readings:
        stretches.setdefault(reading.worker, []).append(reading)
    return max(stretches.values(), key=len, default=[])
