"""Runs that are interrupted at any moment go on to what they would have been."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from asrswitch.cli import main
from asrswitch.errors import UsageError
from asrswitch.memory.guard import MachineLock
from asrswitch.records import (
    End,
    Failure,
    Reading,
    Record,
    Resume,
    Run,
    Skip,
    TornLineWarning,
    WorkerStarted,
    read_log,
)
from asrswitch.resume import position, read_interrupted
from asrswitch.summary import summarise
from support import ROOT, wait_for

Run_ = Callable[..., "subprocess.CompletedProcess[str]"]
GOOD = {"text": "一二三", "header": "whole", "pieces": 3}


def resume(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "asrswitch", "--resume", str(out), *options]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)


def kill_when(words: list[str], log: Path, n_lines: int, number: int = signal.SIGKILL) -> None:
    """Start a run and send it a signal once its log has so many lines."""
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: log.exists() and log.read_bytes().count(b"\n") >= n_lines)
    finally:
        process.send_signal(number)
        process.wait()


def readings_after_unload(records: list[Record]) -> list[tuple[int, str]]:
    return [
        (record.iteration, record.model)
        for record in records
        if isinstance(record, Reading) and record.point == "after_unload"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "number"),
    [
        ("reload", signal.SIGKILL),
        ("reload", signal.SIGTERM),
        ("restart", signal.SIGKILL),
        ("resident", signal.SIGTERM),
        ("isolate", signal.SIGKILL),
    ],
)
def test_a_run_that_was_ended_goes_on_and_is_whole(
    command: Callable[..., list[str]],
    script: Callable[..., str],
    tmp_path: Path,
    strategy: str,
    number: int,
) -> None:
    models = script("a", **GOOD, delay_ms=5), script("b", **GOOD, delay_ms=5)
    words = command(*models, iterations=12, options=("--strategy", strategy))
    log = tmp_path / "out" / "run.jsonl"
    kill_when(words, log, 40, number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TornLineWarning)
        before = read_log(log)
    assert 0 < len(readings_after_unload(before)) < 24
    done = resume(tmp_path / "out")
    assert done.returncode == 0, done.stderr
    records = read_log(log)
    assert records[: len(before)] == before  # nothing measured is lost
    assert sum(isinstance(record, Resume) for record in records) == 1
    assert isinstance(records[-1], End) and records[-1].reason == "complete"
    turns = readings_after_unload(records)
    assert len(set(turns)) == 24 and len(turns) <= 25  # at most the interrupted cycle twice
    workers = [record.worker for record in records if isinstance(record, WorkerStarted)]
    assert workers == list(range(1, len(workers) + 1))
    summary = summarise(records)
    assert summary.iterations_done == 12 and summary.finished == "complete"
    again = resume(tmp_path / "out")
    assert again.returncode == 2 and "complete" in again.stderr


@pytest.mark.slow
def test_runs_that_take_turns_go_on_where_each_was(
    command: Callable[..., list[str]], script: Callable[..., str], tmp_path: Path
) -> None:
    words = command(script("a", **GOOD, delay_ms=2), iterations=20, options=("--strategy", "all"))
    out = tmp_path / "out"
    kill_when(words, out / "resident" / "run.jsonl", 60)
    done = resume(out)
    assert done.returncode == 0, done.stderr
    for strategy in ("reload", "restart", "resident", "isolate"):
        summary = summarise(read_log(out / strategy / "run.jsonl"))
        assert (summary.iterations_done, summary.finished) == (20, "complete")


@pytest.mark.slow
def test_a_run_until_decided_goes_on_to_its_verdict(
    command: Callable[..., list[str]], script: Callable[..., str], tmp_path: Path
) -> None:
    words = command(script("a", **GOOD, delay_ms=2), options=("--iters", "auto:200"))
    log = tmp_path / "out" / "run.jsonl"
    kill_when(words, log, 60)
    done = resume(tmp_path / "out")
    assert done.returncode == 0, done.stderr
    summary = summarise(read_log(log))
    assert summary.word.value == "flat" and 50 <= summary.iterations_done <= 200


def test_a_line_that_was_cut_off_is_written_again_whole(
    run: Run_, script: Callable[..., str], tmp_path: Path
) -> None:
    run(script("a", **GOOD), iterations=3)
    log = tmp_path / "out" / "run.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:20]) + lines[20][:10])
    assert resume(tmp_path / "out").returncode == 0
    assert summarise(read_log(log)).iterations_done == 3  # and no warning of a torn line, which is an error


def test_every_beginning_of_a_log_says_where_to_go_on(
    run: Run_, script: Callable[..., str], tmp_path: Path
) -> None:
    once = tmp_path / "failed once"
    run(script("a", **GOOD), script("b", **GOOD, crash="load", once=once), iterations=3)
    records = read_log(tmp_path / "out" / "run.jsonl")
    assert any(isinstance(record, Failure) for record in records)
    first = records[0]
    assert isinstance(first, Run)
    reached = 0
    for end in range(1, len(records) + 1):
        came = position(first.plan, records[:end])
        over = len(set(readings_after_unload(records[:end])))
        assert (came.cycle.index + came.over if came else 0) == over >= reached
        reached = over
    assert reached == 6


def test_a_model_that_was_left_out_stays_out(run: Run_, script: Callable[..., str], tmp_path: Path) -> None:
    run(script("a", **GOOD), script("b", crash="load"), iterations=4)
    log = tmp_path / "out" / "run.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    kinds = [msgspec.json.decode(line)["record"] for line in lines]
    log.write_bytes(b"".join(lines[: kinds.index("skip") + 1]))
    resume(tmp_path / "out")
    records = read_log(log)
    assert sum(isinstance(record, Skip) for record in records) == 1
    assert set(readings_after_unload(records)) == {(i, "a") for i in range(1, 5)}


def test_what_cannot_go_on_is_one_line(
    run: Run_, command: Callable[..., list[str]], script: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    model = script("a", **GOOD)
    run(model, iterations=2)
    log = out / "run.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:9]))
    done = resume(out, "--threads", "3")
    assert done.returncode == 2 and "--threads with --resume" in done.stderr
    done = resume(tmp_path / "nowhere")
    assert done.returncode == 2 and "nowhere" in done.stderr and "Traceback" not in done.stderr
    path = Path(model.partition("=")[2])
    path.write_text(path.read_text() + "text=longer\n")
    done = resume(out)
    assert done.returncode == 2 and str(path) in done.stderr and "not the file" in done.stderr
    path.unlink()
    with pytest.raises(UsageError, match="no such file any more"):
        read_interrupted(out)


def test_runs_that_did_not_take_turns_are_no_set(
    run: Run_, script: Callable[..., str], tmp_path: Path
) -> None:
    model = script("a", **GOOD)
    for name in ("out/one", "out/two"):
        run(model, iterations=1, options=("--out", str(tmp_path / name)))
    for words in (("--resume",), ("report",)):
        done = subprocess.run(
            [sys.executable, "-m", "asrswitch", *words, str(tmp_path / "out")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert "holds 2 runs that did not take turns; name one of them" in done.stderr


def test_a_run_goes_on_beside_another_where_that_is_allowed(
    run: Run_,
    script: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(script("a", **GOOD), iterations=3)
    log = tmp_path / "out" / "run.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    first = msgspec.json.decode(lines[0])
    first["plan"]["allow_concurrent"] = False
    log.write_bytes(b"".join([msgspec.json.encode(first) + b"\n", *lines[1:9]]))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with MachineLock(tmp_path):
        assert main(["--resume", str(tmp_path / "out")]) == 1
        assert "is measuring on this machine" in capsys.readouterr().err
        assert main(["--resume", str(tmp_path / "out"), "--allow-concurrent"]) == 0
    assert summarise(read_log(log)).iterations_done == 3


def test_a_run_that_was_moved_goes_on_where_it_is(
    run: Run_, script: Callable[..., str], tmp_path: Path
) -> None:
    run(script("a", **GOOD), iterations=3)
    log = tmp_path / "out" / "run.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:9]))
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    assert resume(tmp_path / "elsewhere").returncode == 0
    assert not (tmp_path / "out").exists()
    assert summarise(read_log(tmp_path / "elsewhere" / "run.jsonl")).iterations_done == 3
