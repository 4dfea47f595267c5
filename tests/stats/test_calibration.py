"""A smaller sample of experiments/verdict-calibration, and what earlier studies published."""

from __future__ import annotations

import sys

import pytest

from asrswitch.stats.series import Word
from support import ROOT

sys.path.insert(0, str(ROOT / "experiments" / "verdict-calibration"))

import published
from calibrate import coverage, drift_rates, rates
from synthetic import HARDER, KINDS

PROMISED = [kind for kind in KINDS if kind not in HARDER]


@pytest.mark.slow
def test_error_rates_are_as_promised() -> None:
    """Of each kind and of all; the sample of a kind is small, so that one may miss by two series."""
    found = {kind: rates(kind, 25) for kind in PROMISED}
    for kind, rate in found.items():
        assert rate.words[Word.LEAK] <= 2 / 25, kind
        assert rate.found >= 0.95 - 2 / 25, kind
    assert sum(rate.words[Word.LEAK] for rate in found.values()) / len(found) <= 0.02
    assert sum(rate.found for rate in found.values()) / len(found) >= 0.95


@pytest.mark.parametrize("carried", [0.0, 0.6, 0.9])
def test_a_steady_speed_does_not_drift_and_a_drift_is_found(carried: float) -> None:
    rate = drift_rates(carried, 100)
    assert rate.false <= 0.03
    assert rate.found >= 0.93


@pytest.mark.parametrize(("carried", "least"), [(0.0, 0.91), (0.6, 0.91), (0.9, 0.86)])
def test_the_interval_holds_the_truth_nearly_as_often_as_it_says(carried: float, least: float) -> None:
    """95 %, less what 200 series may miss by; fifty readings do not tell 0.9 from a trend for certain."""
    assert coverage(carried, 50, 200) >= least


def test_what_earlier_studies_published_is_told_as_far_as_it_goes() -> None:
    two, ten, heap = published.judged().values()
    assert two.word is Word.INCONCLUSIVE and two.slope is None
    # resident memory after ten unloads rises and then seems to rest: it alone cannot tell
    assert ten.word is Word.INCONCLUSIVE
    assert ten.iterations_to_decide is not None and ten.iterations_to_decide > 10
    assert heap.word is Word.LEAK
    assert heap.slope is not None and heap.slope.slope == pytest.approx(published.HELD_A_CYCLE)


def test_the_old_studys_line_was_a_leak_in_spite_of_its_noise() -> None:
    for seed in range(20):
        verdict = published.judge_series(published.line_with_noise(seed), published.RESIDENT)
        assert verdict.word is Word.LEAK
        assert verdict.slope is not None
        assert verdict.slope.slope == pytest.approx(published.LAST / published.SWITCHES, rel=0.1)
