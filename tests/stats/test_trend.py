from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asrswitch.stats.trend import theil_sen
from asrswitch.stats.warmup import warmup_length

numbers = st.lists(st.integers(-(2**40), 2**40), min_size=3, max_size=60)


@settings(deadline=None)
@given(numbers, st.integers(-(2**20), 2**20))
def test_the_slope_is_equivariant_and_inside_its_interval(values: list[int], added: int) -> None:
    series = np.asarray(values, float)
    slope = theil_sen(series)
    assert slope.low <= slope.slope <= slope.high
    steeper = theil_sen(series + added * np.arange(len(series)))
    assert steeper.slope == pytest.approx(slope.slope + added, rel=1e-6, abs=1.0)


@settings(deadline=None)
@given(numbers, st.integers(-(2**40), 2**40), st.sampled_from([2.0**-20, 0.5, 2.0, 2.0**30]))
def test_level_and_unit_do_not_matter(values: list[int], level: int, unit: float) -> None:
    series = np.asarray(values, float)
    slope, moved = theil_sen(series), theil_sen((series + level) * unit)
    scaled = [moved.slope / unit, moved.low / unit, moved.high / unit]
    assert scaled == pytest.approx([slope.slope, slope.low, slope.high])
    assert warmup_length((series + level) * unit) == warmup_length(series)


@given(st.integers(3, 300), st.integers(-(2**40), 2**40))
def test_a_line_has_its_slope_and_no_doubt(count: int, step: int) -> None:
    slope = theil_sen(2.0**30 + step * np.arange(count))
    assert slope.low == slope.high == slope.slope == pytest.approx(step)


@pytest.mark.filterwarnings("ignore:overflow")  # of what is not a number of bytes
@pytest.mark.parametrize("huge", [1e18, 1e300])
def test_huge_readings_are_no_error(huge: float) -> None:
    series = huge * np.random.default_rng(1).random(50)
    slope = theil_sen(series)
    assert slope.low < slope.slope < slope.high
    assert 0 <= warmup_length(series) <= 25


def test_outliers_do_not_move_the_slope_or_its_interval_far() -> None:
    random = np.random.default_rng(1)
    series = 10 * np.arange(100) + random.normal(0, 5, 100)
    clean = theil_sen(series)
    series[random.choice(100, 8, replace=False)] += 1e6
    spiked = theil_sen(series)
    assert spiked.slope == pytest.approx(clean.slope, abs=0.1)
    assert spiked.high - spiked.low < 3 * (clean.high - clean.low)


def test_correlated_readings_widen_the_interval() -> None:
    random = np.random.default_rng(1)
    white = random.normal(0, 1, 100)
    carried = white.copy()
    for index in range(1, 100):
        carried[index] += 0.8 * carried[index - 1]
    one, other = theil_sen(white), theil_sen(carried)
    assert (other.high - other.low) / carried.std() > 1.7 * (one.high - one.low) / white.std()


def test_two_hundred_readings_are_judged_at_once() -> None:
    series = np.random.default_rng(1).normal(0, 1, 200)
    theil_sen(series[:100])  # what is imported and kept for the next time
    started = time.perf_counter()
    theil_sen(series)
    assert time.perf_counter() - started < 0.1


@given(st.lists(st.floats(0, 1e9), min_size=2, max_size=80))
@example([0.0, 5e-324] * 10)
def test_warm_up_is_at_most_half(values: list[float]) -> None:
    assert 0 <= warmup_length(np.asarray(values)) <= len(values) // 2


@pytest.mark.parametrize("knee", [0, 1, 3, 10])
def test_warm_up_ends_where_the_series_settles(knee: int) -> None:
    series = np.full(40, 100.0)
    series[:knee] = np.arange(knee)
    assert warmup_length(series) == knee


@pytest.mark.parametrize("knee", [3, 10])
def test_warm_up_ends_where_steady_growth_begins(knee: int) -> None:
    index = np.arange(60.0)
    assert warmup_length(7 * index + 100 * np.minimum(index, knee) ** 1.5) == knee


@given(st.integers(12, 100), st.integers(1, 2**30))
def test_steady_growth_is_no_warm_up(count: int, step: int) -> None:
    assert warmup_length(2.0**30 + step * np.arange(count)) == 0
