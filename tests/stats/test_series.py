from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrswitch.stats.drift import Pace, judge_pace
from asrswitch.stats.series import MINIMUM_ITERATIONS, Word, judge_series
from asrswitch.stats.verdict import COUNT, HELD, RESIDENT, TOLERANCES

MIB = 1 << 20


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**62), max_size=60), st.sampled_from(sorted(TOLERANCES)))
def test_every_series_has_a_verdict(values: list[int], name: str) -> None:
    verdict = judge_series(np.asarray(values, float), TOLERANCES[name])
    assert (verdict.word is Word.INCONCLUSIVE) == (verdict.iterations_to_decide is not None)
    assert (verdict.detectable is None) == (len(values) < MINIMUM_ITERATIONS)
    if verdict.word is Word.LEAK:
        assert verdict.slope is not None and verdict.slope.low > TOLERANCES[name].slope(len(values))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(10, 100), st.integers(-(2**30), 2**30))
def test_the_level_does_not_matter(seed: int, count: int, level: int) -> None:
    series = 2.0**32 + np.round(np.random.default_rng(seed).normal(0, 1, count).cumsum() * 2**16)
    assert judge_series(series + level, RESIDENT) == judge_series(series, RESIDENT)


@given(st.integers(10, 300), st.sampled_from([COUNT, HELD, RESIDENT]))
def test_what_never_changes_is_flat(count: int, tolerance: object) -> None:
    verdict = judge_series(np.full(count, 1e9), tolerance)  # type: ignore[arg-type]
    assert (verdict.word, verdict.warmup_iterations, verdict.warmup_growth) == (Word.FLAT, 0, 0)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(20, 120))
def test_growth_that_dies_out_is_no_leak(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    rise = 10 ** random.uniform(5, 9) * (1 - np.exp(-np.arange(count) * random.uniform(6, 20) / count))
    assert judge_series(rise, RESIDENT).word is not Word.LEAK


@pytest.mark.parametrize("begins", [0.0, 0.1, 0.3, 0.5])
def test_a_leak_that_begins_late_is_found_and_its_beginning_too(begins: float) -> None:
    start = int(100 * begins)
    verdict = judge_series(1e8 + 50_000 * np.maximum(np.arange(100) - start, 0), RESIDENT)
    assert verdict.word is Word.LEAK
    assert abs(verdict.warmup_iterations - start) <= 1
    assert verdict.slope is not None and verdict.slope.slope == pytest.approx(50_000)
    assert abs(verdict.warmup_growth) <= 50_000


@given(st.integers(20, 100), st.floats(0.55, 0.99))
def test_a_leak_that_begins_later_still_is_not_called_flat(count: int, begins: float) -> None:
    rise = 3.0 * MIB * np.maximum(np.arange(count) - min(int(begins * count), count - 2), 0)
    assert judge_series(1e8 + rise, RESIDENT).word in (Word.LEAK, Word.INCONCLUSIVE)


def test_a_longer_run_sees_less() -> None:
    noise = np.random.default_rng(1).normal(0, 100_000, 400)
    seen = [judge_series(noise[:count], RESIDENT).detectable or 0 for count in (25, 50, 100, 200, 400)]
    assert seen == sorted(seen, reverse=True)
    assert seen[0] > 10 * seen[-1]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_speed_that_changes_by_a_fifth_drifts(sign: int) -> None:
    noise = np.random.default_rng(1).normal(0, 2, 60)
    drift = judge_pace(list(100 + noise + sign * np.linspace(0, 20, 60)))
    assert drift is not None and drift.pace is Pace.DRIFTS
    assert drift.change.slope == pytest.approx(sign * 0.2, abs=0.06)
    assert drift.per_iteration * (60 - 1) == pytest.approx(drift.change.slope, abs=0.05)


def test_a_speed_that_only_strays_is_steady_or_unknown() -> None:
    for sigma, pace in ((0.5, Pace.STEADY), (30.0, Pace.INCONCLUSIVE)):
        drift = judge_pace(list(100 + np.random.default_rng(1).normal(0, sigma, 60)))
        assert drift is not None and drift.pace is pace


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 1e9), max_size=40), st.sampled_from([0.5, 2.0, 1024.0]))
def test_the_unit_of_a_speed_does_not_matter(values: list[float], unit: float) -> None:
    one, other = judge_pace(values), judge_pace([value * unit for value in values])
    assert (one is None) == (other is None)
    if one and other:
        assert one.pace is other.pace


def test_too_few_speeds_or_none_are_not_judged() -> None:
    assert judge_pace([]) is judge_pace([1.0] * (MINIMUM_ITERATIONS - 1)) is judge_pace([0.0] * 50) is None


def test_a_late_rise_says_nothing_of_processes_that_come_after_each_other() -> None:
    late = np.array([100.0] * 23 + [101.0])
    assert judge_series(late, COUNT).word is Word.INCONCLUSIVE
    assert judge_series(late, COUNT, one_process=False).word is Word.FLAT
