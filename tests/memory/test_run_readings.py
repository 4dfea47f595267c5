"""What a whole run writes down of memory between its readings and after a trim."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from asrswitch.records import (
    End,
    Failure,
    Reading,
    Record,
    Timeline,
    Trim,
    WorkerStarted,
    read_log,
)
from support import ROOT, alive, wait_for

Completed = subprocess.CompletedProcess[str]
MIB = 1 << 20
RETAINED = 16 * MIB
SLOW = {"text": "twelve bytes", "pieces": 3, "delay_ms": 75}  # 0.3 s a transcription


def log_of(tmp_path: Path) -> list[Record]:
    return read_log(tmp_path / "out" / "run.jsonl")


def place(record: Reading | Trim | Timeline) -> tuple[int, int, str, int]:
    return record.cycle, record.iteration, record.model, record.worker


def test_a_timeline_comes_before_the_reading_that_ends_it(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    done = run(script("a", **SLOW), script("b", **SLOW), options=("--sample-hz", "50"))
    assert done.returncode == 0, done.stderr
    records = log_of(tmp_path)
    timelines = [record for record in records if isinstance(record, Timeline)]
    for timeline, after in itertools.pairwise(records):
        if isinstance(timeline, Timeline):
            assert isinstance(after, Reading)
            assert (place(timeline), timeline.until) == (place(after), after.point)
    transcribing = [timeline.samples for timeline in timelines if timeline.until == "after_infer"]
    assert len(transcribing) == 4
    assert all(5 <= samples.count <= 40 for samples in transcribing)
    times = [ms for timeline in timelines for ms in timeline.samples.ms]
    assert times == sorted(times)
    end = records[-1]
    assert isinstance(end, End) and end.sampling
    assert end.sampling.samples == sum(timeline.samples.count for timeline in timelines)
    assert end.sampling.cpu_us_per_sample > 0
    assert 0 < end.sampling.cpu_ms_per_s < 100


def test_nothing_is_sampled_that_was_not_asked_for(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    assert run(script("a", **SLOW), options=("--sample-hz", "0")).returncode == 0
    records = log_of(tmp_path)
    assert not any(isinstance(record, Timeline) for record in records)
    assert isinstance(records[-1], End) and records[-1].sampling is None


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "1001"])
def test_a_rate_out_of_range_is_refused(
    value: str, run: Callable[..., Completed], script: Callable[..., str]
) -> None:
    done = run(script("a"), options=(f"--sample-hz={value}",))
    assert done.returncode == 2
    assert "--sample-hz" in done.stderr


def test_what_was_sampled_before_a_worker_died_is_kept(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    model = script("a", hang="transcribe", once=tmp_path / "hung", **SLOW)
    done = run(model, options=("--timeout", "1"))
    assert done.returncode == 1, done.stderr
    records = log_of(tmp_path)
    (index,) = (i for i, record in enumerate(records) if isinstance(record, Failure))
    timeline = records[index - 1]
    assert isinstance(timeline, Timeline)
    assert timeline.until == "failure"
    assert timeline.samples.count >= 10
    workers = {record.worker for record in records if isinstance(record, Timeline)}
    assert workers == {1, 2}  # the next worker is sampled too


def test_what_was_sampled_before_a_stop_is_kept(
    command: Callable[..., list[str]], script: Callable[..., str], tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    model = script("a", text="x", hang="transcribe", ready=ready)
    runner = subprocess.Popen(command(model), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(ready.exists)
    time.sleep(0.3)
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(30) == 143
    records = log_of(tmp_path)
    assert isinstance(records[-2], Timeline) and records[-2].until == "stop"
    started = next(record for record in records if isinstance(record, WorkerStarted))
    assert not alive(started.pid)


def retaining_run(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path, trim: str
) -> tuple[list[Reading], list[Trim]]:
    """Readings after unloads and trims of 5 cycles that leave 16 MiB with malloc, once those are there."""
    done = run(script("a", text="x", retain=RETAINED >> 10), iterations=5, options=("--trim", trim))
    assert done.returncode == 0, done.stderr
    records = log_of(tmp_path)
    readings = [r for r in records if isinstance(r, Reading) and r.point == "after_unload"]
    return readings, [record for record in records if isinstance(record, Trim)]


def test_never_is_never(run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path) -> None:
    assert retaining_run(run, script, tmp_path, "never")[1] == []


def test_a_probe_tells_what_is_kept_back_and_leaves_it_there(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    readings, trims = retaining_run(run, script, tmp_path, "probe")
    assert [(t.on, t.failure) for t in trims] == [("copy", None)] * 5
    assert list(map(place, trims)) == list(map(place, readings))
    for reading, trim in zip(readings, trims, strict=True):
        assert trim.anonymous_before_bytes is not None and trim.anonymous_bytes is not None
        assert trim.anonymous_before_bytes - trim.anonymous_bytes >= RETAINED
        assert abs(trim.anonymous_before_bytes - reading.memory.anonymous_bytes) < MIB
        assert trim.malloc and reading.malloc
        assert abs(trim.malloc.held_bytes - reading.malloc.held_bytes) < 65536
        assert 0 < trim.ms < 10_000
    befores = [
        r for r in log_of(tmp_path) if isinstance(r, Reading) and r.point == "before_load" and r.iteration > 1
    ]
    for after, before in zip(readings, befores, strict=False):
        assert abs(before.memory.anonymous_bytes - after.memory.anonymous_bytes) < MIB


def test_always_gives_back_what_is_kept(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    readings, trims = retaining_run(run, script, tmp_path, "always")
    assert [(t.on, t.failure) for t in trims] == [("worker", None)] * 5
    befores = [
        r for r in log_of(tmp_path) if isinstance(r, Reading) and r.point == "before_load" and r.iteration > 1
    ]
    assert len(befores) == 4
    for after, before in zip(readings, befores, strict=False):
        assert after.memory.anonymous_bytes - before.memory.anonymous_bytes >= RETAINED


def test_an_unknown_trim_is_refused(script: Callable[..., str]) -> None:
    words = [sys.executable, "-m", "asrswitch", "--iters", "1", "--model", script("a"), "--trim", "sometimes"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--trim" in done.stderr
