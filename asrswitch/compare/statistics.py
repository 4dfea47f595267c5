"""Differences of two samples of few units, and whether they are more than chance and more than too little.

A unit is what can be taken as independent of the next: a run, a stretch of a run, or a pair of stretches that
followed one another. Cycles are not, for they share what the machine did meanwhile (Kalibera and Jones 2013:
repeat at the level at which figures vary). Within a unit the median is taken, which leaves little of the skew
and the outliers of single cycles, so that Student's t serves for the few units that there are. A rank test
does not: five units a side have no p below 0.008, and a dozen figures ask for less. For pairs whose two
differ by nothing, either order is as likely, so that their differences are symmetric, and t is then wrong
less often than it says (Efron 1969).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
# The chance of calling any figure of a comparison different where none is.
FAMILY = 0.05
# The chance of seeing the smallest difference that a comparison is said to see.
POWER = 0.8
# That a single run is divided into. The fewer, the longer, and the less does one tell of the next; the more,
# the more they tell.
STRETCHES = 6
# Of pairs in order of their difference: one in so many is left out at each end, if so many are then left.
_CUT, _FEWEST_KEPT = 5, 6
_MOST_CARRIED = 0.99  # a bound, so that intervals stay finite
_REPLICATES = 2_000  # even
_NORMAL = 1.959964  # quantile of the normal distribution at the ends of an interval
_MANY = 1e6  # degrees of freedom of what is taken as known

Floats = npt.NDArray[np.float64]


class Difference(msgspec.Struct, frozen=True):
    """The difference of two means, with its interval of ``CONFIDENCE``."""

    estimate: float
    low: float
    high: float
    error: float  # standard error; 0 where nothing varies
    freedom: float  # degrees of it

    @property
    def certain(self) -> bool:
        """Whether nothing varied."""
        return self.error == 0


def stretches(values: Sequence[float]) -> list[list[float]]:
    """A run's values in order, divided into ``STRETCHES`` of lengths as even as they go.

    As in the method of batch means (Schmeiser 1982): what carries over from cycle to cycle carries over less
    from one stretch to the next.
    """
    return [part.tolist() for part in np.array_split(np.asarray(values, np.float64), STRETCHES)]


def carried_over(values: Sequence[float]) -> float:
    """How much larger the variance of a run's mean is than its ``stretches`` show by themselves; 1 or more.

    Neighbouring stretches are alike where more than a stretch's length carries over. Of a first-order process
    it is known by how much; its correlation is found from the ranks of the values, which spikes do not move.
    It is taken at the upper end of what the values allow: less its bias (Marriott and Pope 1954) and with a
    standard error (Bartlett 1946), since too little of it is the worse mistake.
    """
    if np.ptp(values) == 0:
        return 1.0
    _, places, repeats = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(repeats) - (repeats - 1) / 2)[places]
    ranks -= ranks.mean()
    count = len(ranks)
    found = float(ranks[:-1] @ ranks[1:]) / float(ranks @ ranks)
    found = (found + 1 / count) / (1 - 4 / count)
    found += math.sqrt(max(0.0, 1 - found * found) / count)
    found = min(max(found, 0.0), _MOST_CARRIED)
    whole = _variance_of_mean(found, count)
    part = _variance_of_mean(found, count / STRETCHES)
    return float((STRETCHES - 1) * whole / (part - whole))


def _variance_of_mean(carried: float, count: float) -> float:
    """Of so many values of a first-order process, as a part of the variance of one."""
    left = 1 - carried
    return (1 + carried) / left / count - 2 * carried * (1 - math.pow(carried, count)) / (count * left) ** 2


def between(
    first: Sequence[float], second: Sequence[float], inflate: tuple[float, float] = (1.0, 1.0)
) -> Difference:
    """The mean of the second sample less that of the first, of two units or more each.

    Error and degrees of freedom are Welch's (1947): the samples may vary unlike. The interval is of a
    bootstrap of the units. ``inflate`` is by how much the variances of the means exceed those of independent
    units.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    parts = [_variance(sample) / len(sample) * factor for sample, factor in zip((a, b), inflate, strict=True)]
    error = math.sqrt(sum(parts))
    if error == 0:
        return _certain(float(b.mean() - a.mean()), len(a) + len(b) - 2)
    shares = [part / sum(parts) for part in parts]
    freedom = 1 / sum(share**2 / (len(sample) - 1) for share, sample in zip(shares, (a, b), strict=True))
    wide = [math.sqrt(factor) for factor in inflate]
    strays = [wide[1] * _strays(b, order) - wide[0] * _strays(a, 1 - order) for order in (0, 1)]
    return _interval(float(b.mean() - a.mean()), np.concatenate(strays), error, freedom)


def with_unseen(difference: Difference, spread: float) -> Difference:
    """The difference of two samples where each also strays as a whole, by this standard deviation.

    The samples do not show that part; it is taken as known, so that the degrees of freedom grow.
    """
    unseen = math.sqrt(2) * spread
    error = math.hypot(difference.error, unseen)
    freedom = _MANY
    if not difference.certain:
        freedom = min(_MANY, difference.freedom * (error / difference.error) ** 4)
    wider = _NORMAL * unseen
    return Difference(
        estimate=difference.estimate,
        low=difference.estimate - math.hypot(difference.estimate - difference.low, wider),
        high=difference.estimate + math.hypot(difference.high - difference.estimate, wider),
        error=error,
        freedom=freedom,
    )


def from_intervals(first: tuple[float, float, float], second: tuple[float, float, float]) -> Difference:
    """The difference of two figures that have intervals of their own: (figure, low, high) each.

    As Zou and Donner (2008) put intervals together; the error is that of the side towards no difference.
    """
    estimate = second[0] - first[0]
    down = math.hypot(second[0] - second[1], first[2] - first[0])
    up = math.hypot(second[2] - second[0], first[0] - first[1])
    error = max(down if estimate > 0 else up, 0.0) / _NORMAL
    return Difference(estimate, estimate - down, estimate + up, error, _MANY)


def within_pairs(differences: Sequence[float]) -> Difference:
    """The mean of the differences of pairs, of two pairs or more; of many pairs, of those in the middle.

    One stretch that somebody else's work slowed is enough to hide a difference of all the others. Where it
    leaves ``_FEWEST_KEPT`` pairs, a fifth is cut off at each end; the error is then that of Tukey and
    McLaughlin (1963), from the values drawn in to the last that is kept.
    """
    sample = np.sort(np.asarray(differences, np.float64))
    count = len(sample)
    cut = count // _CUT
    if count - 2 * cut < _FEWEST_KEPT:
        cut = 0
    kept = count - 2 * cut
    estimate = float(sample[cut : count - cut].mean())
    drawn_in = np.clip(sample, sample[cut], sample[count - 1 - cut])
    error = math.sqrt(_variance(drawn_in) * (count - 1) / (kept * (kept - 1)))
    if error == 0:
        return _certain(estimate, kept - 1)
    strays = np.concatenate([_strays(sample, order, cut) for order in (0, 1)])
    interval = _interval(estimate, strays, error, count - 1)  # all are resampled
    return msgspec.structs.replace(interval, freedom=kept - 1)


def p_value(difference: Difference, least: float) -> float:
    """The chance of a difference as large as this, up or down, if the true one were ``least`` at most.

    A test of a minimum effect (Murphy and Myors 1999): with ``least`` 0 it is the usual one.
    """
    from scipy.special import stdtr  # slow to import

    size = abs(difference.estimate)
    if difference.certain:
        return 0.0 if size > least else 1.0
    beyond, back = ((size - side) / difference.error for side in (least, -least))
    return float(min(1.0, stdtr(difference.freedom, -beyond) + stdtr(difference.freedom, -back)))


def smallest_seen(difference: Difference, least: float, level: float) -> float:
    """The true difference that has a chance of ``POWER`` to be found at this level (Bloom 1995)."""
    from scipy.special import stdtrit

    quantiles = stdtrit(difference.freedom, 1 - level / 2) + stdtrit(difference.freedom, POWER)
    return least + float(quantiles) * difference.error


def holm(chances: Sequence[float]) -> list[float]:
    """The chances adjusted for their number, in the same order (Holm 1979)."""
    order = sorted(range(len(chances)), key=chances.__getitem__)
    adjusted = [0.0] * len(chances)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[index]))
        adjusted[index] = highest
    return adjusted


def _variance(sample: Floats) -> float:
    """Unbiased; 0 where the values are one and the same."""
    return 0.0 if np.ptp(sample) == 0 else float(sample.var(ddof=1))


def _certain(estimate: float, freedom: float) -> Difference:
    return Difference(estimate, estimate, estimate, 0.0, freedom)


def _interval(estimate: float, strays: Floats, error: float, freedom: float) -> Difference:
    """The percentile interval (Efron 1979), widened for few units as Student's t is beside the normal.

    Resampling also has less spread than the sample it is of; ``_strays`` makes up for that. Both after
    Hesterberg (2015), there in the form of other percentiles.
    """
    from scipy.special import ndtri, stdtrit

    tail = (1 + CONFIDENCE) / 2
    widen = float(stdtrit(freedom, tail) / ndtri(tail))
    low, high = np.quantile(strays, [1 - tail, tail]) * widen
    return Difference(
        estimate, estimate + min(float(low), 0.0), estimate + max(float(high), 0.0), error, freedom
    )


def _strays(sample: Floats, order: int, cut: int = 0) -> Floats:
    """How far means of resampled units lie from the sample's, ``cut`` of them left out at each end.

    [replicates / 2]
    """
    count = len(sample)
    drawn = np.sort(sample[_draws(count, order)], axis=1)[:, cut : count - cut]
    mean = np.sort(sample)[cut : count - cut].mean()
    strays: Floats = (drawn.mean(axis=1) - mean) * math.sqrt(count / (count - 1))
    return strays


@functools.lru_cache(maxsize=64)
def _draws(count: int, order: int) -> npt.NDArray[np.intp]:
    """Seeded by what is drawn from, so that two sides may be swapped and give the same interval.

    Two samples are drawn from in different ``order``, and then the other way round. [replicates / 2, count]
    """
    return np.random.default_rng((count, order)).integers(count, size=(_REPLICATES // 2, count))
