"""The readings that a verdict is made from: chosen in one place, for the verdict and for the charts of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from asrswitch.backend_choice import is_server
from asrswitch.plan import Strategy
from asrswitch.records import Eviction, Load, Reading, Record, Release, Renewal, Run, WorkerStarted
from asrswitch.schedule import Release as ReleaseKind
from asrswitch.stats.series import MINIMUM_ITERATIONS
from asrswitch.stats.verdict import Sample
from asrswitch.worker.protocol import Capabilities


class Judged(msgspec.Struct, frozen=True):
    """By subject of a verdict its readings, one an iteration, and whether they are of one process."""

    subjects: dict[str, list[Reading]]
    one_process: bool


def judged_readings(records: Sequence[Record]) -> Judged:
    """One subject when the models take turns; each model when each has the process to itself.

    A reading is the last of its iteration. A crash begins a new process with memory of its own, and so does
    the restart of a server: the longest stretch without one is judged. Where each turn has a process, all of
    them are, each as it was before its load.
    """
    run = records[0]
    assert isinstance(run, Run)
    plan = run.plan
    labels = [model.label for model in plan.models]
    series = _after_unloads(records)
    if plan.strategy in (Strategy.RESTART, Strategy.RESIDENT):  # the last turns unload: another level
        destroyed = {
            record.cycle
            for record in records
            if isinstance(record, Release) and record.how is ReleaseKind.DESTROY
        }
        series = [item for item in series if item.reading.cycle not in destroyed]
    if plan.strategy is Strategy.RESTART:
        subjects = {label: [item for item in series if item.reading.model == label] for label in labels}
    else:
        ends = [item for item in series if item.reading.cycle % len(labels) == len(labels) - 1]
        if any(isinstance(record, Eviction) for record in records):
            ends = _of_one_level(ends)
        subjects = {" + ".join(labels): ends}
    stretches = {name: _longest_stretch(those) for name, those in subjects.items()}
    # Where processes are exchanged too often for a verdict on one, there is one on all, as with `isolate`.
    exchanged = plan.restart_above_bytes is not None and all(
        len(stretch) < MINIMUM_ITERATIONS for stretch in stretches.values()
    )
    if plan.strategy is Strategy.ISOLATE or exchanged:
        everything = {name: [item.reading for item in those] for name, those in subjects.items()}
        return Judged(everything, one_process=False)
    return Judged(stretches, one_process=True)


def capabilities_in(records: Sequence[Record]) -> list[Capabilities]:
    """Of the backend, as its workers told them."""
    return [r.capabilities for r in records if isinstance(r, WorkerStarted) and r.capabilities]


def asks_server(records: Sequence[Record]) -> bool:
    """Whether a server holds the models of a run."""
    return any(map(is_server, capabilities_in(records)))


class _AfterUnload(NamedTuple):
    """A reading, which processes it is of, and which models they have."""

    reading: Reading
    processes: tuple[int, int]  # by worker, and by how often a server was started anew
    loaded: frozenset[str]


def _after_unloads(records: Sequence[Record]) -> list[_AfterUnload]:
    """In the order of the run. Of a server's, those in which it was not found are none."""
    found = []
    renewals = 0
    loaded: set[str] = set()
    for record in records:
        if isinstance(record, WorkerStarted):
            loaded.clear()
        elif isinstance(record, Renewal):
            renewals += 1
            loaded.clear()
        elif isinstance(record, Load):
            loaded.add(record.model)
        elif isinstance(record, Eviction):
            loaded.discard(record.evicted)
        elif isinstance(record, Release) and record.how is not ReleaseKind.RESTART:
            loaded.discard(record.model)
        elif isinstance(record, Reading) and record.point == "after_unload":
            found.append(_AfterUnload(record, (record.worker, renewals), frozenset(loaded)))
    if not asks_server(records):
        return found
    return [item for item in found if item.reading.processes] or found


def _of_one_level(series: Sequence[_AfterUnload]) -> list[_AfterUnload]:
    """Where models make room for others, those readings with the same models, as most have."""
    counts = Counter(item.loaded for item in series)
    usual = max(counts, key=lambda loaded: counts[loaded], default=None)
    return [item for item in series if item.loaded == usual]


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


def _longest_stretch(series: Sequence[_AfterUnload]) -> list[Reading]:
    stretches: dict[tuple[int, int], list[Reading]] = {}
    for item in series:
        stretches.setdefault(item.processes, []).append(item.reading)
    return max(stretches.values(), key=len, default=[])
