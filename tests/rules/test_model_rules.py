"""When to load a model, and whether unloading it suffices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_examples import facts, model, replace, spread

from asrswitch.plan import Strategy
from asrswitch.rules.loading import judge_loading
from asrswitch.rules.release import judge_release
from helpers.records import MIB

LOADING = ["lazy loading", "acceptable", "pre-warm popular models", "pre-warm at start"]
RELEASE = ["release suffices", "monitor", "isolate critical ones", "isolate"]


@pytest.mark.parametrize(
    ("ms", "outcome"),
    [
        (0.6, 0),
        (1999.9, 0),
        (2000, 1),
        (4999.9, 1),
        (5000, 2),
        (9999.9, 2),
        (10_000, 3),
        (1e6, 3),
    ],
)
def test_when_to_load_a_model(ms: float, outcome: int) -> None:
    result = judge_loading(model(load_ms=spread(ms)), facts())
    assert result.outcome == LOADING[outcome]
    assert (result.figures[0].name, result.figures[0].value, result.figures[0].unit) == (
        "cached load",
        ms,
        "ms",
    )
    assert [(limit.value, limit.unit) for limit in result.thresholds] == [(2, "s"), (5, "s"), (10, "s")]


def test_the_limits_of_loading_can_be_set() -> None:
    limits = {"load_lazy_below_s": 0.1, "load_acceptable_below_s": 0.2, "load_popular_below_s": 0.3}
    said = [judge_loading(model(load_ms=spread(ms)), facts(**limits)).outcome for ms in (99, 100, 200, 300)]
    assert said == LOADING


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_longer_load_never_asks_for_less(one: float, other: float) -> None:
    grades = [
        LOADING.index(judge_loading(model(load_ms=spread(ms)), facts()).outcome or "")
        for ms in sorted((one, other))
    ]
    assert grades == sorted(grades)


def test_what_a_user_waits_is_told_where_every_turn_loads() -> None:
    names = {
        strategy: [figure.name for figure in judge_loading(model(), facts(strategy)).figures]
        for strategy in Strategy
    }
    assert names[Strategy.RELOAD] == names[Strategy.ISOLATE] == ["cached load", "load and first text"]
    assert names[Strategy.RESIDENT] == names[Strategy.RESTART] == ["cached load"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_of_few_loads_the_median_may_be_the_first(count: int) -> None:
    result = judge_loading(model(load_ms=spread(100, count)), facts())
    assert (result.outcome is None) == (count < 3)
    assert result.outcome or result.says.startswith("of fewer than 3 loads")


def test_only_cached_loads_are_judged() -> None:
    assert "were cold" in judge_loading(model(), replace(facts(), cold=True)).says
    little, much = (judge_loading(model(read_bytes=spread(count)), facts()) for count in (MIB - 1, MIB))
    assert little.outcome and much.outcome is None
    assert much.says == "turns read 1.0 MiB from disk; the rule is of cached loads"
    assert judge_loading(model(load_ms=None), facts()).says == "no load was measured"


@pytest.mark.parametrize(
    ("part", "outcome"),
    [
        (1.0, 0),
        (0.9001, 0),
        (0.9, 1),
        (0.7001, 1),
        (0.7, 2),
        (0.5001, 2),
        (0.5, 3),
        (0.0, 3),
        (-1.0, 3),
    ],
)
def test_whether_an_unload_suffices(part: float, outcome: int) -> None:
    leaving = model(reclaimed=spread(part), retained_bytes=spread(100 * MIB), reclaimed_anonymous=None)
    result = judge_release(leaving, facts())
    assert result.outcome == RELEASE[outcome]
    assert [figure.value for figure in result.figures] == [part * 100, 100 * MIB]
    assert [limit.value for limit in result.thresholds] == [4 * MIB, 90, 70, 50]


@pytest.mark.parametrize(("left", "outcome"), [(4 * MIB, 0), (4 * MIB + 1, 3)])
def test_next_to_nothing_may_stay_whatever_its_part(left: int, outcome: int) -> None:
    leaving = model(reclaimed=spread(0.1), retained_bytes=spread(left), reclaimed_anonymous=None)
    assert judge_release(leaving, facts()).outcome == RELEASE[outcome]


def test_a_mapped_file_does_not_hide_a_heap_that_stays() -> None:
    hiding = model(
        reclaimed=spread(0.95),
        retained_bytes=spread(50 * MIB),
        reclaimed_anonymous=spread(0.4),
        retained_anonymous_bytes=spread(49 * MIB),
    )
    result = judge_release(hiding, facts())
    assert result.outcome == "isolate"
    assert [figure.name for figure in result.figures] == [
        "reclaimed of anonymous memory",
        "left of anonymous memory",
    ]


@given(st.floats(0, 1), st.floats(0, 1))
def test_more_given_back_never_asks_for_more(one: float, other: float) -> None:
    grades = [
        RELEASE.index(
            judge_release(model(reclaimed=spread(part), retained_bytes=spread(99 * MIB)), facts()).outcome
            or ""
        )
        for part in sorted((one, other), reverse=True)
    ]
    assert grades == sorted(grades)


def test_the_limits_of_release_can_be_set() -> None:
    limits = {
        "reclaimed_release_above_percent": 30,
        "reclaimed_monitor_above_percent": 20,
        "reclaimed_critical_above_percent": 10,
        "reclaimed_left_mib": 0,
    }
    said = [
        judge_release(model(reclaimed=spread(part), retained_bytes=spread(1)), facts(**limits)).outcome
        for part in (0.31, 0.3, 0.2, 0.1)
    ]
    assert said == RELEASE


def test_what_no_unload_tells_is_not_judged() -> None:
    assert "process" in judge_release(model(), facts(Strategy.ISOLATE)).says
    unknown = judge_release(model(reclaimed=None, reclaimed_anonymous=None), facts())
    assert unknown.outcome is None
    assert unknown.says == "no unload was measured that leaves no model loaded"
