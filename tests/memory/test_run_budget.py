"""Memory is held against what a model needs before it is loaded, in whole runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from asrswitch.judged import judged_readings
from asrswitch.records import Budget, Failure, Load, Prediction, Reading, Record, WorkerStarted, read_log
from asrswitch.summary import summarise
from support import ROOT

Run = Callable[..., "subprocess.CompletedProcess[str]"]
GOOD = {"text": "一二三", "header": "whole"}
MIB = 1 << 20


def log_of(tmp_path: Path) -> list[Record]:
    return read_log(tmp_path / "out" / "run.jsonl")


def of(kind: type[Record], records: list[Record]) -> list[Record]:
    return [record for record in records if isinstance(record, kind)]


def grow(model: str, size: int) -> None:
    """Make a model file as large as that, in no space on the disk."""
    with Path(model.partition("=")[2]).open("ab") as file:
        file.truncate(size)


def test_a_model_that_does_not_fit_is_refused_with_the_numbers_and_the_others_run(
    run: Run, script: Callable[..., str], tmp_path: Path
) -> None:
    large = script("large", **GOOD)
    grow(large, 400 * MIB)
    done = run(script("small", **GOOD), large, options=("--memory-limit", "300M"), iterations=3)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    records = log_of(tmp_path)
    failures = [record for record in records if isinstance(record, Failure)]
    assert [(f.model, f.phase, f.kind, f.attempt) for f in failures] == [("large", "load", "refused", 1)] * 3
    for said in ("400.0 MiB", "of 300.0 MiB", "large.bin", "--memory-limit"):
        assert said in failures[0].message
    assert {record.model for record in records if isinstance(record, Load)} == {"small"}
    assert len(of(WorkerStarted, records)) == 1  # nothing happened to it
    budgets = [record for record in records if isinstance(record, Budget)]
    assert [b.action for b in budgets if b.model == "large"] == ["refuse"] * 3
    assert all(b.need_bytes == 400 * MIB and b.pressure > 1 for b in budgets if b.model == "large")


@pytest.mark.parametrize(("above", "workers"), [("0", 6), ("1M", 3), ("10M", 1)])
def test_larger_models_are_loaded_by_a_fresh_worker(
    run: Run, script: Callable[..., str], tmp_path: Path, above: str, workers: int
) -> None:
    large = script("large", **GOOD)
    grow(large, 2 * MIB)
    done = run(script("small", **GOOD), large, options=("--restart-above", above), iterations=3)
    assert done.returncode == 0, done.stderr
    records = log_of(tmp_path)
    # The first worker is fresh already.
    assert len(of(WorkerStarted, records)) == workers + (above == "1M")
    for record in records:
        if isinstance(record, Budget) and record.action == "restart":
            point = [r for r in records if isinstance(r, Reading) and r.cycle == record.cycle]
            assert [r.point for r in point].count("before_load") == 2
            assert point[-1].worker == record.worker > point[0].worker
    assert summarise(records).iterations_done == 3


def test_a_worker_that_keeps_memory_is_exchanged_when_it_is_tight(
    run: Run, script: Callable[..., str], tmp_path: Path
) -> None:
    model = script("a", **GOOD, leak=30 * MIB)
    grow(model, 60 * MIB)
    done = run(model, options=("--memory-limit", "150M"), iterations=8)
    assert done.returncode == 0, done.stderr
    budgets = [record for record in log_of(tmp_path) if isinstance(record, Budget)]
    assert {budget.action for budget in budgets} == {"load", "restart"}
    for budget in budgets:  # each is loaded with room, though eight cycles leak 240 MiB
        assert budget.limit_bytes is not None and budget.need_bytes <= budget.limit_bytes
        assert budget.action == "restart" or budget.pressure < 0.8
    assert "restart" in done.stdout and "to make room" in done.stdout


def test_pressure_is_warned_of(run: Run, script: Callable[..., str], tmp_path: Path) -> None:
    model = script("a", **GOOD)
    grow(model, 170 * MIB)
    done = run(model, options=("--memory-limit", "200M"), iterations=2)
    assert done.returncode == 0, done.stderr
    assert "warning: " in done.stdout and "% pressure" in done.stdout
    grow(model, 100 * MIB)
    done = run(model, options=("--memory-limit", "200M", "--out", str(tmp_path / "calm")), iterations=2)
    assert "% pressure" not in done.stdout


def test_a_limit_that_no_worker_can_start_under_is_named(run: Run, script: Callable[..., str]) -> None:
    done = run(script("a", **GOOD), options=("--memory-limit", "1M"))
    assert done.returncode == 1
    assert "--memory-limit" in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_our_library_predicts_what_a_run_then_takes(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "asrswitch", "--iters", "3", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [*words, "--allow-concurrent"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    records = log_of(tmp_path)
    predictions = {record.model: record for record in records if isinstance(record, Prediction)}
    assert predictions.keys() == {"digits-small", "digits-large"}
    for model, prediction in predictions.items():
        assert prediction.anonymous_bytes is not None and prediction.failure is None
        readings = [r for r in records if isinstance(r, Reading) and r.model == model]
        before = next(r.memory.rss_bytes for r in readings if r.point == "before_load")
        peak = max(r.memory.peak_rss_bytes for r in readings if r.point in ("after_load", "after_infer"))
        need = prediction.weights_bytes + prediction.anonymous_bytes
        # No more than that, but for code and tables that a first load maps; and not idly much.
        assert need / 2 < peak - before < need + 2 * MIB


def test_workers_that_are_exchanged_at_every_turn_have_a_verdict_together(
    run: Run, script: Callable[..., str], tmp_path: Path
) -> None:
    model = script("a", **GOOD, leak=40_000)
    assert run(model, options=("--restart-above", "0"), iterations=14).returncode == 0
    (item,) = summarise(log_of(tmp_path)).verdicts
    assert item.verdict.iterations == 14
    assert [len(those) for those in judged_readings(log_of(tmp_path)).subjects.values()] == [14]  # its chart
    assert item.verdict.word.value != "leak"  # it dies with its process


def test_a_leaking_worker_that_may_not_be_exchanged_is_refused_with_what_would_help(
    run: Run, script: Callable[..., str], tmp_path: Path
) -> None:
    model = script("a", **GOOD, leak=30 * MIB)
    grow(model, 60 * MIB)
    done = run(model, options=("--memory-limit", "150M", "--restart-above", "1G"), iterations=6)
    assert done.returncode == 1 and "--restart-above 0" in done.stderr
