"""A load that fails, and a worker that is killed in a phase: recorded, recovered, nothing else lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from injected import PHASES, PLACES, Inject, Settings, turns

from asrswitch.records import WorkerStarted

pytestmark = pytest.mark.slow

ITERATIONS = 2


def test_the_third_of_all_loads_fails_and_is_tried_again_in_a_fresh_worker(
    inject: Inject, tmp_path: Path
) -> None:
    outcome = inject({"fails": {"fail_load": 3, "count": tmp_path / "loads"}, "good": {}}, iterations=6)
    assert outcome.code == 1
    (failure,) = outcome.failures
    assert (failure.iteration, failure.attempt, failure.phase, failure.kind) == (3, 1, "load", "error")
    assert failure.message == "this load was told to fail"
    assert not failure.out_of_memory
    assert outcome.skipped == []
    assert outcome.spoken == turns(6, "fails", "good")
    assert outcome.summary.iterations_done == 6
    assert sum(isinstance(record, WorkerStarted) for record in outcome.records) == 2


def test_loads_that_fail_now_and_then_cost_no_iteration(inject: Inject) -> None:
    """The third of each process does, and then the second attempt is the first of the next."""
    outcome = inject({"fails": {"fail_load": 3}, "good": {}}, iterations=6)
    assert [(f.iteration, f.attempt) for f in outcome.failures] == [(i, 1) for i in range(2, 7)]
    assert outcome.skipped == []
    assert outcome.summary.iterations_done == 6


@pytest.mark.parametrize("strategy", PHASES)
def test_a_model_whose_loads_all_fail_is_left_out_and_the_other_goes_on(
    strategy: str, inject: Inject
) -> None:
    outcome = inject({"fails": {"error": "load"}, "good": {}}, ITERATIONS, ("--strategy", strategy))
    assert outcome.code == 1
    failures = [(failure.model, failure.attempt, failure.phase) for failure in outcome.failures]
    assert failures == [("fails", 1, "load"), ("fails", 2, "load")]
    assert outcome.skipped == ["fails"]
    assert outcome.spoken == turns(ITERATIONS, "good")
    assert outcome.summary.finished == "complete"


@pytest.mark.parametrize(("strategy", "phase"), PLACES)
def test_a_worker_that_is_killed_once_is_recorded_and_replaced(
    strategy: str, phase: str, inject: Inject, tmp_path: Path
) -> None:
    killed: Settings = {"kill": phase, "once": tmp_path / "killed"}
    outcome = inject({"good": {}, "killed": killed}, ITERATIONS, ("--strategy", strategy))
    assert outcome.code == 1
    (failure,) = outcome.failures
    assert (failure.model, failure.phase) == ("killed", phase)
    assert (failure.kind, failure.signal) == ("died", "SIGKILL")
    assert not failure.out_of_memory  # the kernel counts whom it kills for that
    assert outcome.skipped == []
    assert outcome.spoken == turns(ITERATIONS, "good", "killed")
    assert outcome.summary.finished == "complete"
    if phase in ("load", "transcribe"):  # the cycle was run again; later than that nothing is won by it
        assert outcome.summary.iterations_done == ITERATIONS
    assert "SIGKILL" in outcome.output
