"""What is compared: figures of a model's turns, as they are in a summary."""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from asrswitch.figures import Figures
from asrswitch.turns import Turn, switch_ms

MIB = 1024 * 1024


class Kind(enum.Enum):
    """What a figure is, and how two of it are held against each other."""

    TIME = "time"  # by their ratio
    SPEED = "speed"  # by their ratio
    AMOUNT = "amount"  # by their ratio
    LEVEL = "level"  # by their difference: it may be nothing, or less

    @property
    def by_ratio(self) -> bool:
        return self is not Kind.LEVEL


class At(enum.Enum):
    """Where in a unit's values a figure is read.

    The median is what a user meets. The tenth that is best is what the build can do where nothing else has
    the machine: other processes only ever add to a time, so that it varies far less (Chen and Revels 2016).
    A change of one need not be one of the other.
    """

    MEDIAN = "median"
    BEST = "best tenth"


class Unit(enum.Enum):
    """What a figure is counted in."""

    MS = "ms"
    PER_SECOND = "/s"
    PLAIN = ""
    SHARE = "share"
    BYTES = "bytes"
    BYTES_AN_ITERATION = "bytes an iteration"


class Measure(msgspec.Struct, frozen=True):
    """A figure: what it is called, how it is compared, and what of a difference is too little to be told.

    ``least`` is a part of the baseline's figure, or in the figure's unit where that is a level.
    """

    key: str
    title: str
    kind: Kind
    unit: Unit
    least: float


class Sample(msgspec.Struct, frozen=True):
    """A figure of one turn; several clips of a turn are one."""

    cycle: int
    value: float


# Less than a hundredth of a time is seldom worth a word, nor is what a page that lies elsewhere costs. Peaks
# differ by pages that happen to be mapped (`strategies`), and what stays after an unload by code and tables
# of first calls (`allocators`). Texts are exact: any difference counts.
_TIME, _PEAK, _RETAINED = 0.01, 0.01, 1.0 * MIB
LEAST_MS = 0.05
HEAP_SLOPE = Measure("heap_slope", "heap slope", Kind.LEVEL, Unit.BYTES_AN_ITERATION, 0.0)
MEASURES = (
    Measure("ttft", "TTFT", Kind.TIME, Unit.MS, _TIME),
    Measure("inference", "inference", Kind.TIME, Unit.MS, _TIME),  # of embeddings
    Measure("load", "load", Kind.TIME, Unit.MS, _TIME),
    Measure("unload", "unload", Kind.TIME, Unit.MS, _TIME),
    Measure("switch", "switch", Kind.TIME, Unit.MS, _TIME),
    Measure("tokens_per_s", "tokens/s", Kind.SPEED, Unit.PER_SECOND, _TIME),
    Measure("chars_per_s", "chars/s", Kind.SPEED, Unit.PER_SECOND, _TIME),
    Measure("rtf", "RTF", Kind.TIME, Unit.PLAIN, _TIME),
    Measure("wer", "WER", Kind.LEVEL, Unit.SHARE, 0.0),
    Measure("cer", "CER", Kind.LEVEL, Unit.SHARE, 0.0),
    Measure("checks_failed", "checks failed", Kind.LEVEL, Unit.SHARE, 0.0),
    Measure("peak", "peak memory", Kind.AMOUNT, Unit.BYTES, _PEAK),
    Measure("retained", "retained memory", Kind.LEVEL, Unit.BYTES, _RETAINED),
    HEAP_SLOPE,
)


def samples_of(measure: Measure, label: str, turns: Sequence[Turn], inputs: Sequence[str]) -> list[Sample]:
    """A model's turns by one figure, less those that have it not, or not of every clip."""
    found = []
    for before, turn in zip([None, *turns], turns, strict=False):
        if turn.model == label:
            value = _value(measure.key, before, turn, inputs)
            if value is not None and (value > 0 or not measure.kind.by_ratio):
                found.append(Sample(turn.cycle, value))
    return found


def places_of(measure: Measure) -> tuple[At, ...]:
    """Where a figure is read: of times and speeds, at their best too."""
    return (At.MEDIAN, At.BEST) if measure.kind in (Kind.TIME, Kind.SPEED) else (At.MEDIAN,)


def read_at(at: At, measure: Measure, values: Sequence[float]) -> float:
    """The figure of a unit from those of its turns; of errors in texts the mean."""
    if at is At.BEST:
        return float(np.quantile(values, 0.9 if measure.kind is Kind.SPEED else 0.1))
    return statistics.fmean(values) if measure.unit is Unit.SHARE else statistics.median(values)


def _value(key: str, before: Turn | None, turn: Turn, inputs: Sequence[str]) -> float | None:
    if key in _OF_FIGURES:
        if key == "inference" and any(record.gives == "text" for record in turn.transcriptions):
            return None
        return _over_clips(_OF_FIGURES[key], turn, inputs)
    if key in ("wer", "cer"):
        errors = [record.wer if key == "wer" else record.cer for record in turn.transcriptions]
        known = [error for error in errors if error is not None]
        return statistics.fmean(known) if known and _whole(turn, inputs) else None
    if key == "checks_failed":
        passed = [record.check.passed for record in turn.transcriptions if record.check]
        return 1 - statistics.fmean(passed) if passed and _whole(turn, inputs) else None
    if key == "switch":
        return switch_ms(before, turn) if before else None
    return {
        "load": turn.load_ms,
        "unload": turn.unload_ms,
        "peak": turn.peak_rss_bytes,
        "retained": turn.retained_bytes,
    }[key]


_OF_FIGURES: Mapping[str, Callable[[Figures], float | None]] = {
    "ttft": lambda figures: figures.ttft_ms,
    "inference": lambda figures: figures.inference_ms,
    "tokens_per_s": lambda figures: figures.tokens_per_s,
    "chars_per_s": lambda figures: figures.chars_per_s,
    "rtf": lambda figures: figures.rtf,
}


def _over_clips(figure: Callable[[Figures], float | None], turn: Turn, inputs: Sequence[str]) -> float | None:
    """The geometric mean, in which each clip's change counts alike, however long the clip."""
    values = [figure(record.figures) for record in turn.transcriptions]
    known = [value for value in values if value is not None and value > 0]
    if not known or len(known) < len(values) or not _whole(turn, inputs):
        return None
    return math.exp(statistics.fmean(map(math.log, known)))


def _whole(turn: Turn, inputs: Sequence[str]) -> bool:
    return {record.clip for record in turn.transcriptions} >= set(inputs)
