from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from asrswitch.compare.statistics import (
    FAMILY,
    POWER,
    STRETCHES,
    Difference,
    between,
    carried_over,
    holm,
    p_value,
    smallest_seen,
    stretches,
    within_pairs,
)

numbers = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))
samples = st.lists(numbers, min_size=2, max_size=12)


@pytest.mark.filterwarnings("ignore:Precision loss")  # scipy's, where one sample does not vary
@given(samples, samples)
def test_error_and_chance_are_welch_s(first: list[float], second: list[float]) -> None:
    found = between(first, second)
    assert found.estimate == pytest.approx(np.mean(second) - np.mean(first), abs=1e-9)
    assert found.low <= found.estimate <= found.high
    if not found.certain:
        expected = stats.ttest_ind(second, first, equal_var=False)
        assert p_value(found, 0) == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)


@pytest.mark.filterwarnings("ignore:Precision loss")
@given(st.lists(numbers, min_size=2, max_size=7))
def test_of_few_pairs_they_are_student_s(differences: list[float]) -> None:
    found = within_pairs(differences)
    assert found.low <= found.estimate <= found.high
    if not found.certain:
        expected = stats.ttest_1samp(differences, 0)
        assert p_value(found, 0) == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)


@pytest.mark.filterwarnings("ignore:Precision loss")
@given(st.lists(numbers, min_size=8, max_size=20))
def test_of_many_pairs_they_are_yuen_s_of_the_trimmed_mean(differences: list[float]) -> None:
    found = within_pairs(differences)
    assert found.estimate == pytest.approx(stats.trim_mean(differences, 0.2), abs=1e-9)
    assert found.low <= found.estimate <= found.high
    if not found.certain:
        expected = stats.ttest_ind(differences, [0.0] * 20, equal_var=False, trim=0.2)
        assert p_value(found, 0) == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)


def test_one_disturbed_pair_of_many_hides_nothing() -> None:
    even = [0.1 + 0.001 * (-1) ** number for number in range(10)]
    disturbed = [*even[:9], -2.0]
    assert p_value(within_pairs(even), 0.01) < 1e-6
    assert p_value(within_pairs(disturbed), 0.01) < 1e-4
    assert within_pairs(disturbed).estimate == pytest.approx(0.1, abs=0.01)


@given(samples, samples, st.floats(1, 9), st.floats(1, 9))
def test_swapped_sides_give_the_same_interval_the_other_way_round(
    first: list[float], second: list[float], one: float, other: float
) -> None:
    there, back = between(first, second, (one, other)), between(second, first, (other, one))
    assert [-back.estimate, -back.high, -back.low] == pytest.approx(
        [there.estimate, there.low, there.high], abs=1e-9
    )
    assert p_value(back, 0.5) == pytest.approx(p_value(there, 0.5))


@given(samples)
def test_the_same_twice_does_not_differ(values: list[float]) -> None:
    found = between(values, values)
    assert found.estimate == 0
    assert p_value(found, 0) == 1
    assert found.low <= 0 <= found.high


def test_what_does_not_vary_differs_for_certain_or_not_at_all() -> None:
    assert p_value(between([1, 1], [1, 1]), 0) == 1
    assert p_value(between([1, 1], [2, 2]), 0) == 0
    assert p_value(between([1, 1], [2, 2]), 1.5) == 1
    assert smallest_seen(between([1, 1], [2, 2]), 1.5, 0.01) == 1.5


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_is_no_less_strict_than_each_and_no_stricter_than_bonferroni(chances: list[float]) -> None:
    adjusted = holm(chances)
    for one, chance in zip(adjusted, chances, strict=True):
        assert chance <= one <= min(1.0, len(chances) * chance)
    assert [adjusted[index] for index in np.argsort(chances, kind="stable")] == sorted(adjusted)


def test_holm_as_in_its_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize("count", [3, 5, 10])
def test_an_interval_holds_the_truth_about_as_often_as_it_says(count: int) -> None:
    random = np.random.default_rng(count)
    held = 0
    for _ in range(400):
        found = between(random.normal(0, 1, count), random.normal(0, 1, count))  # type: ignore[arg-type]
        held += found.low <= 0 <= found.high
    assert 0.92 <= held / 400 <= 0.99


@pytest.mark.parametrize("least", [0.0, 0.5])
def test_the_smallest_difference_is_found_as_often_as_it_says(least: float) -> None:
    random = np.random.default_rng(1)
    level, found = 0.01, 0
    for _ in range(500):
        noise = between(random.normal(0, 1, 6), random.normal(0, 1, 6))  # type: ignore[arg-type]
        true = smallest_seen(noise, least, level)
        moved = Difference(noise.estimate + true, 0, 0, noise.error, noise.freedom)
        found += p_value(moved, least) <= level
    assert POWER - 0.05 <= found / 500 <= 0.95


def test_a_difference_of_the_least_is_seldom_called_more() -> None:
    random = np.random.default_rng(2)
    found = 0
    for _ in range(1_000):
        difference = between(random.normal(0, 1, 8), random.normal(0.5, 1, 8))  # type: ignore[arg-type]
        found += p_value(difference, 0.5) <= FAMILY
    assert found / 1_000 <= FAMILY + 0.015


def wandering(carried: float, count: int, random: np.random.Generator) -> list[float]:
    values = random.normal(0, 1, count)
    values[1:] *= math.sqrt(1 - carried**2)
    for index in range(1, count):
        values[index] += carried * values[index - 1]
    return [float(value) for value in values]


@pytest.mark.parametrize(("carried", "count"), [(0.0, 20), (0.5, 20), (0.9, 50), (0.9, 200)])
def test_what_carries_over_is_made_up_for(carried: float, count: int) -> None:
    """The error as it is told is no smaller than means of such runs stray, but for a tenth."""
    random = np.random.default_rng(count)
    told, strayed = [], []
    for _ in range(300):
        a, b = (wandering(carried, count, random) for _ in range(2))
        units = [[float(np.mean(part)) for part in stretches(run)] for run in (a, b)]
        found = between(units[0], units[1], (carried_over(a), carried_over(b)))
        told.append(found.error**2)
        strayed.append(found.estimate**2)
    assert math.sqrt(np.mean(told)) >= 0.9 * math.sqrt(np.mean(strayed))


@given(st.lists(st.integers(0, 9).map(float), min_size=2 * STRETCHES, max_size=60))
def test_stretches_are_all_of_a_run_in_order(values: list[float]) -> None:
    parts = stretches(values)
    assert len(parts) == STRETCHES
    assert sum(parts, []) == values  # noqa: RUF017
    assert carried_over(values) >= 1 - 1e-9
