"""A slow drift of speed is told; a steady speed is not called one."""

from __future__ import annotations

import pytest
from injected import Inject

from asrswitch.stats.drift import Pace


def test_loads_and_transcriptions_that_become_slower_drift_and_steady_ones_do_not(inject: Inject) -> None:
    """Both take 10 ms; one takes half a millisecond more after each load, which is 1 ms an iteration."""
    last = 19.0  # iterations after the first, and milliseconds more
    steady = {"load_ms": 10, "delay_ms": 10, "pieces": 24}
    outcome = inject({"slow": {**steady, "drift_us": 500}, "steady": steady}, iterations=20)
    assert outcome.failures == []
    drifts = {model.label: model.drifts for model in outcome.summary.models}
    for name in ("TTFT", "load"):
        drift = drifts["slow"][name]
        assert drift.pace is Pace.DRIFTS, name
        assert drift.change.low > 0, name
        assert drift.per_iteration * last == pytest.approx(last / (10 + last / 2), rel=0.25), name
        assert drifts["steady"][name].pace is not Pace.DRIFTS, name
        assert abs(drifts["steady"][name].change.slope) < 0.1, name
