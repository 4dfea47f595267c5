"""Runs that end by themselves once their verdict is decided."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from asrswitch.records import End, Run, read_log
from asrswitch.stats.sequential import FIRST_LOOK
from asrswitch.summary import Summary, summarise

Run_ = Callable[..., "subprocess.CompletedProcess[str]"]
GOOD = {"text": "一二三", "header": "whole", "pieces": 3}


def summary_of(tmp_path: Path) -> Summary:
    records = read_log(tmp_path / "out" / "run.jsonl")
    assert isinstance(records[-1], End) and records[-1].reason == "complete"
    return summarise(records)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["reload", "restart", "resident"])
def test_a_flat_run_ends_with_its_first_verdict(
    run: Run_, script: Callable[..., str], tmp_path: Path, strategy: str
) -> None:
    models = script("a", **GOOD), script("b", **GOOD)
    done = run(*models, options=("--iters", "auto", "--strategy", strategy, "--check"))
    assert done.returncode == 0, done.stderr
    summary = summary_of(tmp_path)
    assert summary.word.value == "flat"
    # What stays loaded has an iteration more, which unloads.
    assert summary.iterations_done == FIRST_LOOK + (strategy != "reload")


@pytest.mark.slow
def test_a_leak_is_confirmed_before_it_ends_the_run(
    run: Run_, script: Callable[..., str], tmp_path: Path
) -> None:
    done = run(script("a", **GOOD, leak=8192), options=("--iters", "auto", "--check"))
    assert done.returncode == 3, done.stdout
    summary = summary_of(tmp_path)
    assert summary.word.value == "leak" and summary.iterations_done >= 2 * FIRST_LOOK


def test_the_budget_ends_what_cannot_be_decided(
    run: Run_, script: Callable[..., str], tmp_path: Path
) -> None:
    done = run(script("a", **GOOD), options=("--iters", "auto:7", "--check"))
    assert done.returncode == 4, done.stdout
    assert summary_of(tmp_path).iterations_done == 7


def test_no_iteration_begins_after_the_time(run: Run_, script: Callable[..., str], tmp_path: Path) -> None:
    done = run(script("a", **GOOD, delay_ms=300), options=("--iters", "auto:1s", "--check"))
    assert done.returncode == 4, done.stdout
    assert 1 <= summary_of(tmp_path).iterations_done <= 3
    first = read_log(tmp_path / "out" / "run.jsonl")[0]
    assert isinstance(first, Run) and first.plan.most_s == 1


def test_a_model_that_always_fails_does_not_keep_the_run_going(
    run: Run_, script: Callable[..., str], tmp_path: Path
) -> None:
    done = run(script("a", crash="load"), options=("--iters", "auto:300"))
    assert done.returncode == 1
    assert summary_of(tmp_path).iterations_done == 0
