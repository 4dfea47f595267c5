"""Series whose truth is known: readings of a worker's memory, one an iteration, that do not grow for ever."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from asrswitch.stats.verdict import RESIDENT

Floats = npt.NDArray[np.float64]
LENGTHS = (20, 50, 100, 200)


def make(kind: str, seed: int) -> Floats:
    """A series of the kind, without a leak; the same for the same seed."""
    random = np.random.default_rng([*kind.encode(), seed])
    count = int(random.choice(LENGTHS))
    # From a thirtieth of what the tolerance lets pass in the run to thirty times that.
    sigma = RESIDENT.slope(count) * count * 10 ** random.uniform(-1.5, 1.5)
    return 2.0**28 + KINDS[kind](random, count, sigma)


def onset(kind: str, seed: int, count: int) -> int:
    """The iteration at which a leak begins: at once, or late in the kind of that name."""
    return int(np.random.default_rng([1, seed]).uniform(0.05, 0.4) * count) if kind == "late onset" else 0


def wandering(carried: float, length: int, seed: int) -> Floats:
    """Noise alone, so much of each reading carried to the next."""
    return _correlated(carried)(np.random.default_rng([3, int(10 * carried), seed]), length, 1.0)


def steady_speed(carried: float, seed: int) -> Floats:
    """A time in ms, one an iteration, with noise of 0.5 to 10 % that carries over."""
    random = np.random.default_rng([2, int(10 * carried), seed])
    count = int(random.choice(LENGTHS))
    return 500 * (1 + _correlated(carried)(random, count, 10 ** random.uniform(-2.3, -1)))


def _white(random: np.random.Generator, count: int, sigma: float) -> Floats:
    return random.normal(0, sigma, count)


def _heavy(random: np.random.Generator, count: int, sigma: float) -> Floats:
    """One reading in twelve is a spike."""
    return _white(random, count, sigma) + (random.random(count) < 1 / 12) * random.exponential(30 * sigma)


def _correlated(carried: float) -> Callable[[np.random.Generator, int, float], Floats]:
    """A first-order process in its steady state."""

    def make(random: np.random.Generator, count: int, sigma: float) -> Floats:
        series = random.normal(0, sigma, count)
        series[1:] *= np.sqrt(1 - carried * carried)
        for index in range(1, count):
            series[index] += carried * series[index - 1]
        return series

    return make


def _steps(random: np.random.Generator, count: int, sigma: float) -> Floats:
    """One to six changes of level, up or down, in a noise that may be far smaller."""
    series = _quiet(random, count, sigma)
    for _ in range(random.integers(1, 7)):
        series += random.normal(0, 3 * sigma) * (np.arange(count) >= random.integers(1, count))
    return series


def _steps_up(most: int) -> Callable[[np.random.Generator, int, float], Floats]:
    """So many steps, none of them down: retention that comes at its own time."""

    def make(random: np.random.Generator, count: int, sigma: float) -> Floats:
        series = _quiet(random, count, sigma)
        for _ in range(most):
            series += random.exponential(6 * sigma) * (np.arange(count) >= random.integers(1, count))
        return series

    return make


def _sawtooth(random: np.random.Generator, count: int, sigma: float) -> Floats:
    period = random.uniform(2, count / 4)
    phase = (np.arange(count) / period + random.random()) % 1
    return _quiet(random, count, sigma) + phase * sigma * random.uniform(1, 20)


def _warmup(random: np.random.Generator, count: int, sigma: float) -> Floats:
    """Growth that dies out: by the same part in each iteration, or at a knee."""
    index = np.arange(count)
    if random.random() < 0.5:
        rise = 1 - np.exp(-index / random.uniform(0.5, count / 10))
    else:
        rise = np.minimum(index / random.uniform(1, count / 3), 1)
    return _quiet(random, count, sigma) + rise * sigma * 10 ** random.uniform(0.5, 2.5)


def _quiet(random: np.random.Generator, count: int, sigma: float) -> Floats:
    """Noise of up to ``sigma``, or none in one series of four."""
    quiet = 0.0 if random.random() < 0.25 else 10 ** random.uniform(-2, 0)
    return random.normal(0, sigma * quiet, count)


KINDS: dict[str, Callable[[np.random.Generator, int, float], Floats]] = {
    "white noise": _white,
    "white noise with spikes": _heavy,
    "autocorrelated 0.3": _correlated(0.3),
    "autocorrelated 0.6": _correlated(0.6),
    "autocorrelated 0.9": _correlated(0.9),
    "steps up and down": _steps,
    "one step up": _steps_up(1),
    "two steps up": _steps_up(2),
    "three steps up": _steps_up(3),
    "sawtooth": _sawtooth,
    "warm-up": _warmup,
    "late onset": _white,
}
# Not promised: what wanders for ever, and may go up in every part of a run, has no level to return to.
HARDER: dict[str, Callable[[np.random.Generator, int, float], Floats]] = {
    "random walk": lambda random, count, sigma: np.cumsum(random.normal(0, sigma, count)),
}
KINDS |= HARDER
