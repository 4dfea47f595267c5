"""The rule that `--iters auto` goes by, and a smaller sample of experiments/verdict-calibration."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrswitch.stats.sequential import CONFIRM, FIRST_LOOK, further_iterations
from asrswitch.stats.series import SeriesVerdict
from asrswitch.stats.trend import Slope
from asrswitch.stats.verdict import Finding, Sample, Verdict, Word, judge
from support import ROOT

sys.path.insert(0, str(ROOT / "experiments" / "verdict-calibration"))

from stopping import KINDS, rates, until_decided

MOST = 100 * FIRST_LOOK
HEAP = "heap in use"


def look(
    word: Word,
    iterations: int,
    *,
    slope: float = 1000.0,
    width: float = 0.0,
    name: str = HEAP,
    decide: int = 0,
) -> Verdict:
    """A verdict on one series; an inconclusive one says it needs ``decide`` iterations in all."""
    found = Slope(slope, slope - width, slope + width)
    needed = max(decide, iterations + 1) if word is Word.INCONCLUSIVE else None
    series = SeriesVerdict(word, "", iterations, 0, 0.0, found, 1.0, needed)
    findings = {name: Finding(series, None, None, "")}
    return Verdict(word, "", None, "", name, iterations, findings, None, needed)


def leaks(*iterations: int, slopes: Sequence[float] = (), width: float = 0.0) -> list[Verdict]:
    slopes = slopes or [1000.0] * len(iterations)
    pairs = zip(iterations, slopes, strict=True)
    return [look(Word.LEAK, count, slope=slope, width=width) for count, slope in pairs]


def test_the_first_look_is_after_fifty_iterations_or_all_there_may_be() -> None:
    assert further_iterations([], MOST, 0) == FIRST_LOOK == 50
    assert further_iterations([], 12, 0) == 12
    assert further_iterations([], MOST, 30) == 20  # a run that was interrupted


@pytest.mark.parametrize("word", [Word.FLAT, Word.PLATEAU])
def test_what_does_not_grow_stands_at_once(word: Word) -> None:
    assert further_iterations([look(word, 50)], MOST, 50) == 0


def test_a_leak_stands_when_longer_runs_tell_it_again() -> None:
    assert CONFIRM == 4
    assert further_iterations(leaks(50), MOST, 50) == 50
    assert further_iterations(leaks(50, 100), MOST, 100) == 100
    assert further_iterations(leaks(50, 100, 200), MOST, 200) == 0


def test_a_leak_of_another_speed_is_confirmed_from_there_on() -> None:
    """Growth that dies out is slower at each look."""
    dying = leaks(50, 100, 200, slopes=[1000, 700, 400])
    assert further_iterations(dying, MOST, 200) == 200
    settled = leaks(50, 100, 200, 400, slopes=[1600, 1000, 1000, 1000])
    assert further_iterations(settled[:3], MOST, 200) == 200
    assert further_iterations(settled, MOST, 400) == 0


def test_slopes_that_may_be_the_same_agree() -> None:
    slopes = [1500, 1000, 1000]
    assert further_iterations(leaks(50, 100, 200, slopes=slopes, width=100), MOST, 200) == 200
    assert further_iterations(leaks(50, 100, 200, slopes=slopes, width=300), MOST, 200) == 0
    assert further_iterations(leaks(50, 100, 200, slopes=[1100, 1000, 1000]), MOST, 200) == 0


@pytest.mark.parametrize("between", [look(Word.INCONCLUSIVE, 100), look(Word.LEAK, 100, name="threads")])
def test_a_leak_that_one_look_did_not_tell_is_not_confirmed(between: Verdict) -> None:
    looks = [*leaks(50), between, *leaks(200)]
    assert further_iterations(looks, MOST, 200) == 200


def test_an_inconclusive_run_goes_on_for_as_long_as_it_says_and_at_most_doubles() -> None:
    assert further_iterations([look(Word.INCONCLUSIVE, 50, decide=72)], MOST, 50) == 22
    assert further_iterations([look(Word.INCONCLUSIVE, 50, decide=5000)], MOST, 50) == 50


def test_a_short_step_is_made_up_for() -> None:
    looks = [look(Word.INCONCLUSIVE, 50, decide=60), look(Word.INCONCLUSIVE, 60, decide=70)]
    assert further_iterations(looks, MOST, 60) == 40


def test_no_more_than_the_budget_is_asked_for() -> None:
    for word in (Word.INCONCLUSIVE, Word.LEAK):
        assert further_iterations([look(word, 50, decide=900)], 70, 50) == 20
        assert further_iterations([look(word, 50, decide=900)], 50, 50) == 0
        assert (
            further_iterations([look(word, 50, decide=900)], 40, 50) == 0
        )  # fewer seconds left than thought


@pytest.mark.parametrize("word", [Word.INCONCLUSIVE, Word.LEAK])
def test_where_nothing_new_came_nothing_is_asked_for(word: Word) -> None:
    assert further_iterations([look(word, 37), look(word, 37)], MOST, 100) == 0


def test_after_a_crash_a_run_doubles_so_that_a_worker_may_live_longer_than_any_before() -> None:
    """A worker died after 35 of 50: at its word, the run would go on by 5, which the next one cannot beat."""
    assert further_iterations([look(Word.INCONCLUSIVE, 35, decide=40)], MOST, 50) == 50
    assert further_iterations(leaks(35), MOST, 50) == 50


def test_a_leak_is_confirmed_by_what_one_worker_lived_and_not_by_what_was_run() -> None:
    assert further_iterations(leaks(50, 100, 150), MOST, 200) == 200


class Turn(msgspec.Struct, frozen=True):
    """What a look might say, whatever the look."""

    word: Word
    slope: float
    width: float
    decide: float  # as many times the iterations
    lost: float  # the part of the iterations that a crash parts from the rest


turns = st.builds(
    Turn,
    word=st.sampled_from(Word),
    slope=st.floats(1, 1e6),
    width=st.floats(0, 1e5),
    decide=st.floats(1, 20),
    lost=st.sampled_from((0.0, 0.0, 0.0, 0.1, 0.5)),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(turns, min_size=12, max_size=12), st.integers(1, 20_000))
def test_whatever_it_sees_it_ends_in_the_budget_after_few_looks(script: list[Turn], most: int) -> None:
    looks: list[Verdict] = []
    done = 0
    while more := further_iterations(looks, most, done):
        assert more <= max(FIRST_LOOK, done)
        done += more
        assert done <= most
        turn = script[len(looks)]
        alive = max(1, round(done * (1 - turn.lost)))
        decide = math.ceil(alive * turn.decide)
        looks.append(look(turn.word, alive, slope=turn.slope, width=turn.width, decide=decide))
    assert 1 <= len(looks) <= max(0, math.ceil(math.log2(most / FIRST_LOOK))) + 2
    last = looks[-1]
    stuck = len(looks) > 1 and last.iterations <= looks[-2].iterations
    if last.word is Word.INCONCLUSIVE:
        assert done == most or stuck
    if last.word is Word.LEAK and done < most and not stuck:
        told = [each for each in looks if each.iterations * CONFIRM <= last.iterations]
        assert told and told[-1].word is Word.LEAK


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(4, 400))
def test_a_leak_that_is_put_in_stands_after_three_looks(seed: int, leak_kib: float) -> None:
    noise = np.random.default_rng(seed).normal(0, 4096, 800)
    run = until_decided(2.0**30 + noise + leak_kib * 1024 * np.arange(800))
    assert run.words == [Word.LEAK] * 3
    assert run.iterations == CONFIRM * FIRST_LOOK


def test_a_tooth_that_looks_like_a_leak_twice_is_not_called_one() -> None:
    """It falls after 120 iterations."""
    run = until_decided(2.0**30 + (np.arange(800.0) % 120) * 64 * 1024)
    assert run.words[:2] == [Word.LEAK, Word.LEAK]
    assert run.words[-1] is not Word.LEAK


def test_lost_heap_is_confirmed_among_other_series() -> None:
    """Through whole samples, where one series leaks and others rest."""
    lost = 2**20 + 4096 * np.arange(200)
    samples = [Sample(2**28, 2**27, 2**27, int(held), 0, {"threads": 4}) for held in lost]
    looks = [judge(samples[:count], 1 << 40) for count in (50, 100, 200)]
    assert [seen.leading for seen in looks] == [HEAP] * 3
    assert further_iterations(looks[:2], MOST, 100) == 100
    assert further_iterations(looks, MOST, 200) == 0


@pytest.mark.slow
def test_error_rates_are_as_promised() -> None:
    """Of each kind and of all; the sample of a kind is small, so that one may miss by a series."""
    found = {name: rates(name, 8) for name, kind in KINDS.items() if kind.promised}
    for name, rate in found.items():
        assert rate.leak <= 1 / 8, name
        assert rate.found >= 1 - 1 / 8, name
    assert np.mean([rate.leak for rate in found.values()]) <= 0.02
    assert np.mean([rate.found for rate in found.values()]) >= 0.95
    # Not for want of a temptation: at the first look, more than one in fifty would have been called a leak.
    assert np.mean([rate.leak_at_once for rate in found.values()]) > 0.02
