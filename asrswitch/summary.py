"""What a run's records say: a pure function of them, so that a report can be made again from an old log."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

import msgspec

from asrswitch.memory.probe import Memory
from asrswitch.plan import Model, Strategy
from asrswitch.records import End, Failure, Load, Malloc, Point, Reading, Record, Release, Run, Transcription
from asrswitch.schedule import Release as ReleaseKind
from asrswitch.stats.verdict import Sample, Verdict, Word, judge

_SEVERITY = (Word.FLAT, Word.PLATEAU, Word.INCONCLUSIVE, Word.LEAK)


class Spread(msgspec.Struct, frozen=True):
    """Some figures and their middle."""

    count: int
    median: float
    minimum: float
    maximum: float


class ModelSummary(msgspec.Struct, frozen=True):
    """One model's figures over its cycles; None where nothing was measured. Memory is resident memory."""

    label: str
    synthetic: bool  # random weights: speed and memory are true, text is not
    cycles: int  # that ran to their end
    load_ms: Spread | None
    switch_ms: Spread | None
    unload_ms: Spread | None
    restart_ms: Spread | None
    first_callback_ms: Spread | None
    ttft_ms: Spread | None
    chars_per_s: Spread | None
    tokens_per_s: Spread | None
    rtf: Spread | None
    wer: float | None  # mean over transcriptions that have a reference
    cer: float | None
    load_overhead_bytes: Spread | None
    unload_release_bytes: Spread | None
    net_growth_bytes: Spread | None


class Resident(msgspec.Struct, frozen=True):
    """Resident memory of the workers over the run, in bytes."""

    first: int
    last: int
    peak: int


class SeriesVerdict(msgspec.Struct, frozen=True):
    """A verdict and what it is about: all models taking turns, or the one that stayed loaded."""

    subject: str
    verdict: Verdict


class Summary(msgspec.Struct, frozen=True):
    """A run in numbers."""

    iterations_planned: int
    iterations_done: int
    finished: str  # complete, stopped by SIGINT, failed, cut off
    models: list[ModelSummary]
    resident: Resident | None
    verdicts: list[SeriesVerdict]
    failures: list[Failure]
    warnings: list[str]

    @property
    def word(self) -> Word:
        """The worst of the verdicts; a leak is worse than not knowing."""
        return max(
            (item.verdict.word for item in self.verdicts), key=_SEVERITY.index, default=Word.INCONCLUSIVE
        )


def summarise(records: Sequence[Record]) -> Summary:
    """Summarise a log, complete or cut off; its first record is the run's."""
    run = records[0]
    assert isinstance(run, Run)
    readings = [record for record in records if isinstance(record, Reading)]
    failures = [record for record in records if isinstance(record, Failure)]
    done = {(reading.iteration, reading.model) for reading in readings if reading.point == "after_unload"}
    done -= {(failure.iteration, failure.model) for failure in failures}
    labels = [model.label for model in run.plan.models]
    iterations_done = sum(
        all((iteration, label) in done for label in labels) for iteration in range(1, run.plan.iterations + 1)
    )
    warnings = _warnings(readings)
    return Summary(
        iterations_planned=run.plan.iterations,
        iterations_done=iterations_done,
        finished=_finished(records[-1]),
        models=[_model(model, records, readings) for model in run.plan.models],
        resident=_resident(readings),
        verdicts=_verdicts(run, records, readings),
        failures=failures,
        warnings=warnings,
    )


def _finished(last: Record) -> str:
    if not isinstance(last, End):
        return "cut off"
    return f"stopped by {last.signal}" if last.reason == "stopped" else last.reason


def _warnings(readings: Sequence[Reading]) -> list[str]:
    warnings = []
    if any(reading.memory.peak_since == "start" for reading in readings):
        warnings.append(
            "peak memory is since the worker's start: the kernel did not let it be set back at each reading"
        )
    if any(reading.memory.source == "status" for reading in readings):
        warnings.append("PSS and USS are unknown: this kernel has no smaps_rollup, or hides it")
    if any(reading.malloc is None for reading in readings):
        warnings.append("who holds the heap is unknown: the C library has no mallinfo2")
    return warnings


def _resident(readings: Sequence[Reading]) -> Resident | None:
    if not readings:
        return None
    peak = max(reading.memory.peak_rss_bytes for reading in readings)
    return Resident(readings[0].memory.rss_bytes, readings[-1].memory.rss_bytes, peak)


def _model(model: Model, records: Sequence[Record], readings: Sequence[Reading]) -> ModelSummary:
    label = model.label
    loads = [record for record in records if isinstance(record, Load) and record.model == label]
    releases = [record for record in records if isinstance(record, Release) and record.model == label]
    spoken = [record for record in records if isinstance(record, Transcription) and record.model == label]
    cycles = _readings_by_cycle(reading for reading in readings if reading.model == label)
    # After a restart the model is still loaded: what an unload gives back is known only where there was one.
    destroyed = {release.cycle for release in releases if release.how is ReleaseKind.DESTROY}
    unloaded = [points for cycle, points in cycles.items() if cycle in destroyed]
    return ModelSummary(
        label=label,
        synthetic=model.synthetic,
        cycles=sum("after_unload" in points for points in cycles.values()),
        load_ms=_spread(load.load_ms for load in loads),
        switch_ms=_spread(_switches(label, records)),
        unload_ms=_spread(release.release_ms for release in releases if release.how is ReleaseKind.DESTROY),
        restart_ms=_spread(release.release_ms for release in releases if release.how is ReleaseKind.RESTART),
        first_callback_ms=_spread(record.figures.first_callback_ms for record in spoken),
        ttft_ms=_spread(record.figures.ttft_ms for record in spoken),
        chars_per_s=_spread(record.figures.chars_per_s for record in spoken),
        tokens_per_s=_spread(record.figures.tokens_per_s for record in spoken),
        rtf=_spread(record.figures.rtf for record in spoken),
        wer=_mean(record.wer for record in spoken),
        cer=_mean(record.cer for record in spoken),
        load_overhead_bytes=_spread(
            _difference(points, ["after_load"], "before_load") for points in cycles.values()
        ),
        unload_release_bytes=_spread(
            _difference(points, ["after_load", "after_infer"], "after_unload") for points in unloaded
        ),
        net_growth_bytes=_spread(_difference(points, ["after_unload"], "before_load") for points in unloaded),
    )


def _readings_by_cycle(readings: Iterable[Reading]) -> dict[int, dict[Point, Memory]]:
    cycles: dict[int, dict[Point, Memory]] = {}
    for reading in readings:
        cycles.setdefault(reading.cycle, {})[reading.point] = reading.memory
    return cycles


def _difference(points: dict[Point, Memory], high: Sequence[Point], low: Point) -> int | None:
    """The highest of some readings less another; None unless all of them are there."""
    if low not in points or any(point not in points for point in high):
        return None
    return max(points[point].rss_bytes for point in high) - points[low].rss_bytes


def _switches(label: str, records: Sequence[Record]) -> list[float]:
    """Unload of one model plus load of this one, in the same worker."""
    switches = []
    before: Release | None = None
    for record in records:
        if isinstance(record, Release):
            before = record
        elif isinstance(record, Load):
            same_worker = before is not None and before.worker == record.worker
            if record.model == label and before and same_worker and before.how is ReleaseKind.DESTROY:
                switches.append(before.release_ms + record.load_ms)
            before = None
    return switches


def _verdicts(run: Run, records: Sequence[Record], readings: Sequence[Reading]) -> list[SeriesVerdict]:
    """One verdict when the models take turns in a process; one for each model when each stays loaded.

    A reading is the last unload's of its iteration. A crash begins a new process with memory of its own, so
    the longest stretch in one worker is judged.
    """
    unloads = [reading for reading in readings if reading.point == "after_unload"]
    labels = [model.label for model in run.plan.models]
    if run.plan.strategy is Strategy.RESTART:
        destroyed = {
            record.cycle
            for record in records
            if isinstance(record, Release) and record.how is ReleaseKind.DESTROY
        }
        subjects = {
            label: [
                reading for reading in unloads if reading.model == label and reading.cycle not in destroyed
            ]
            for label in labels
        }
    else:
        subjects = {" + ".join(labels): [reading for reading in unloads if reading.model == labels[-1]]}
    limit = run.machine.memory_limit_bytes
    return [SeriesVerdict(name, judge(_longest_stretch(series), limit)) for name, series in subjects.items()]


def _longest_stretch(readings: Sequence[Reading]) -> list[Sample]:
    stretches: dict[int, list[Sample]] = {}
    for reading in readings:
        stretches.setdefault(reading.worker, []).append(_sample(reading.memory, reading.malloc))
    return max(stretches.values(), key=len, default=[])


def _sample(memory: Memory, malloc: Malloc | None) -> Sample:
    counts = {"mappings": memory.mappings, "threads": memory.threads, "descriptors": memory.descriptors}
    return Sample(
        resident_bytes=memory.rss_bytes + memory.swap_bytes,
        anonymous_bytes=memory.anonymous_bytes + memory.swap_bytes,
        file_bytes=memory.file_bytes,
        held_bytes=malloc.held_bytes if malloc else None,
        kept_bytes=malloc.kept_bytes if malloc else None,
        counts={name: count for name, count in counts.items() if count is not None},
    )


def _spread(values: Iterable[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread(len(known), statistics.median(known), min(known), max(known)) if known else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
