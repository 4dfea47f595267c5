"""How often is a difference seen where none is, and one of 10 % found? `python calibrate.py [COMPARISONS]`

Each comparison has ``synthetic.FIGURES`` times of each side, each read at the median and at the best tenth.
In the slowed build two are a tenth longer: decode, as tokens/s and chars/s show it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
from synthetic import FIGURES, KINDS, Floats, Noise, machine, stretch

from asrswitch.compare.comparison import RUN_TO_RUN
from asrswitch.compare.statistics import (
    FAMILY,
    Difference,
    between,
    carried_over,
    holm,
    p_value,
    smallest_seen,
    stretches,
    with_unseen,
    within_pairs,
)

SLOWER = 0.1
_SLOWED = 2  # figures
_LEAST = 0.01
_PLACES = (0.5, 0.1)  # at which times are read: the median, and the best tenth
_COUNT = 100

Differences = list[Difference]
Make = Callable[[Noise, np.random.Generator, Floats], Differences]


class Rates(msgspec.Struct):
    """Parts of the comparisons of a kind of noise."""

    false: float  # with any figure called different where none is
    found: float  # of the slowed figures that were called slower, at one place or both
    smallest: float  # of one figure, at the place that sees more: median over the comparisons, as a part
    smallest_found: float  # of differences as large as the same comparison says that it would have seen
    covered: float  # of intervals that hold the truth


def single(cycles: int) -> Make:
    """Two runs, one after the other."""

    def make(noise: Noise, random: np.random.Generator, slowed: Floats) -> Differences:
        around = machine(noise, random, 2 * cycles)
        a = stretch(noise, random, around[:cycles])
        b = stretch(noise, random, around[cycles:]) + slowed
        parts = [np.array(part, int) for part in stretches(range(cycles))]
        sides = _read(np.stack([a, b], axis=1), parts)
        inflate = [(carried_over(a[:, f].tolist()), carried_over(b[:, f].tolist())) for f in range(FIGURES)]
        return [
            with_unseen(between(one.tolist(), other.tolist(), inflate[index // len(_PLACES)]), RUN_TO_RUN)
            for index, (one, other) in enumerate(sides)
        ]

    return make


def groups(runs: int, cycles: int) -> Make:
    """Runs of both builds in turns, each as a whole."""

    def make(noise: Noise, random: np.random.Generator, slowed: Floats) -> Differences:
        sides = _read(*_in_turns(noise, random, slowed, runs, cycles))
        return [between(a.tolist(), b.tolist()) for a, b in sides]

    return make


def interleaved(rounds: int, cycles: int) -> Make:
    """Two runs that take turns, in so many rounds of so many cycles each."""

    def make(noise: Noise, random: np.random.Generator, slowed: Floats) -> Differences:
        sides = _read(*_in_turns(noise, random, slowed, rounds, cycles))
        return [within_pairs((b - a).tolist()) for a, b in sides]

    return make


DESIGNS = {
    "single runs of 20": single(20),
    "single runs of 50": single(50),
    "single runs of 200": single(200),
    "3 runs of 20 a side": groups(3, 20),
    "6 runs of 20 a side": groups(6, 20),
    "interleaved, 5 rounds of 12": interleaved(5, 12),
    "interleaved, 10 rounds of 12": interleaved(10, 12),
}


def rates(design: str, kind: str, count: int) -> Rates:
    """Compare runs of one build ``count`` times, and as often with a slowed build."""
    make, least = DESIGNS[design], math.log1p(_LEAST)
    level = FAMILY / (FIGURES * len(_PLACES))
    false = found = covered = seen = 0
    smallest = []
    for seed in range(count):
        seeds = [*design.encode(), *kind.encode(), seed]
        slowed = np.zeros(FIGURES)
        same = make(KINDS[kind], np.random.default_rng(seeds), slowed)
        false += min(_adjusted(same, least)) <= FAMILY
        covered += sum(item.low <= 0 <= item.high for item in same)
        best = min(range(len(_PLACES)), key=lambda place: smallest_seen(same[place], least, level))
        smallest.append(smallest_seen(same[best], least, level))
        moved = msgspec.structs.replace(same[best], estimate=same[best].estimate + smallest[-1])
        seen += _adjusted([moved, *same[len(_PLACES) :]], least)[0] <= FAMILY
        slowed[:_SLOWED] = math.log1p(SLOWER)
        slower = make(KINDS[kind], np.random.default_rng([*seeds, 1]), slowed)
        chances = _adjusted(slower, least)
        found += sum(
            min(chances[figure * len(_PLACES) :][: len(_PLACES)]) <= FAMILY for figure in range(_SLOWED)
        )
    return Rates(
        false=false / count,
        found=found / count / _SLOWED,
        smallest=math.expm1(float(np.median(smallest))),
        smallest_found=seen / count,
        covered=covered / count / FIGURES / len(_PLACES),
    )


def _in_turns(
    noise: Noise, random: np.random.Generator, slowed: Floats, rounds: int, cycles: int
) -> tuple[Floats, list[npt.NDArray[np.intp]]]:
    """The cycles of both builds, and which are of each round; another build begins in each."""
    around = machine(noise, random, 2 * rounds * cycles).reshape(rounds, 2, cycles)
    pairs = np.empty((rounds, cycles, 2, FIGURES))
    for number in range(rounds):
        for turn in range(2):
            build = (number + turn) % 2
            pairs[number, :, build] = stretch(noise, random, around[number, turn]) + build * slowed
    return pairs.reshape(-1, 2, FIGURES), np.split(np.arange(rounds * cycles), rounds)


def _read(sides: Floats, parts: Sequence[npt.NDArray[np.intp]]) -> Floats:
    """The figures of units at each of the places, from those of cycles. [FIGURES * places, 2, units]

    Args:
        sides: [cycles, 2, FIGURES]
        parts: the cycles of each unit.
    """
    read = np.stack(
        [np.quantile(sides[part], _PLACES, axis=0) for part in parts]
    )  # [units, places, 2, FIGURES]
    return read.transpose(3, 1, 2, 0).reshape(-1, 2, len(parts))


def _adjusted(differences: Sequence[Difference], least: float) -> list[float]:
    return holm([p_value(item, least) for item in differences])


COLUMNS: dict[str, Callable[[Rates], str]] = {
    "Different where nothing is": lambda row: f"{row.false:.1%}",
    "Slower by 10 %, found": lambda row: f"{row.found:.1%}",
    "Smallest difference seen, in the median": lambda row: f"{row.smallest:.1%}",
    "Differences of that size, found": lambda row: f"{row.smallest_found:.1%}",
    "Intervals that hold the truth": lambda row: f"{row.covered:.1%}",
}


def main() -> None:
    """Print a table for each rate."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else _COUNT
    found = {(kind, design): rates(design, kind, count) for kind in KINDS for design in DESIGNS}
    for title, said in COLUMNS.items():
        print(f"\n{title}; {count:,} comparisons each:\n")
        print(f"| noise | {' | '.join(DESIGNS)} |")
        print(f"| --- |{' ---: |' * len(DESIGNS)}")
        for kind in KINDS:
            print(f"| {kind} | {' | '.join(said(found[kind, design]) for design in DESIGNS)} |")


if __name__ == "__main__":
    main()
