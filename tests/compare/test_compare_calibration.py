"""A smaller sample of experiments/comparison-calibration."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from support import ROOT

_PLACE = ROOT / "experiments" / "comparison-calibration"


def _load(name: str) -> ModuleType:
    """A module of the experiment; another experiment has modules of the same names."""
    spec = importlib.util.spec_from_file_location(name, _PLACE / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def calibrate() -> ModuleType:
    names = ("synthetic", "calibrate")
    before = {name: sys.modules.get(name) for name in names}
    _load("synthetic")
    module = _load("calibrate")
    for name, earlier in before.items():
        del sys.modules[name]
        if earlier:
            sys.modules[name] = earlier
    return module


COUNT = 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("design", "kind"),
    [
        ("single runs of 50", "carried over, 0.9"),
        ("single runs of 50", "runs differ by 2 %"),
        ("3 runs of 20 a side", "runs differ by 2 %"),
        ("interleaved, 5 rounds of 12", "neighbour, 10 cycles"),
    ],
)
def test_runs_of_one_build_do_not_differ(calibrate: ModuleType, design: str, kind: str) -> None:
    """But for the 5 % that are allowed for, of which 40 have more than five once in a hundred times."""
    assert calibrate.rates(design, kind, COUNT).false <= 5 / COUNT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("design", "kind", "least"),
    [
        ("single runs of 200", "quiet", 0.55),
        ("6 runs of 20 a side", "runs differ by 1 %", 0.95),
        ("interleaved, 5 rounds of 12", "skewed, with spikes", 0.95),
        ("interleaved, 5 rounds of 12", "drift of 5 %", 0.95),
        ("interleaved, 10 rounds of 12", "runs differ by 2 %", 0.9),
    ],
)
def test_a_build_that_is_ten_percent_slower_is_found(
    calibrate: ModuleType, design: str, kind: str, least: float
) -> None:
    assert calibrate.rates(design, kind, COUNT).found >= least


@pytest.mark.slow
def test_the_smallest_difference_is_found_as_often_as_it_says(calibrate: ModuleType) -> None:
    """In four of five comparisons, less what 40 may miss by."""
    found = calibrate.rates("interleaved, 10 rounds of 12", "runs differ by 1 %", COUNT)
    assert found.smallest_found >= 0.65
    assert found.covered >= 0.9
