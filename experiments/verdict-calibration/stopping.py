"""How often does `--iters auto` stop at a wrong word, and after how long?

`python stopping.py [SERIES [CONFIRM [AGREE]]]`. Each series is as long as the budget, and is shown to the
rule as far as the rule asks. ``CONFIRM`` and ``AGREE`` are tried in place of the rule's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

import msgspec
import numpy as np
import numpy.typing as npt
from synthetic import KINDS as SYNTHETIC

from asrswitch.stats import sequential
from asrswitch.stats.sequential import CONFIRM, FIRST_LOOK, further_iterations
from asrswitch.stats.verdict import RESIDENT, Sample, Verdict, Word, judge

Floats = npt.NDArray[np.float64]
MOST = 800
SEEDS = 1_000_000  # the first; seeds from 0 are what verdicts were tuned on
LIMIT = 1 << 40  # bytes; forecasts are not looked at


class Kind(msgspec.Struct, frozen=True):
    """Series without a leak, what is promised of them, and when a leak that is put in begins."""

    make: Callable[[np.random.Generator, float], Floats]
    promised: bool = True
    onset: tuple[int, int] = (0, 1)


class Run(msgspec.Struct, frozen=True):
    """What the rule came to on one series."""

    words: list[Word]  # at each look
    iterations: int
    detectable: float  # the smallest growth an iteration that the last look could have called a leak


class Outcome(msgspec.Struct, frozen=True):
    """A series without a leak, and with one of twice the smallest growth that its run states."""

    without: Run
    leaking: Run


def outcome(name: str, seed: int) -> Outcome:
    """Run the rule on one series of a kind, without a leak and with one."""
    kind = KINDS[name]
    random = np.random.default_rng([*name.encode(), SEEDS + seed])
    sigma = RESIDENT.slope(FIRST_LOOK) * FIRST_LOOK * 10 ** random.uniform(-1.5, 1.5)
    series = 2.0**30 + kind.make(random, sigma)
    age = np.maximum(np.arange(MOST) - random.integers(*kind.onset), 0)
    without = run = until_decided(series)
    leak = 0.0
    while leak < 2 * run.detectable * (1 - 1e-6):
        leak = 2 * run.detectable
        run = until_decided(series + leak * age)
    return Outcome(without, run)


def until_decided(series: Floats) -> Run:
    """Show a series to the rule as far as the rule asks."""
    samples = [Sample(int(value), 0, 0, None, None, {}) for value in series]
    looks: list[Verdict] = []
    done = 0
    while more := further_iterations(looks, len(series), done):
        done += more
        looks.append(judge(samples[:done], LIMIT))
    detectable = looks[-1].series["resident memory"].verdict.detectable
    assert detectable is not None
    return Run([look.word for look in looks], done, detectable)


def _noise(name: str) -> Callable[[np.random.Generator, float], Floats]:
    return lambda random, sigma: SYNTHETIC[name](random, MOST, sigma)


def _shape(
    make: Callable[[np.random.Generator, float, Floats], Floats], low: float, high: float
) -> Callable[[np.random.Generator, float], Floats]:
    """A shape that takes from ``low`` to ``high`` iterations, in noise that may be far smaller than it."""

    def made(random: np.random.Generator, sigma: float) -> Floats:
        scale = low * (high / low) ** random.random()
        quiet = 0.0 if random.random() < 0.25 else 10 ** random.uniform(-2, 0)
        return random.normal(0, sigma * quiet, MOST) + sigma * make(
            random, scale, np.arange(MOST, dtype=float)
        )

    return made


def _sawtooth(random: np.random.Generator, period: float, index: Floats) -> Floats:
    return (index / period + random.random()) % 1 * 10 ** random.uniform(0, 1.5)


def _knee(random: np.random.Generator, length: float, index: Floats) -> Floats:
    return np.minimum(index / length, 1) * 10 ** random.uniform(0.5, 2.5)


def _dying_out(random: np.random.Generator, length: float, index: Floats) -> Floats:
    """Within 5 % of its end after so many iterations."""
    return (1 - np.exp(-3 * index / length)) * 10 ** random.uniform(0.5, 2.5)


def _steps(random: np.random.Generator, length: float, index: Floats) -> Floats:
    sizes = random.normal(0, 3, random.integers(1, 7))
    return np.sum([size * (index >= random.uniform(1, length)) for size in sizes], axis=0)


def _steps_up(random: np.random.Generator, length: float, index: Floats) -> Floats:
    sizes = random.exponential(6, random.integers(1, 4))
    return np.sum([size * (index >= random.uniform(1, length)) for size in sizes], axis=0)


SHAPES = {
    "sawtooth": _sawtooth,
    "warm-up to a knee": _knee,
    "warm-up that dies out": _dying_out,
    "steps up and down": _steps,
    "steps up": _steps_up,
}
BANDS = ((5, 50), (50, 100), (100, 200), (200, MOST))
# In half of the shortest run that confirms a leak, growth that ends by then is seen to have ended.
PROMISED = FIRST_LOOK * CONFIRM // 2
NOISES = (
    "white noise",
    "white noise with spikes",
    "autocorrelated 0.3",
    "autocorrelated 0.6",
    "autocorrelated 0.9",
)
KINDS = {
    **{name: Kind(_noise(name)) for name in NOISES},
    **{
        f"{shape}, {low} to {high}": Kind(_shape(make, low, high), high <= PROMISED)
        for shape, make in SHAPES.items()
        for low, high in BANDS
    },
    "late onset, 2 to 20": Kind(_noise("white noise"), onset=(2, 21)),
    "late onset, 50 to 200": Kind(_noise("white noise"), promised=False, onset=(50, 201)),
    "random walk": Kind(_noise("random walk"), promised=False),
}


class Rates(msgspec.Struct):
    """Of the series of a kind."""

    series: int
    leak_at_once: float  # said at the first look, of series without a leak
    leak: float  # said at the end, of series without a leak
    undecided: float  # of series without a leak
    found: float  # of those with one
    iterations: list[int]  # of series without a leak
    leaking_iterations: list[int]
    most_looks: int


def rates(name: str, count: int) -> Rates:
    """Run the rule on ``count`` series of a kind."""
    outcomes = [outcome(name, seed) for seed in range(count)]
    without = [each.without for each in outcomes]
    leaking = [each.leaking for each in outcomes]
    return Rates(
        series=count,
        leak_at_once=sum(run.words[0] is Word.LEAK for run in without) / count,
        leak=sum(run.words[-1] is Word.LEAK for run in without) / count,
        undecided=sum(run.words[-1] is Word.INCONCLUSIVE for run in without) / count,
        found=sum(run.words[-1] is Word.LEAK for run in leaking) / count,
        iterations=[run.iterations for run in without],
        leaking_iterations=[run.iterations for run in leaking],
        most_looks=max(len(run.words) for run in without + leaking),
    )


def main() -> None:
    """Print the table."""
    count = -(-int(sys.argv[1]) // len(KINDS)) if len(sys.argv) > 1 else 200
    if len(sys.argv) > 2:
        sequential.CONFIRM = int(sys.argv[2])
    if len(sys.argv) > 3:
        sequential.AGREE = float(sys.argv[3])
    print("| kind | series | `leak` at first look | `leak` | undecided | iterations, median, 90 % |", end="")
    print(" leak found | iterations, median, 90 % |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    table = {}
    for name, kind in KINDS.items():
        table[name] = rates(name, count)
        _print(name if kind.promised else f"{name} (not promised)", [table[name]])
    _print("all that are promised", [table[name] for name, kind in KINDS.items() if kind.promised])
    _print("all", list(table.values()))
    print(f"\nAt most {max(part.most_looks for part in table.values())} looks.")


def _print(name: str, parts: list[Rates]) -> None:
    def mean(values: Iterable[float]) -> str:
        return f"{np.mean(list(values)):.1%}"

    def spread(values: Iterable[list[int]]) -> str:
        middle, high = np.percentile(np.concatenate(list(values)), (50, 90), method="higher")
        return f"{middle:.0f}, {high:.0f}"

    cells = (
        f"{sum(part.series for part in parts):,}",
        mean(part.leak_at_once for part in parts),
        mean(part.leak for part in parts),
        mean(part.undecided for part in parts),
        spread(part.iterations for part in parts),
        mean(part.found for part in parts),
        spread(part.leaking_iterations for part in parts),
    )
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
