from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import compared, make_run

from asrswitch.compare.bounds import Bound, apply_bounds, parse_bounds
from asrswitch.compare.figures import MEASURES
from asrswitch.errors import UsageError


@pytest.mark.parametrize(
    ("text", "key", "above", "limit"),
    [
        ("ttft>10%", "ttft", True, 0.1),
        (" load > 2.5 % ", "load", True, 0.025),
        ("tokens_per_s<-5%", "tokens_per_s", False, -0.05),
        ("rtf>0", "rtf", True, 0.0),
        ("peak>+1%", "peak", True, 0.01),
        ("wer>0.5%", "wer", True, 0.005),
        ("heap_slope>0", "heap_slope", True, 0.0),
        ("heap_slope>64", "heap_slope", True, 64.0),
        ("retained>1.5M", "retained", True, 1.5 * 1024 * 1024),
        ("retained>2KiB", "retained", True, 2048.0),
        ("retained<-3gb", "retained", False, -3.0 * 1024**3),
        ("retained>7B", "retained", True, 7.0),
    ],
)
def test_a_condition(text: str, key: str, above: bool, limit: float) -> None:
    (bound,) = parse_bounds(text)
    assert bound == Bound(text.strip(), key, above, pytest.approx(limit))


def test_several_conditions() -> None:
    assert [bound.text for bound in parse_bounds("ttft>10%, heap_slope>0")] == ["ttft>10%", "heap_slope>0"]


@pytest.mark.parametrize(
    ("text", "named", "remedy"),
    [
        ("", "''", "write for example ttft>10%"),
        ("ttft>10%,", "''", "write for example"),
        ("ttft=10%", "'ttft=10%'", "write for example"),
        ("ttft>=10%", "'ttft>=10%'", "write for example"),
        ("load>0,speed>10%", "'speed>10%': 'speed'", "use ttft, inference, load"),
        ("ttft>10", "'ttft>10'", "give percent"),
        ("ttft>10M", "'ttft>10M'", "give percent"),
        ("wer>1", "'wer>1'", "give percentage points"),
        ("retained>10%", "'retained>10%'", "give bytes"),
        ("ttft>-10%", "'ttft>-10%'", "changes from the baseline"),
        ("tokens_per_s<10%", "'tokens_per_s<10%'", "changes from the baseline"),
        (">10%", "'>10%': ''", "use ttft"),
    ],
)
def test_what_is_no_condition_is_named(text: str, named: str, remedy: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_bounds(text)
    assert named in str(caught.value)
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=30))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        bounds = parse_bounds(text)
    except UsageError as error:
        assert str(error).startswith("--fail-on: ")
    else:
        assert {bound.key for bound in bounds} <= {measure.key for measure in MEASURES}


def test_a_bound_is_broken_by_what_is_more_than_chance_and_beyond_it() -> None:
    slower = compared(make_run("A"), make_run("B", seed=1, ttft=1.3))
    broken = apply_bounds(parse_bounds("ttft>10%"), slower).broken
    assert [line.split(" of ")[0] for line in broken] == ["ttft>10%: TTFT"] * 2
    assert "+30" in broken[0] or "+29" in broken[0]
    assert apply_bounds(parse_bounds("ttft>40%,ttft<0,load>0"), slower).broken == []
    quicker = compared(make_run("B", seed=1, ttft=1.3), make_run("A"))
    assert apply_bounds(parse_bounds("ttft>0"), quicker).broken == []
    assert len(apply_bounds(parse_bounds("ttft<-10%"), quicker).broken) == 2


def test_what_holds_only_because_nothing_could_be_seen_is_told() -> None:
    noisy = compared(make_run("A", spread=0.3), make_run("B", seed=1, spread=0.3))
    outcome = apply_bounds(parse_bounds("ttft>10%"), noisy)
    assert not outcome.broken
    assert len(outcome.blind) == 2
    assert "was likely to be seen" in outcome.blind[0]


def test_what_no_model_could_be_judged_by_is_undecided() -> None:
    short = compared(make_run("A", iterations=3, wer=None), make_run("B", iterations=3, wer=None))
    outcome = apply_bounds(parse_bounds("ttft>10%,wer>0"), short)
    assert [line.split(":")[0] for line in outcome.unjudged] == ["ttft>10%", "wer>0"]
    assert "measured 3 and 3 times" in outcome.unjudged[0]
    assert "not measured in A and B" in outcome.unjudged[1]
