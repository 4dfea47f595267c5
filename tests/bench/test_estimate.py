"""Medians and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrswitch.bench.statistics import CONFIDENCE, LEAST_FOR_INTERVAL, Estimate, estimate

finite = st.floats(-1e9, 1e9)


@given(st.lists(finite, min_size=1, max_size=50))
def test_the_interval_surrounds_the_median_within_the_values(values: list[float]) -> None:
    found = estimate(values)
    assert found is not None
    assert min(values) <= found.low <= found.median <= found.high <= max(values)
    assert found.median == pytest.approx(np.median(values))
    assert found.count == len(values)
    assert estimate(values) == found


@given(finite, st.integers(1, 20))
def test_values_that_agree_have_an_interval_of_no_width(value: float, count: int) -> None:
    assert estimate([value] * count) == Estimate(value, value, value, count)


def test_no_median_is_made_of_what_is_left() -> None:
    assert estimate([]) is None
    assert estimate([1.0, None, 2.0]) is None


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    """With ten repetitions; the percentile bootstrap of a median is known to be a little wide or narrow."""
    random = np.random.default_rng(7)
    held = 0
    for _ in range(400):
        found = estimate(list(random.lognormal(sigma=0.5, size=10)))
        assert found
        held += found.low <= 1.0 <= found.high
    assert CONFIDENCE - 0.05 <= held / 400 <= 0.995


def test_few_values_have_a_range_and_no_interval() -> None:
    """Five miss their median in 1 of 16 cases, six in 1 of 32: only these can hold it in 95 of 100."""
    assert 2 / 2 ** (LEAST_FOR_INTERVAL - 1) > 1 - CONFIDENCE >= 2 / 2**LEAST_FOR_INTERVAL
    assert estimate([5.0, 1.0, 2.0, 4.0, 3.0]) == Estimate(3, 1, 5, 5)
    many = estimate([float(value) for value in range(40)])
    assert many and 0 < many.low < many.high < 39
