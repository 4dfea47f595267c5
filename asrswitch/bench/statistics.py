"""Medians with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

CONFIDENCE = 0.95
# Even from lowest to highest, n values miss their true median with a probability of 2 / 2^n.
LEAST_FOR_INTERVAL = 6
_RESAMPLES = 2_000
_SEED = 0  # the same figures give the same interval


class Estimate(msgspec.Struct, frozen=True):
    """A median with its interval of ``CONFIDENCE``.

    Fewer than ``LEAST_FOR_INTERVAL`` values have none: ``low`` and ``high`` are the lowest and the highest.
    """

    median: float
    low: float
    high: float
    count: int


def estimate(values: Sequence[float | None]) -> Estimate | None:
    """The median of the values and its percentile bootstrap interval (Efron 1979), or their range if few.

    None when there is no value or one of them is None: the median of what is left would be another figure.
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    array = np.asarray(known, dtype=np.float64)
    middle = float(np.median(array))
    if len(array) < LEAST_FOR_INTERVAL:
        return Estimate(middle, min(known), max(known), len(known))
    chosen = np.random.default_rng(_SEED).integers(len(array), size=(_RESAMPLES, len(array)))
    medians = np.median(array[chosen], axis=1)
    low, high = np.quantile(medians, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(middle, float(low), float(high), len(known))
