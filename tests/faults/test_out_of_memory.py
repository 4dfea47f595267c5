"""Out of memory in each phase of each strategy: recorded as such, recovered from, reported."""

from __future__ import annotations

from pathlib import Path

import pytest
from injected import PLACES, Inject, Outcome, turns

pytestmark = pytest.mark.slow

ITERATIONS = 2
LIMIT = ("--memory-limit", "64M")


def failing_turns(phase: str, strategy: str) -> list[int]:
    """The iterations in which a phase comes to pass, of a model that always loads."""
    if strategy in ("restart", "resident"):  # the last turn unloads, those before it restart
        occurs = {"restart": range(1, ITERATIONS), "unload": (ITERATIONS,)}
        if phase in occurs:
            return list(occurs[phase])
    return list(range(1, ITERATIONS + 1))


def told(outcome: Outcome, model: str) -> list[tuple[int, int, str]]:
    return [(f.iteration, f.attempt, f.phase) for f in outcome.failures if f.model == model]


@pytest.mark.parametrize("kind", ["oom", "oom_abort"])
@pytest.mark.parametrize(("strategy", "phase"), PLACES)
def test_out_of_memory_is_recorded_recovered_and_reported(
    strategy: str, phase: str, kind: str, inject: Inject, tmp_path: Path
) -> None:
    """One model runs out once, one each time, one never.

    A load or a transcription gets a second attempt in a fresh worker; the model that fails in this too is
    left out. What fails in letting a model go costs no measurement: the run goes on with the next cycle.
    """
    models = {"good": {}, "once": {kind: phase, "once": tmp_path / "ran-out"}, "always": {kind: phase}}
    outcome = inject(models, ITERATIONS, ("--strategy", strategy, *LIMIT))

    assert outcome.code == 1
    (line,) = outcome.errors.splitlines()
    assert line.startswith("asrswitch: ")
    assert outcome.summary.finished == "complete"
    for failure in outcome.failures:
        assert failure.out_of_memory
        assert (failure.kind, failure.signal) == (
            ("error", None) if kind == "oom" else ("died", "SIGABRT")
        ), failure.message

    again = phase in ("load", "transcribe")
    occurs = failing_turns(phase, strategy)
    assert told(outcome, "good") == []
    assert told(outcome, "once") == [(occurs[0], 1, phase)]
    if again:
        assert told(outcome, "always") == [(1, 1, phase), (1, 2, phase)]
        assert outcome.skipped == ["always"]
    else:
        assert told(outcome, "always") == [(iteration, 1, phase) for iteration in occurs]
        assert outcome.skipped == []

    spoken = turns(ITERATIONS, "good", "once", "always")
    if phase in ("load", "transcribe"):
        spoken -= turns(ITERATIONS, "always")
    assert outcome.spoken == spoken
    for label in ("once", "always"):
        (reported,) = (x for x in outcome.output.splitlines() if x.startswith(f"failed: {label}, {phase}"))
        assert "out of memory within a limit of 64.0 MiB" in reported
