"""Whether a speed or a time drifts over a run, by the slope that memory is judged by."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec
import numpy as np

from asrswitch.stats.series import MINIMUM_ITERATIONS
from asrswitch.stats.trend import Slope, theil_sen
from asrswitch.stats.warmup import warmup_length

NOTICEABLE = 0.05  # change over the run, as a part of the median


class Pace(enum.Enum):
    """What a speed does over a run."""

    STEADY = "steady"
    DRIFTS = "drifts"
    INCONCLUSIVE = "inconclusive"


class Drift(msgspec.Struct, frozen=True):
    """The word, and the change over the run after its warm-up as a part of the median."""

    pace: Pace
    iterations: int
    change: Slope
    per_iteration: float
    detectable: float  # the smallest change over the run that it could have called a drift


def judge_pace(values: Sequence[float]) -> Drift | None:
    """Judge a speed, one value an iteration; None where they are too few, or their median is not above 0.

    It ``drifts`` where the interval of its change lies wholly beyond ``NOTICEABLE``, up or down, and both
    halves go the same way; it is ``steady`` where the interval lies within.
    """
    median = float(np.median(values)) if len(values) >= MINIMUM_ITERATIONS else 0.0
    if median <= 0:
        return None
    relative = np.asarray(values, float) / median
    steady = relative[warmup_length(relative) :]
    steps = len(steady) - 1
    slope = theil_sen(steady)
    halves = [theil_sen(half) for half in np.array_split(steady, 2)]
    change = Slope(slope.slope * steps, slope.low * steps, slope.high * steps)
    up = change.low > NOTICEABLE and all(half.low > 0 for half in halves)
    down = change.high < -NOTICEABLE and all(half.high < 0 for half in halves)
    within = change.low >= -NOTICEABLE and change.high <= NOTICEABLE
    pace = Pace.DRIFTS if up or down else Pace.STEADY if within else Pace.INCONCLUSIVE
    width = max(part.high - part.low for part in (slope, *halves)) / 2
    detectable = max(NOTICEABLE + max(change.high - change.slope, change.slope - change.low), width * steps)
    return Drift(pace, len(values), change, slope.slope, detectable)
