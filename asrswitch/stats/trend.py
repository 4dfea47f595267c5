"""Slope of a series, robust against outliers, with an interval."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
_MOST_CORRELATED = 0.99  # a bound, so that the interval stays finite
_MOST_POINTS = 2_000  # pairs of points are held in memory at once


class Slope(msgspec.Struct, frozen=True):
    """Units of the series per step, and the two-sided interval of ``CONFIDENCE``."""

    slope: float
    low: float
    high: float


def theil_sen(series: npt.NDArray[np.float64]) -> Slope:
    """Median of all pairwise slopes (Theil 1950, Sen 1968), for three readings or more.

    Sen's interval takes the readings as independent. Where neighbouring residuals are alike, it is widened by
    sqrt((1 + r) / (1 - r)), r their lag-1 correlation, as for a first-order process (Bartlett 1946). A long
    series is thinned first.
    """
    from scipy.stats import theilslopes  # slow to import

    points, block = thin(series)
    slope, intercept, low, high = (float(number) for number in theilslopes(points, alpha=CONFIDENCE))
    residuals = points - (intercept + slope * np.arange(len(points)))
    widen = _widening(residuals)
    low, high = slope - (slope - low) * widen, slope + (high - slope) * widen
    return Slope(slope / block, low / block, high / block)


def thin(series: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], int]:
    """Medians of blocks, at most ``_MOST_POINTS``, and the block's length; a last part block is left out."""
    block = math.ceil(len(series) / _MOST_POINTS)
    whole = len(series) // block * block
    return np.median(series[:whole].reshape(-1, block), axis=1), block


def _widening(residuals: npt.NDArray[np.float64]) -> float:
    length = len(residuals)
    centred = residuals - residuals.mean()
    variance = float(centred @ centred)
    if variance == 0:
        return 1.0
    correlation = float(centred[:-1] @ centred[1:]) / variance
    # Taking a trend off hides correlation: the estimate is low by (2 + 4 r) / n (Shaman and Stine 1988).
    correlation = (correlation + 2 / length) / (1 - 4 / length) if length > 4 else _MOST_CORRELATED
    correlation = min(max(correlation, 0.0), _MOST_CORRELATED)
    return math.sqrt((1 + correlation) / (1 - correlation))
