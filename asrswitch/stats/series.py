"""The verdict on one series of readings, one an iteration: flat, plateau, leak or inconclusive."""

from __future__ import annotations

import enum
import math

import msgspec
import numpy as np
import numpy.typing as npt

from asrswitch.stats.trend import Slope, theil_sen
from asrswitch.stats.warmup import SHORTEST_STEADY, warmup_length

MINIMUM_ITERATIONS = 10


class Word(enum.Enum):
    """The four verdicts."""

    FLAT = "flat"
    PLATEAU = "plateau"
    LEAK = "leak"
    INCONCLUSIVE = "inconclusive"


class Tolerance(msgspec.Struct, frozen=True):
    """What is not worth a word, in the series' unit (bytes, or a number)."""

    per_iteration: float  # growth an iteration, in a long run
    in_all: float  # growth over the whole run, which is what counts in a short one
    warmup: float  # growth in warm-up
    late_rise: float  # of the last reading above all of the first third

    def slope(self, iterations: int) -> float:
        """Growth an iteration that a run of so many iterations lets pass."""
        return max(self.per_iteration, self.in_all / iterations)


class SeriesVerdict(msgspec.Struct, frozen=True):
    """The word on one series and the numbers behind it, in the series' unit."""

    word: Word
    reason: str
    iterations: int
    warmup_iterations: int
    warmup_growth: float
    slope: Slope | None  # an iteration, after warm-up
    detectable: float | None  # the smallest growth an iteration that this run could have called a leak
    iterations_to_decide: int | None  # in all; where the word is inconclusive


class _Stretch(msgspec.Struct, frozen=True):
    """Slopes of what follows warm-up, and of its halves."""

    readings: npt.NDArray[np.float64]
    slope: Slope
    first: Slope
    second: Slope

    @property
    def goes_on(self) -> bool:
        """Whether growth is seen in both halves, and is not dying out."""
        return min(self.first.low, self.second.low) > 0 and self.second.high >= self.first.slope / 2

    def detectable(self, tolerated: float) -> float:
        halves = (half.slope - half.low for half in (self.first, self.second))
        return max(tolerated + self.slope.slope - self.slope.low, *halves)


def judge_series(
    series: npt.NDArray[np.float64], tolerance: Tolerance, one_process: bool = True
) -> SeriesVerdict:
    """Judge one series, of one process or of as many as there are readings.

    A ``leak`` is a slope whose interval lies above the tolerance, and that goes on: it is seen in the first
    half of what follows warm-up and again in the second, and is not dying out. Where it is seen in the
    second only, that half is judged by itself. If there is no leak, the series is ``inconclusive`` while its
    interval reaches above the tolerance, or where it rose too late to tell: that is for one process, since
    what one has at its end another need not have. Otherwise its growth in warm-up tells ``plateau`` from
    ``flat``.
    """
    count = len(series)
    if count < MINIMUM_ITERATIONS:
        few = f"too few iterations in one process: {count}; a verdict needs {MINIMUM_ITERATIONS}"
        return SeriesVerdict(Word.INCONCLUSIVE, few, count, 0, 0.0, None, None, MINIMUM_ITERATIONS)
    series = series - series[0]  # so that figures of large readings are not rounded away
    tolerated = tolerance.slope(count)
    stretch = _stretch(series[warmup_length(series) :])
    if stretch.slope.low > tolerated and stretch.first.low <= 0 < stretch.second.low:
        late = stretch.readings[len(stretch.readings) // 2 :]
        stretch = _stretch(late) if len(late) >= SHORTEST_STEADY else stretch
    steady, slope = stretch.readings, stretch.slope
    growth = float(np.median(steady))

    needed = None
    if slope.low > tolerated and stretch.goes_on:
        word, reason = Word.LEAK, "keeps growing"
        growth = float(np.median(steady - slope.slope * np.arange(len(steady))))
    elif slope.low > tolerated:
        word, needed = Word.INCONCLUSIVE, 2 * count
        reason = "grew after warm-up, but not evenly enough to tell whether it goes on"
    elif slope.high > tolerated and _may_have_grown(steady, tolerated):
        word = Word.INCONCLUSIVE
        needed = _iterations_to_decide(slope, tolerance, count, steady)
        reason = "strays too much to tell growth from none"
    elif one_process and steady[-1] - _first_third(steady).max() > tolerance.late_rise:
        # A median of slopes does not see one late step, and one step does not tell whether another follows.
        word, needed = Word.INCONCLUSIVE, 2 * count
        reason = "rose after warm-up, and too late to tell whether it goes on"
    elif growth > tolerance.warmup:
        word, reason = Word.PLATEAU, "grew in warm-up and not after it"
    else:
        word, reason = Word.FLAT, "does not grow"
    warmup = count - len(steady)
    return SeriesVerdict(word, reason, count, warmup, growth, slope, stretch.detectable(tolerated), needed)


def _stretch(steady: npt.NDArray[np.float64]) -> _Stretch:
    first, second = (theil_sen(half) for half in np.array_split(steady, 2))
    return _Stretch(steady, theil_sen(steady), first, second)


def _may_have_grown(steady: npt.NDArray[np.float64], tolerated: float) -> bool:
    """Whether the readings spread as far as growth at the tolerance would have taken them.

    A small step or spike widens the interval of a short run; growth at the tolerance would have gone further.
    """
    return float(np.ptp(steady)) > tolerated * (len(steady) - 1)


def _first_third(steady: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return steady[: max(1, len(steady) // 3)]


def _iterations_to_decide(
    slope: Slope, tolerance: Tolerance, iterations: int, steady: npt.NDArray[np.float64]
) -> int:
    """Iterations until a series without growth would very likely be told from one at the tolerance.

    The interval's width falls as n^-1.5, a tolerance over the whole run as 1 / n. Half the width must come
    down to half the tolerance, for the slope itself wanders as far. The slope found here does not enter: it
    is what is not known yet.

    Steps that only rise are no noise, which more readings would average out: as many again tell whether
    another follows.
    """
    if np.all(np.diff(steady) >= 0):
        return 2 * iterations
    half = max(slope.high - slope.slope, slope.slope - slope.low)
    over = 2 * half / tolerance.slope(iterations)
    longer = over * over if tolerance.per_iteration == 0 else _longer(over, tolerance, iterations)
    return iterations - len(steady) + math.ceil(len(steady) * max(1.0, longer))


def _longer(over: float, tolerance: Tolerance, iterations: int) -> float:
    """How many times as long a run must be for an interval ``over`` times too wide."""
    # While the tolerance still falls, both fall: width / tolerance goes as n^-0.5; then as n^-1.5.
    falls = max(1.0, tolerance.in_all / iterations / tolerance.per_iteration)
    if over * over <= falls:
        return over * over
    return float(falls * math.pow(over / math.sqrt(falls), 2 / 3))
