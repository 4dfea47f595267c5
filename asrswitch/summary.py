"""What a run's records say: a pure function of them, so that a report can be made again from an old log."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

import msgspec

from asrswitch.memory.probe import Memory
from asrswitch.plan import Model, Strategy
from asrswitch.records import (
    CleanSlate,
    End,
    Failure,
    Load,
    Malloc,
    Point,
    Reading,
    Record,
    Release,
    Run,
    Skip,
    Transcription,
)
from asrswitch.schedule import Release as ReleaseKind
from asrswitch.stats.drift import Drift, judge_pace
from asrswitch.stats.trend import Slope
from asrswitch.stats.verdict import Sample, Verdict, Word, growth_by_model, iterations_needed, judge

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
    drifts: dict[str, Drift]  # of what was measured often enough: TTFT, tokens/s, load


class Resident(msgspec.Struct, frozen=True):
    """Resident memory of the workers over the run, in bytes."""

    first: int
    last: int
    peak: int


class SubjectVerdict(msgspec.Struct, frozen=True):
    """A verdict and what it is about: all models taking turns, or the one that stayed loaded."""

    subject: str
    verdict: Verdict
    growth_by_model: dict[
        str, Slope
    ]  # a cycle, of a leaking series, in the cycles of those that make it grow


class Summary(msgspec.Struct, frozen=True):
    """A run in numbers."""

    iterations_planned: int
    iterations_done: int
    finished: str  # complete, stopped by SIGINT, failed, cut off
    models: list[ModelSummary]
    resident: Resident | None
    verdicts: list[SubjectVerdict]
    failures: list[Failure]
    warnings: list[str]

    @property
    def word(self) -> Word:
        """The worst of the verdicts; a leak is worse than not knowing."""
        return max(
            (item.verdict.word for item in self.verdicts), key=_SEVERITY.index, default=Word.INCONCLUSIVE
        )

    @property
    def iterations_needed(self) -> int:
        """How many more are likely to decide every verdict; 0 once all are decided."""
        return max((iterations_needed(item.verdict) for item in self.verdicts), default=0)


def summarise(records: Sequence[Record]) -> Summary:
    """Summarise a log, complete or cut off; its first record is the run's."""
    run = records[0]
    assert isinstance(run, Run)
    readings = [record for record in records if isinstance(record, Reading)]
    failures = [record for record in records if isinstance(record, Failure)]
    done = {(reading.iteration, reading.model) for reading in readings if reading.point == "after_unload"}
    done &= _all_transcribed(records, {clip.path for clip in run.plan.clips})
    labels = [model.label for model in run.plan.models]
    iterations_done = sum(
        all((iteration, label) in done for label in labels) for iteration in range(1, run.plan.iterations + 1)
    )
    return Summary(
        iterations_planned=run.plan.iterations,
        iterations_done=iterations_done,
        finished=_finished(records[-1]),
        models=[_model(model, records, readings) for model in run.plan.models],
        resident=_resident(readings),
        verdicts=_verdicts(run, records, readings),
        failures=failures,
        warnings=_warnings(records, readings),
    )


def _finished(last: Record) -> str:
    if not isinstance(last, End):
        return "cut off"
    return f"stopped by {last.signal}" if last.reason == "stopped" else last.reason


def _all_transcribed(records: Sequence[Record], clips: set[str]) -> set[tuple[int, str]]:
    """The iterations and models in which every clip was transcribed, be it in the second attempt."""
    spoken: dict[tuple[int, str], set[str]] = {}
    for record in records:
        if isinstance(record, Transcription):
            spoken.setdefault((record.iteration, record.model), set()).add(record.clip)
    return {turn for turn, those in spoken.items() if those >= clips}


def _warnings(records: Sequence[Record], readings: Sequence[Reading]) -> list[str]:
    warnings = [
        f"{record.model} is left out from iteration {record.iteration} on: it {record.message}"
        for record in records
        if isinstance(record, Skip)
    ]
    slates = [record for record in records if isinstance(record, CleanSlate)]
    if unclean := [record for record in slates if not record.clean]:
        most = max(record.excess_bytes for record in unclean)
        mapped = " or its file was still mapped" if any(record.mapped for record in unclean) else ""
        warnings.append(
            f"after {len(unclean)} of {len(slates)} unloads something of a model was left: up to "
            f"{most / (1024 * 1024):.1f} MiB more than before the first load{mapped}"
        )
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
        unload_ms=_spread(
            release.release_ms for release in releases if release.how is not ReleaseKind.RESTART
        ),
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
        drifts=_drifts(loads, spoken),
    )


def _drifts(loads: Sequence[Load], spoken: Sequence[Transcription]) -> dict[str, Drift]:
    """Each speed's drift, where it was measured in enough iterations. Of several clips, the middle counts."""
    measured: dict[str, list[tuple[int, float | None]]] = {
        "TTFT": [(record.iteration, record.figures.ttft_ms) for record in spoken],
        "tokens/s": [(record.iteration, record.figures.tokens_per_s) for record in spoken],
        "load": [(record.iteration, record.load_ms) for record in loads],
    }
    drifts = {}
    for name, pairs in measured.items():
        by_iteration: dict[int, list[float]] = {}
        for iteration, value in pairs:
            if value is not None:
                by_iteration.setdefault(iteration, []).append(value)
        drift = judge_pace([statistics.median(those) for those in by_iteration.values()])
        if drift:
            drifts[name] = drift
    return drifts


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


def _verdicts(run: Run, records: Sequence[Record], readings: Sequence[Reading]) -> list[SubjectVerdict]:
    """One verdict when the models take turns; one for each model when each has the process to itself.

    A reading is the last of its iteration. A crash begins a new process with memory of its own, so the
    longest stretch in one worker is judged; where each turn has a process, all of them are, each as it was
    before its load.
    """
    plan = run.plan
    labels = [model.label for model in plan.models]
    series = [reading for reading in readings if reading.point == "after_unload"]
    if plan.strategy in (Strategy.RESTART, Strategy.RESIDENT):  # the last turns unload: another level
        destroyed = {
            record.cycle
            for record in records
            if isinstance(record, Release) and record.how is ReleaseKind.DESTROY
        }
        series = [reading for reading in series if reading.cycle not in destroyed]
    if plan.strategy is Strategy.RESTART:
        subjects = {label: [reading for reading in series if reading.model == label] for label in labels}
    else:
        last = len(labels) - 1
        subjects = {" + ".join(labels): [r for r in series if r.cycle % len(labels) == last]}
    if plan.strategy is not Strategy.ISOLATE:
        subjects = {name: _longest_stretch(series) for name, series in subjects.items()}
    limit = run.machine.memory_limit_bytes
    return [_subject_verdict(name, series, readings, limit) for name, series in subjects.items()]


def _subject_verdict(
    subject: str, judged: Sequence[Reading], readings: Sequence[Reading], limit: int
) -> SubjectVerdict:
    verdict = judge([_sample(reading.memory, reading.malloc) for reading in judged], limit)
    if verdict.word is not Word.LEAK or verdict.leading is None:
        return SubjectVerdict(subject, verdict, {})
    cycles = _whole_cycles([reading for reading in readings if reading.worker == judged[0].worker])
    return SubjectVerdict(subject, verdict, growth_by_model(cycles, verdict.leading))


def _whole_cycles(readings: Iterable[Reading]) -> dict[str, list[tuple[Sample, Sample]]]:
    """By model, the cycles read before their load and after their unload."""
    before: dict[int, Reading] = {}
    cycles: dict[str, list[tuple[Sample, Sample]]] = {}
    for reading in readings:
        if reading.point == "before_load":
            before[reading.cycle] = reading
        elif reading.point == "after_unload" and reading.cycle in before:
            first = before[reading.cycle]
            pair = (_sample(first.memory, first.malloc), _sample(reading.memory, reading.malloc))
            cycles.setdefault(reading.model, []).append(pair)
    return cycles


def _longest_stretch(readings: Sequence[Reading]) -> list[Reading]:
    stretches: dict[int, list[Reading]] = {}
    for reading in readings:
        stretches.setdefault(reading.worker, []).append(reading)
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
