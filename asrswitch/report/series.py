"""The numbers behind a summary, in the order in which they were measured: what its charts show.

What is judged is chosen by ``asrswitch.judged``, and what the spreads are of is defined by
``asrswitch.summary``; the tests hold these series against its verdicts and medians.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import datetime

import msgspec
import numpy as np
import numpy.typing as npt

from asrswitch.judged import sample_of
from asrswitch.records import Failure, OfCycle, Reading, Record, Resume, Run, Timeline
from asrswitch.report.runs import ReportedRun
from asrswitch.stats.series import SeriesVerdict
from asrswitch.stats.verdict import series_of
from asrswitch.turns import switch_ms, turns_of

Floats = npt.NDArray[np.float64]

PHASES = {
    "before_load": "between",
    "after_load": "load",
    "after_infer": "transcribe",
    "after_unload": "unload",
    "failure": "failed",
    "stop": "stopped",
}
HOLDERS = ("files (weights)", "heap in use", "heap kept back", "other anonymous")


class Moment(msgspec.Struct, frozen=True):
    """Memory at one time, in bytes by the order of ``HOLDERS``."""

    s: float  # since the run began; what passed before a resumed run went on is left out
    phase: str  # that this is in, or that it ended
    iteration: int
    model: str
    measured: bool  # a reading; else a sample, in which only files and anonymous memory are told apart
    holders: tuple[int, int, int, int]

    @property
    def total(self) -> int:
        return sum(self.holders)


class Mark(msgspec.Struct, frozen=True):
    """A failure, and when it was."""

    s: float
    text: str


class Fit(msgspec.Struct, frozen=True):
    """The line that a verdict found in a series, over its iterations from 1; the band is its interval."""

    iterations: list[float]
    middle: list[float]
    low: list[float]
    high: list[float]


def moments(records: Sequence[Record]) -> list[Moment]:
    """Readings and samples of a run by time; none where its log has no times.

    How anonymous memory divides is known at readings. In between, what malloc's callers hold and what it
    keeps back are taken to go from one reading's to the next's in a straight line, and all else that is there
    is other anonymous memory. What the heap keeps back need not be resident: it counts as far as there is
    anonymous memory for it.
    """
    clock = _Clock(records)
    known: list[tuple[float, int, int]] = []  # time, held and kept at readings
    found: list[tuple[float, str, OfCycle, bool, int, int]] = []  # then anonymous and file-backed bytes
    worker: int | None = None
    for record in records:
        clock.see(record)
        if isinstance(record, Reading | Timeline) and record.worker != worker:
            at = clock.of_first(record)
            if found and at is not None and _begins(record):
                nothing = (record, True, 0, 0)
                found += [(found[-1][0], "stop", *nothing), (at, "stop", *nothing)]
            worker = record.worker
        if isinstance(record, Reading):
            at = clock.of(record)
            if at is None:
                return []
            memory = record.memory
            found.append((at, record.point, record, True, memory.anonymous_bytes, memory.file_bytes))
            if record.malloc:
                known.append((at, record.malloc.held_bytes, record.malloc.kept_bytes))
        elif isinstance(record, Timeline):
            samples = record.samples
            for ms, anonymous, file in zip(
                samples.ms, samples.anonymous_bytes, samples.file_bytes, strict=True
            ):
                found.append((clock.of_sample(ms), record.until, record, False, anonymous, file))
        elif isinstance(record, Failure) and record.kind in ("died", "timeout"):
            at = clock.of(record)
            if at is not None:
                found.append((at, "failure", record, True, 0, 0))
    found.sort(key=lambda item: item[0])
    times = [item[0] for item in found]
    held = _between(times, [(at, value) for at, value, _ in known])
    kept = _between(times, [(at, value) for at, _, value in known])
    return [
        Moment(
            round(at, 4),
            PHASES[until],
            record.iteration,
            record.model,
            measured,
            _divide(anonymous, file, int(held[index]), int(kept[index])),
        )
        for index, (at, until, record, measured, anonymous, file) in enumerate(found)
    ]


def marks(records: Sequence[Record]) -> list[Mark]:
    """The failures that have a time."""
    clock = _Clock(records)
    found = []
    for record in records:
        clock.see(record)
        if isinstance(record, Failure):
            at = clock.of(record)
            if at is not None:
                found.append(Mark(at, f"{record.model}, {record.phase}: {record.message}"))
    return found


def judged_series(readings: Sequence[Reading]) -> dict[str, Floats]:
    """The series that a verdict judges, by name."""
    return series_of([sample_of(reading) for reading in readings])


def fit(series: Floats, verdict: SeriesVerdict) -> Fit | None:
    """The line through the middle of what follows warm-up, at the verdict's slope and its interval's ends."""
    slope, warmup = verdict.slope, verdict.warmup_iterations
    if slope is None or warmup >= len(series):
        return None
    steady = series[warmup:]
    steps = np.arange(len(steady), dtype=float)
    middle = float(np.median(steady - slope.slope * steps)) + slope.slope * steps[-1] / 2
    ends = np.array([0.0, steps[-1] / 2, steps[-1]])
    away = ends - steps[-1] / 2
    low, high = middle + slope.low * away, middle + slope.high * away
    return Fit(
        iterations=[float(end) for end in ends + warmup + 1],
        middle=[float(value) for value in middle + slope.slope * away],
        low=[float(value) for value in np.minimum(low, high)],
        high=[float(value) for value in np.maximum(low, high)],
    )


def times(run: ReportedRun) -> dict[str, dict[str, list[float]]]:
    """What the spreads of the summary are of: by figure and model, in ms and in the order of the run."""
    turns = turns_of(run.records)
    names = ("ttft_ms", "inference_ms", "load_ms", "unload_ms", "switch_ms")
    figures: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for model in run.plan.models:
        label = model.label
        own = [turn for turn in turns if turn.model == label]
        spoken = [record for turn in own for record in turn.transcriptions]
        found: dict[str, Sequence[float | None]] = {
            "ttft_ms": [record.figures.ttft_ms for record in spoken],
            "inference_ms": [record.answered_ms for record in spoken if record.gives == "embedding"],
            "load_ms": [turn.load_ms for turn in own],
            "unload_ms": [turn.unload_ms for turn in own],
            "switch_ms": [
                switch_ms(before, turn) for before, turn in itertools.pairwise(turns) if turn.model == label
            ],
        }
        for name, values in found.items():
            if known := [value for value in values if value is not None]:
                figures[name][label] = known
    return {name: by_model for name, by_model in figures.items() if by_model}


def thin(values: Sequence[float] | Floats, most: int, places: Sequence[float] | None = None) -> list[int]:
    """Indices of at most ``most`` values: the lowest and highest of each stretch, and the first and last.

    Args:
        values: of any number.
        most: 4 or more.
        places: where the values stand, in order; stretches are equally long there. None for equal steps.
    """
    count = len(values)
    if count <= most:
        return list(range(count))
    array = np.asarray(values, float)
    at = np.arange(count) if places is None else np.asarray(places, float)
    ends = np.linspace(at[0], at[-1], (most - 2) // 2 + 1)[1:-1]
    kept = {0, count - 1}
    for stretch in np.split(np.arange(count), np.searchsorted(at, ends)):
        if len(stretch):
            part = array[stretch]
            kept |= {int(stretch[part.argmin()]), int(stretch[part.argmax()])}
    return sorted(kept)


class _Clock:
    """Seconds since a run began, without what passed between its parts.

    Samples count from a moment that is a little before the record of the run was written: they are moved back
    by as much as the latest of them would stand after the reading that it came before.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        run = records[0]
        assert isinstance(run, Run)
        self._begin = _parse(run.at or run.started_at)
        self._passed = 0.0
        self._latest = 0.0
        self._ahead = _ahead(records, self._begin)

    def see(self, record: Record) -> None:
        """Every record, in order."""
        if isinstance(record, Resume):
            self._passed = self._latest
            self._begin = _parse(record.at) if record.at else self._begin
            self._ahead = self._ahead[1:]
        elif isinstance(record, OfCycle) and record.at:
            self._latest = max(self._latest, self.of(record) or 0.0)

    def of(self, record: OfCycle) -> float | None:
        """When it was written; None where it does not say."""
        return self._passed + _parse(record.at) - self._begin if record.at else None

    def of_first(self, record: Reading | Timeline) -> float | None:
        """When what a record tells of began."""
        samples = record.samples.ms if isinstance(record, Timeline) else ()
        return self.of_sample(samples[0]) if samples else self.of(record)

    def of_sample(self, ms: float) -> float:
        return self._passed + ms / 1e3 - self._ahead[0]


def _ahead(records: Sequence[Record], begin: float) -> list[float]:
    """By how much samples stand ahead of readings, for each part of a run."""
    found = [0.0]
    for record in records:
        if isinstance(record, Resume):
            begin = _parse(record.at) if record.at else begin
            found.append(0.0)
        elif isinstance(record, Timeline) and record.at and record.samples.ms:
            found[-1] = max(found[-1], record.samples.ms[-1] / 1e3 - (_parse(record.at) - begin))
    return found


def _parse(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def _begins(record: Reading | Timeline) -> bool:
    """Whether nothing was measured between the process before and this one.

    With `isolate` the reading after an unload is of the process that stands ready, and there is no gap.
    """
    point = record.point if isinstance(record, Reading) else record.until
    return point == "before_load"


def _between(times: Sequence[float], known: Sequence[tuple[float, int]]) -> Floats:
    if not known:
        return np.zeros(len(times))
    at, values = zip(*known, strict=True)
    found: Floats = np.interp(times, at, values)
    return found


def _divide(anonymous: int, file: int, held: int, kept: int) -> tuple[int, int, int, int]:
    held = min(held, anonymous)
    kept = min(kept, anonymous - held)
    return file, held, kept, anonymous - held - kept
