"""The verdict on a series of memory readings, one an iteration: flat, plateau, leak or inconclusive.

How often a series without a leak is called one is held to bounds in ``tests/stats/test_verdict.py``. Readings
that are independent or mildly correlated keep the rate that the interval promises, 2.5 %; strongly correlated
ones (0.9 from one to the next, noise far above the tolerance) and random walks exceed it.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from asrswitch.stats.trend import Slope, theil_sen
from asrswitch.stats.warmup import warmup_length

# Resident memory moves in pages: four an iteration are not told from the kernel's own accounting.
RESIDENT_TOLERANCE = 16 * 1024  # bytes an iteration
# What malloc's callers hold is counted, not estimated; this leaves room for the worker's own Python objects.
HELD_TOLERANCE = 1024  # bytes an iteration
# What is held is as good as free of noise, so that a late rise of this much is one.
HELD_RISE_TOLERANCE = 16 * 1024  # bytes
# First calls map code, build tables and start pools; this much of it is not worth calling a plateau.
WARMUP_TOLERANCE = 1024 * 1024  # bytes
MINIMUM_ITERATIONS = 10


class Word(enum.Enum):
    """The four verdicts."""

    FLAT = "flat"
    PLATEAU = "plateau"
    LEAK = "leak"
    INCONCLUSIVE = "inconclusive"


class Sample(msgspec.Struct, frozen=True):
    """One iteration's reading after its last unload. Heap figures are None where malloc does not tell."""

    resident_bytes: int  # with what was swapped out
    anonymous_bytes: int  # with what was swapped out
    file_bytes: int
    held_bytes: int | None
    kept_bytes: int | None
    counts: dict[str, int]  # mappings, threads, descriptors


class Verdict(msgspec.Struct, frozen=True):
    """The word and the numbers behind it. Slopes are per iteration, after warm-up."""

    word: Word
    reason: str
    holder: str | None  # who holds what grew, or most of what grew in warm-up
    iterations: int
    warmup_iterations: int
    warmup_growth_bytes: int
    resident: Slope | None
    held: Slope | None
    detectable_bytes: float | None  # the smallest growth an iteration that this run could have called a leak
    detectable_held_bytes: float | None  # the same for what malloc's callers hold
    iterations_to_limit: int | None  # at this slope
    iterations_to_decide: int | None


def judge(samples: Sequence[Sample], memory_limit_bytes: int) -> Verdict:
    """Judge samples of one worker, in order.

    A ``leak`` is a slope whose interval lies above its tolerance, of resident memory or of what malloc's
    callers hold, or a count of mappings, threads or descriptors that keeps rising. If there is none, the run
    is ``inconclusive`` while one of the intervals reaches above its tolerance, or where something rose after
    its warm-up and too late to tell. Otherwise resident memory's growth in warm-up tells ``plateau`` from
    ``flat``. Resident memory, what is held and each count have each a warm-up of their own.
    """
    count = len(samples)
    if count < MINIMUM_ITERATIONS:
        return Verdict(
            Word.INCONCLUSIVE,
            f"too few iterations in one process: {count}; a verdict needs {MINIMUM_ITERATIONS}",
            None, count, 0, 0, None, None, None, None, None, None,
        )  # fmt: skip
    resident = _array([sample.resident_bytes for sample in samples])
    warmup = warmup_length(resident)
    steady = samples[warmup:]
    slope = theil_sen(resident[warmup:])
    growth = int(np.median(resident[warmup:]) - resident[0])
    steady_held = _steady_held(samples)
    held = None if steady_held is None else theil_sen(steady_held)
    counts = _steady_counts(samples)
    rising_counts = [name for name, series in counts.items() if _keeps_rising(series)]
    heap_grows = held is not None and held.low > HELD_TOLERANCE
    resident_grows = slope.low > RESIDENT_TOLERANCE
    late = ["resident memory"] * (_rise(resident[warmup:]) > WARMUP_TOLERANCE)
    late += ["what malloc's callers hold"] * (
        steady_held is not None and _rise(steady_held) > HELD_RISE_TOLERANCE
    )
    late += [
        f"the number of {name}" for name, series in counts.items() if series[-1] > _first_third(series).min()
    ]

    holder = needed = None
    if heap_grows or rising_counts or resident_grows:
        word = Word.LEAK
        if heap_grows:
            holder = "heap in use"
        elif resident_grows:
            holder = _largest({name: theil_sen(parts).slope for name, parts in _holders(steady).items()})
        else:
            holder = rising_counts[0]
        reason = _leak_reason(heap_grows, resident_grows, rising_counts)
    elif slope.high > RESIDENT_TOLERANCE:
        word = Word.INCONCLUSIVE
        reason = "the interval of resident memory's slope is too wide to tell growth from none"
        needed = _iterations_to_decide(slope, RESIDENT_TOLERANCE, count, len(steady))
    elif steady_held is not None and held is not None and _may_grow(held, steady_held):
        word = Word.INCONCLUSIVE
        reason = (
            "the interval of the slope of what malloc's callers hold is too wide to tell growth from none"
        )
        needed = _iterations_to_decide(held, HELD_TOLERANCE, count, len(steady_held))
    elif late:
        # A median of slopes does not see one late step, and one step does not tell whether another follows.
        word = Word.INCONCLUSIVE
        reason = f"{' and '.join(late)} rose after warm-up, and too late to tell whether it goes on"
        needed = 2 * count
    elif growth > WARMUP_TOLERANCE:
        word = Word.PLATEAU
        holder = _largest(
            {name: float(np.median(p[warmup:]) - p[0]) for name, p in _holders(samples).items()}
        )
        reason = "grew in warm-up and not after it"
    else:
        word = Word.FLAT
        reason = "no growth beyond the tolerances"
    fastest = max(slope.slope, held.slope if held else 0.0)
    room = memory_limit_bytes - samples[-1].resident_bytes
    return Verdict(
        word=word,
        reason=reason,
        holder=holder,
        iterations=count,
        warmup_iterations=warmup,
        warmup_growth_bytes=growth,
        resident=slope,
        held=held,
        detectable_bytes=_detectable(slope, RESIDENT_TOLERANCE),
        detectable_held_bytes=_detectable(held, HELD_TOLERANCE) if held else None,
        iterations_to_limit=max(0, int(room / fastest)) if word is Word.LEAK and fastest > 0 else None,
        iterations_to_decide=needed,
    )


def _array(values: Sequence[float]) -> npt.NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def _steady_held(samples: Sequence[Sample]) -> npt.NDArray[np.float64] | None:
    known = [sample.held_bytes for sample in samples if sample.held_bytes is not None]
    return _after_warmup(_array(known)) if len(known) == len(samples) else None


def _may_grow(slope: Slope, held: npt.NDArray[np.float64]) -> bool:
    """Whether the interval admits growth at the tolerance, and the readings spread over half of it or more.

    A step of a few KiB widens the interval of a short run; growth at the tolerance would have gone further.
    """
    return slope.high > HELD_TOLERANCE and float(np.ptp(held)) > HELD_TOLERANCE * len(held) / 2


def _steady_counts(samples: Sequence[Sample]) -> dict[str, npt.NDArray[np.float64]]:
    names = set.intersection(*(set(sample.counts) for sample in samples))
    return {name: _after_warmup(_array([s.counts[name] for s in samples])) for name in sorted(names)}


def _after_warmup(series: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return series[warmup_length(series) :]


def _keeps_rising(count: npt.NDArray[np.float64]) -> bool:
    """Whether what is lost, however seldom, is never given back: a count is exact and needs no tolerance."""
    lowest = [part.min() for part in np.array_split(count, 3)]
    return bool(lowest[0] < lowest[1] < lowest[2]) and theil_sen(count).low > 0


def _holders(samples: Sequence[Sample]) -> dict[str, npt.NDArray[np.float64]]:
    """Resident memory by holder. What the heap keeps back need not be resident; parts need not add up."""
    anonymous = _array([sample.anonymous_bytes for sample in samples])
    parts = {"file cache": _array([sample.file_bytes for sample in samples])}
    held = [sample.held_bytes for sample in samples if sample.held_bytes is not None]
    kept = [sample.kept_bytes for sample in samples if sample.kept_bytes is not None]
    if len(held) == len(kept) == len(samples):
        parts["heap in use"] = _array(held)
        parts["heap kept back"] = _array(kept)
        parts["mappings"] = anonymous - parts["heap in use"] - parts["heap kept back"]
    else:
        parts["anonymous memory"] = anonymous
    return parts


def _rise(steady: npt.NDArray[np.float64]) -> float:
    """How far the last reading lies above the level of the first third."""
    return float(steady[-1] - np.median(_first_third(steady)))


def _first_third(steady: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return steady[: max(1, len(steady) // 3)]


def _largest(growth: dict[str, float]) -> str:
    return max(growth, key=lambda name: growth[name])


def _leak_reason(heap: bool, resident: bool, counts: Sequence[str]) -> str:
    what = ["what malloc's callers hold"] * heap + ["resident memory"] * resident
    what += [f"the number of {name}" for name in counts]
    return f"{' and '.join(what)} keeps growing"


def _detectable(slope: Slope, tolerance: float) -> float:
    return tolerance + slope.slope - slope.low


def _iterations_to_decide(slope: Slope, tolerance: float, iterations: int, steady: int) -> int:
    """Iterations until a series without growth would very likely be told from one at the tolerance.

    The interval's width falls as n^-1.5. Its half must come down to half the tolerance, for the slope itself
    wanders as far. The slope found here does not enter: it is what is not known yet.
    """
    half = max(slope.high - slope.slope, slope.slope - slope.low)
    return iterations - steady + math.ceil(steady * max(1.0, math.pow(2 * half / tolerance, 2 / 3)))
