"""Medians with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

CONFIDENCE = 0.95
_RESAMPLES = 2_000
_SEED = 0  # the same figures give the same interval


class Estimate(msgspec.Struct, frozen=True):
    """A median with its interval of ``CONFIDENCE``."""

    median: float
    low: float
    high: float
    count: int


def estimate(values: Sequence[float | None]) -> Estimate | None:
    """The median of the values and its percentile bootstrap interval (Efron 1979).

    None when there is no value or one of them is None: the median of what is left would be another figure.
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    array = np.asarray(known, dtype=np.float64)
    chosen = np.random.default_rng(_SEED).integers(len(array), size=(_RESAMPLES, len(array)))
    medians = np.median(array[chosen], axis=1)
    low, high = np.quantile(medians, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(np.median(array)), float(low), float(high), len(known))
