"""A slow drift of speed is told; a steady speed is not called one."""

from __future__ import annotations

import pytest
from injected import Inject

from asrswitch.stats.drift import Pace

pytestmark = pytest.mark.slow


def test_loads_and_transcriptions_that_become_slower_drift_and_steady_ones_do_not(inject: Inject) -> None:
    """Both take 5 ms; one takes 0.25 ms more after each load of the process, which is 0.5 ms an iteration."""
    iterations, more_ms = 40, 0.5
    rise_ms = (iterations - 1) * more_ms
    steady = {"load_ms": 5, "delay_ms": 5, "pieces": 24}
    outcome = inject({"slow": {**steady, "drift_us": 250}, "steady": steady}, iterations=iterations)
    assert outcome.failures == []
    drifts = {model.label: model.drifts for model in outcome.summary.models}
    for name in ("TTFT", "load"):
        drift = drifts["slow"][name]
        assert drift.pace is Pace.DRIFTS, name
        assert drift.change.low > 0, name
        found = drift.per_iteration * (iterations - 1)
        assert found == pytest.approx(rise_ms / (5 + rise_ms / 2), rel=0.25), name
        assert drifts["steady"][name].pace is not Pace.DRIFTS, name
        assert abs(drifts["steady"][name].change.slope) < 0.1, name
