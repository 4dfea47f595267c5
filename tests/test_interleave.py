"""Runs that take turns: all strategies, or all allocators."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from asrswitch.plan import ALLOCATORS
from asrswitch.records import End, Reading, Run, WorkerStarted, read_log
from asrswitch.stats.verdict import Word
from asrswitch.summary import summarise
from support import ROOT

Run_ = Callable[..., "subprocess.CompletedProcess[str]"]
GOOD = {"text": "一二三", "header": "whole", "pieces": 3}
STRATEGIES = ("reload", "restart", "resident", "isolate")


def report(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "asrswitch", "report", str(out), *options]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)


@pytest.mark.slow
def test_all_strategies_take_turns_and_are_compared(
    run: Run_, script: Callable[..., str], tmp_path: Path
) -> None:
    options = ("--strategy", "all", "--check")
    done = run(script("a", **GOOD), script("b", **GOOD), iterations=24, options=options)
    assert done.returncode in (0, 4), done.stderr  # processes of `isolate` may differ too much for so few
    out = tmp_path / "out"
    logs = {strategy: read_log(out / strategy / "run.jsonl") for strategy in STRATEGIES}
    stretches = []
    for strategy, records in logs.items():
        first = records[0]
        assert isinstance(first, Run) and first.plan.strategy.value == strategy and first.plan.rounds == 2
        assert isinstance(records[-1], End) and records[-1].reason == "complete"
        assert strategy == "isolate" or summarise(records).word is Word.FLAT
        turns = [r for r in records if isinstance(r, Reading) and r.point == "after_unload"]
        assert [r.cycle for r in turns] == list(range(48))
        workers = [r for r in records if isinstance(r, WorkerStarted)]
        # `isolate` begins with one and has another after each turn, in each of the rounds.
        assert len(workers) == (50 if strategy == "isolate" else 2)
        stretches += [(turns[i].at or "", turns[i + 23].at or "", strategy) for i in (0, 24)]
    stretches.sort()
    # One after the other, and the one that begins rotates.
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(stretches))
    assert [s for _, _, s in stretches] == [*STRATEGIES, *STRATEGIES[1:], STRATEGIES[0]]
    for strategy in STRATEGIES:
        assert strategy in done.stdout
        assert report(out / strategy).returncode == 0  # each is a run like any other


@pytest.mark.slow
def test_a_comparison_can_be_made_again_for_other_needs(
    run: Run_, script: Callable[..., str], tmp_path: Path
) -> None:
    run(script("a", **GOOD), script("b", **GOOD), iterations=10, options=("--strategy", "all"))
    done = report(tmp_path / "out")
    assert done.returncode == 0 and "MiB" in done.stdout
    tight = report(tmp_path / "out", "--memory-limit", "1M", "--switches-per-hour", "10")
    assert tight.returncode == 0 and tight.stdout != done.stdout
    wrong = report(tmp_path / "out", "--memory-limit", "much")
    assert wrong.returncode == 2 and "--memory-limit" in wrong.stderr


@pytest.mark.slow
def test_allocators_are_compared_and_those_that_are_missing_left_out(
    run: Run_, script: Callable[..., str], tmp_path: Path
) -> None:
    done = run(script("a", **GOOD, retain=2048), iterations=10, options=("--allocator", "all"))
    assert done.returncode == 0, done.stderr
    found = {path.parent.name for path in (tmp_path / "out").glob("*/run.jsonl")}
    assert {"glibc", "arenas-2", "mmap-128k"} <= found <= set(ALLOCATORS)
    for name in found:
        records = read_log(tmp_path / "out" / name / "run.jsonl")
        told = [r.malloc is not None for r in records if isinstance(r, Reading)]
        # glibc's account is of a heap that nobody uses where another allocator took malloc's place.
        assert all(told) if name in ("glibc", "arenas-2", "mmap-128k") else not any(told)
        assert name in done.stdout


def test_an_allocator_that_is_not_installed_is_one_line(
    run: Run_, script: Callable[..., str], tmp_path: Path
) -> None:
    for name in ("jemalloc", "tcmalloc"):
        done = run(script("a", **GOOD), options=("--allocator", name, "--out", str(tmp_path / name)))
        if done.returncode != 0:
            assert done.returncode == 2 and name in done.stderr and "install" in done.stderr


@pytest.mark.slow
def test_two_libraries_take_turns_and_each_log_names_its_own(
    run: Run_, script: Callable[..., str], fake_library: Path, tmp_path: Path
) -> None:
    other = tmp_path / "libother.so"
    shutil.copy(fake_library, other)
    options = ("--library", str(other), "--threads", "1,2")  # the fixture names the other one
    done = run(script("a", **GOOD), iterations=3, options=options)
    assert done.returncode == 0, done.stderr
    logs = {path.parent.name: read_log(path) for path in (tmp_path / "out").glob("*/run.jsonl")}
    first = {name: records[0] for name, records in logs.items()}
    assert {
        (name, r.plan.threads, Path(r.library).name) for name, r in first.items() if isinstance(r, Run)
    } == {
        ("threads-1-library-1", 1, "libfake.so"),
        ("threads-1-library-2", 1, "libother.so"),
        ("threads-2-library-1", 2, "libfake.so"),
        ("threads-2-library-2", 2, "libother.so"),
    }
    assert report(tmp_path / "out").returncode == 0
