"""Slope of a series, robust against outliers, with an interval that allows for autocorrelation."""

from __future__ import annotations

import functools
import math

import msgspec
import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
_REPLICATES = 199
_MOST_CORRELATED = 0.99  # a bound, so that the interval stays finite
_MOST_POINTS = 200  # all pairs of points are held in memory, once for each replicate
_NOTHING = 1e-9  # residuals of this part of the series' range are rounding

Floats = npt.NDArray[np.float64]


class Slope(msgspec.Struct, frozen=True):
    """Units of the series per step, and the two-sided interval of ``CONFIDENCE``."""

    slope: float
    low: float
    high: float


def theil_sen(series: Floats) -> Slope:
    """Median of all pairwise slopes (Theil 1950, Sen 1968), for three readings or more.

    Sen's interval lies between two of the ordered pairwise slopes, as far apart as Kendall's S strays when
    nothing grows. Sen takes the readings as independent; here the straying is found by a circular block
    bootstrap of the residuals (Künsch 1989, Politis and Romano 1992) with blocks of n^(1/3) (the rate of
    Hall, Horowitz and Jing 1995). Blocks alone fall short on the correlation of short series, so that a
    first-order process is taken off before and put back after them (post-blackening: Davison and Hinkley
    1997, 8.2). The residuals enter as ranks, for S knows nothing else of them. For few readings the interval
    is widened as Student's t is beside the normal distribution. The draws are seeded: the same series gives
    the same interval. A long series is thinned first.
    """
    points, block = thin(series)
    count = len(points)
    slopes = _pairwise_slopes(points)
    slope = _median(slopes)
    residuals = points - slope * np.arange(count)
    residuals -= np.median(residuals)
    if float(np.abs(residuals).max()) <= _NOTHING * float(np.ptp(points)):
        return Slope(slope / block, slope / block, slope / block)
    stray = _stray(_ranks(residuals))
    below = max(0, math.floor((len(slopes) - stray) / 2))
    widen = _small_sample(count - 2)
    low, high = slope - (slope - slopes[below]) * widen, slope + (slopes[-1 - below] - slope) * widen
    return Slope(slope / block, float(low) / block, float(high) / block)


def thin(series: Floats, most: int = _MOST_POINTS) -> tuple[Floats, int]:
    """Medians of blocks, at most ``most``, and the block's length; a last part block is left out."""
    block = math.ceil(len(series) / most)
    whole = len(series) // block * block
    return np.median(series[:whole].reshape(-1, block), axis=1), block


def _median(ordered: Floats) -> float:
    """Of ordered numbers. The halves are taken before the sum, which could be too large a number."""
    middle = len(ordered) // 2
    return float(ordered[middle] if len(ordered) % 2 else ordered[middle - 1] / 2 + ordered[middle] / 2)


def _pairwise_slopes(points: Floats) -> Floats:
    """In order. [n (n - 1) / 2]"""
    first, second = _pairs(len(points))
    slopes: Floats = np.sort((points[second] - points[first]) / (second - first))
    return slopes


@functools.lru_cache(maxsize=64)
def _pairs(count: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    first, second = np.triu_indices(count, 1)
    return first, second


def _ranks(residuals: Floats) -> Floats:
    """Ranks, equal ones shared, about 0; residuals that differ by rounding tie."""
    grain = _NOTHING * float(np.ptp(residuals))
    _, places, repeats = np.unique(np.round(residuals / grain), return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(repeats) - (repeats - 1) / 2)[places]
    ranks -= ranks.mean()
    return ranks


def _stray(residuals: Floats) -> float:
    """How far Kendall's S strays from 0, either way, for ``CONFIDENCE`` of replicates of the residuals."""
    count = len(residuals)
    carried = _correlation(residuals)
    innovations = residuals[1:] - carried * residuals[:-1]
    innovations = innovations - innovations.mean()
    drawn = innovations[_draws(count, count - 1)].T  # [n, replicates]
    replicates = np.empty_like(drawn)
    replicates[0] = drawn[0] / math.sqrt(1 - carried * carried)
    for index in range(1, count):
        replicates[index] = carried * replicates[index - 1] + drawn[index]
    scores = np.zeros(_REPLICATES)
    for distance in range(1, count):
        scores += np.sign(replicates[distance:] - replicates[:-distance]).sum(axis=0)
    rank = math.ceil(CONFIDENCE * (_REPLICATES + 1)) - 1
    return float(np.sort(np.abs(scores))[rank])


@functools.lru_cache(maxsize=64)
def _draws(count: int, source: int) -> npt.NDArray[np.intp]:
    """Indices of circular blocks. [replicates, count]"""
    length = math.ceil(count ** (1 / 3))
    blocks = math.ceil(count / length)
    starts = np.random.default_rng(count).integers(source, size=(_REPLICATES, blocks, 1))
    indices: npt.NDArray[np.intp] = (starts + np.arange(length)) % source
    return indices.reshape(_REPLICATES, -1)[:, :count]


def _correlation(residuals: Floats) -> float:
    """Of neighbours, at the upper end of what these residuals allow.

    Taking a trend off hides correlation: the estimate is low by (2 + 4 r) / n (Shaman and Stine 1988). A
    standard error is added (Bartlett 1946), since too little correlation is the worse mistake.
    """
    count = len(residuals)
    if count <= 4:
        return _MOST_CORRELATED
    found = float(residuals[:-1] @ residuals[1:]) / float(residuals @ residuals)
    found = (found + 2 / count) / (1 - 4 / count)
    found += math.sqrt(max(0.0, 1 - found * found) / count)
    return min(max(found, 0.0), _MOST_CORRELATED)


@functools.lru_cache(maxsize=256)
def _small_sample(freedom: int) -> float:
    """Student's t beside the normal distribution, at the interval's ends."""
    from scipy.special import ndtri, stdtrit  # slow to import

    tail = (1 + CONFIDENCE) / 2
    return float(stdtrit(freedom, tail) / ndtri(tail))
