"""How often is a series without a leak called one, and a leak found? `python calibrate.py [SERIES]`"""

from __future__ import annotations

import sys

import msgspec
import numpy as np
import numpy.typing as npt
from synthetic import HARDER, KINDS, make, onset, steady_speed, wandering

from asrswitch.stats.drift import Pace, judge_pace
from asrswitch.stats.series import SeriesVerdict, Word, judge_series
from asrswitch.stats.trend import theil_sen
from asrswitch.stats.verdict import RESIDENT


class Rates(msgspec.Struct):
    """Parts of the series of a kind."""

    series: int
    words: dict[Word, float]
    found: float  # of leaks of twice the smallest growth that the run with the leak states


def rates(kind: str, count: int) -> Rates:
    """Judge ``count`` series of a kind, each without a leak and with one."""
    words = dict.fromkeys(Word, 0)
    found = 0
    for seed in range(count):
        series = make(kind, seed)
        verdict = judge_series(series, RESIDENT)
        words[verdict.word] += 1
        found += _leaking(series, onset(kind, seed, len(series)), verdict).word is Word.LEAK
    return Rates(count, {word: number / count for word, number in words.items()}, found / count)


def _leaking(series: npt.NDArray[np.float64], begins: int, verdict: SeriesVerdict) -> SeriesVerdict:
    """Judge the series with a leak of twice the smallest growth that the run with this leak states."""
    age = np.maximum(np.arange(len(series)) - begins, 0)
    leak = 0.0
    while verdict.detectable is not None and leak < 2 * verdict.detectable * (1 - 1e-6):
        leak = 2 * verdict.detectable
        verdict = judge_series(series + leak * age, RESIDENT)
    return verdict


class DriftRates(msgspec.Struct):
    """Parts of the speeds of a kind."""

    false: float  # that were said to drift and did not
    found: float  # of drifts of twice the smallest change that the same run states


def drift_rates(carried: float, count: int) -> DriftRates:
    """Judge ``count`` steady speeds, so much of each value carried to the next, and each with a drift."""
    false = found = 0
    for seed in range(count):
        speed = steady_speed(carried, seed)
        steady = judge_pace(speed)
        assert steady is not None
        false += steady.pace is Pace.DRIFTS
        change = 2 * steady.detectable * np.median(speed) * np.linspace(-0.5, 0.5, len(speed))
        drifting = judge_pace(speed + change)
        assert drifting is not None
        found += drifting.pace is Pace.DRIFTS
    return DriftRates(false / count, found / count)


def coverage(carried: float, length: int, count: int) -> float:
    """The part of ``count`` series without growth whose slope's interval holds 0."""
    slopes = (theil_sen(wandering(carried, length, seed)) for seed in range(count))
    return sum(slope.low <= 0 <= slope.high for slope in slopes) / count


def main() -> None:
    """Print the tables."""
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    kinds = [kind for kind in KINDS if kind not in HARDER]
    print("| kind | series | leak | inconclusive | plateau | flat | leak of twice the smallest, found |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    table = {kind: rates(kind, -(-total // len(kinds))) for kind in KINDS}
    for kind in KINDS:
        _print(kind if kind in kinds else f"{kind} (not promised)", [table[kind]])
    _print("all that are promised", [table[kind] for kind in kinds])
    print("\n| speeds, noise | series | said to drift | drift of twice the smallest, found |")
    print("| --- | ---: | ---: | ---: |")
    for carried in (0.0, 0.3, 0.6, 0.9):
        rate = drift_rates(carried, total // 10)
        print(f"| autocorrelated {carried} | {total // 10:,} | {rate.false:.1%} | {rate.found:.1%} |")
    lengths = (10, 20, 50, 100, 200)
    print(f"\n| interval of 95 %, noise | {' | '.join(f'{length} readings' for length in lengths)} |")
    print(f"| --- |{' ---: |' * len(lengths)}")
    for carried in (0.0, 0.3, 0.6, 0.9):
        held = " | ".join(f"{coverage(carried, length, total // 10):.1%}" for length in lengths)
        print(f"| autocorrelated {carried} | {held} |")


def _print(name: str, parts: list[Rates]) -> None:
    order = (Word.LEAK, Word.INCONCLUSIVE, Word.PLATEAU, Word.FLAT)
    words = (f"{sum(part.words[word] for part in parts) / len(parts):.1%}" for word in order)
    found = sum(part.found for part in parts) / len(parts)
    print(f"| {name} | {sum(part.series for part in parts):,} | {' | '.join(words)} | {found:.1%} |")


if __name__ == "__main__":
    main()
