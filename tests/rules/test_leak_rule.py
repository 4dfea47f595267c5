"""How grave a leak is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_examples import facts, verdict

from asrswitch.rules.leak import judge_leak
from asrswitch.stats.trend import Slope
from asrswitch.stats.verdict import Word
from helpers.records import MIB

GRADES = ["small", "small to considerable", "considerable", "considerable to grave", "grave"]


def leak(low: float, slope: float, high: float, **limits: float) -> str | None:
    """The grade of a leak of so many MiB over a hundred iterations."""
    grown = Slope(*(mib * MIB / 100 for mib in (slope, low, high)))
    return judge_leak(verdict(Word.LEAK, grown), facts(**limits)).outcome


@pytest.mark.parametrize(("mib", "grade"), [(0.1, 0), (9.99, 0), (10, 2), (49.99, 2), (50, 4), (5000, 4)])
def test_growth_over_a_hundred_iterations_is_graded(mib: float, grade: int) -> None:
    assert leak(mib, mib, mib) == GRADES[grade]


@pytest.mark.parametrize(("low", "high", "grade"), [(9, 11, 1), (40, 60, 3), (11, 49, 2)])
def test_an_interval_over_a_threshold_has_both_grades(low: float, high: float, grade: int) -> None:
    assert leak(low, (low + high) / 2, high) == GRADES[grade]


def test_the_limits_can_be_set() -> None:
    limits = {"leak_small_below_mib": 1, "leak_grave_from_mib": 2}
    assert [leak(mib, mib, mib, **limits) for mib in (0.99, 1, 2)] == ["small", "considerable", "grave"]
    assert leak(1, 1, 1, leak_iterations=10_000) == "grave"


@given(st.floats(0.1, 1e4), st.floats(0.1, 1e4))
def test_a_faster_leak_is_never_less_grave(one: float, other: float) -> None:
    grades = [GRADES.index(leak(mib, mib, mib) or "") for mib in sorted((one, other))]
    assert grades == sorted(grades)


def test_the_figures_are_the_slope_and_its_interval() -> None:
    result = judge_leak(verdict(Word.LEAK, Slope(64 << 10, 60 << 10, 70 << 10)), facts())
    assert [(figure.name, figure.value) for figure in result.figures] == [
        ("heap in use, over 100 iterations", 6_553_600),
        ("growth", 64 << 10),
        ("at least", 60 << 10),
        ("at most", 70 << 10),
    ]
    assert [limit.value for limit in result.thresholds] == [10 * MIB, 50 * MIB]


@pytest.mark.parametrize("word", [Word.FLAT, Word.PLATEAU])
def test_where_nothing_leaks_it_says_what_would_have_shown(word: Word) -> None:
    result = judge_leak(verdict(word), facts())
    assert result.outcome == "none"
    assert [figure.name for figure in result.figures] == ["resident memory", "would have shown from"]


def test_what_has_no_size_is_not_graded() -> None:
    threads = judge_leak(verdict(Word.LEAK, Slope(1, 1, 1), ("threads",)), facts())
    assert threads.outcome is None
    assert threads.says == "what leaks has no size (threads): the verdict names it"
    both = judge_leak(verdict(Word.LEAK, Slope(MIB, MIB, MIB), ("threads", "resident memory")), facts())
    assert both.outcome == "grave"
    assert both.figures[1].value == MIB
