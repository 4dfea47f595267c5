"""Figures of runs whose truth is known, with noise as logs of real runs have it.

Of 200 iterations of `reload` on a virtual machine that others share, the embedded models had single cycles of
up to 28 times the median and medians of quarters that differ by up to 40 %; models of true size had the
machine half as fast for 50 to 100 cycles on end, and 0.9 of a cycle's deviation carried to the next.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
FIGURES = 14  # times of two models, as many as a comparison has


class Noise(msgspec.Struct, frozen=True):
    """What makes cycles differ; spreads are parts of the figure."""

    spread: float = 0.02  # of cycles
    carried: float = 0.0  # of it, to the next cycle
    spikes: float = 0.0  # part of the cycles that are up to many times as long
    run_to_run: float = 0.002  # spread of whole runs, or of a run's stretches in workers of their own
    slow: float = 0.0  # part of the time in which a neighbour makes the machine half as fast
    dwell: float = 1.0  # cycles for which it does so, in the mean
    drift: float = 0.0  # over 50 cycles, up or down


KINDS = {
    "quiet": Noise(),
    "skewed, with spikes": Noise(spread=0.03, spikes=0.1),
    "carried over, 0.5": Noise(spread=0.05, carried=0.5),
    "carried over, 0.9": Noise(spread=0.05, carried=0.9),
    "runs differ by 1 %": Noise(run_to_run=0.01),
    "runs differ by 2 %": Noise(run_to_run=0.02),
    "drift of 5 %": Noise(drift=0.05),
    "neighbour, 3 cycles": Noise(spread=0.03, slow=0.3, dwell=3),
    "neighbour, 10 cycles": Noise(spread=0.03, slow=0.3, dwell=10),
    "neighbour, 50 cycles": Noise(spread=0.03, slow=0.3, dwell=50),
}


def machine(noise: Noise, random: np.random.Generator, cycles: int) -> Floats:
    """What the machine adds to the logarithm of all figures, cycle by cycle. [cycles]"""
    drift = noise.drift * random.choice([-1, 1]) * np.arange(cycles) / 50
    if noise.slow == 0:
        return drift
    slow = np.empty(cycles, bool)
    state = random.random() < noise.slow
    leave = {True: 1 / noise.dwell, False: noise.slow / (1 - noise.slow) / noise.dwell}
    for cycle in range(cycles):
        slow[cycle] = state
        state ^= random.random() < leave[bool(state)]
    return drift + math.log(2) * slow


def stretch(noise: Noise, random: np.random.Generator, around: Floats) -> Floats:
    """Logarithms of the figures of cycles in one worker. [cycles, FIGURES]"""
    count = len(around)
    own = random.normal(0, noise.spread, (count, FIGURES))
    own[1:] *= math.sqrt(1 - noise.carried**2)
    for cycle in range(1, count):
        own[cycle] += noise.carried * own[cycle - 1]
    spikes = (random.random((count, FIGURES)) < noise.spikes) * random.exponential(1, (count, FIGURES))
    level = random.normal(0, noise.run_to_run, FIGURES)
    return level + around[:, None] + own + spikes
