"""The whole command with real processes, a library that misbehaves, and real signals."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile

import asrswitch
from asrswitch.cli import main
from asrswitch.convert import TYPES
from asrswitch.convert.synth import synthesise
from asrswitch.memory import guard
from asrswitch.memory.guard import MachineLock
from asrswitch.records import (
    CleanSlate,
    End,
    Failure,
    Load,
    Reading,
    Record,
    Release,
    Run,
    Skip,
    Transcription,
    WorkerStarted,
    read_log,
)
from asrswitch.stages import STAGES, Stage
from asrswitch.stats.verdict import Word
from asrswitch.summary import summarise
from support import ROOT, alive, wait_for, without_progress

Completed = subprocess.CompletedProcess[str]
EMBEDDED = Path(asrswitch.__file__).parent / "models" / "digits-small.bin"
GOOD = {"text": "零九零零", "header": "split"}


def log_of(tmp_path: Path) -> list[Record]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a run that is still going has a torn last line now and then
        return read_log(tmp_path / "out" / "run.jsonl")


def worker_pid(tmp_path: Path) -> int:
    return next(record.pid for record in log_of(tmp_path) if isinstance(record, WorkerStarted))


def ending(records: list[Record]) -> tuple[str, str | None]:
    end = records[-1]
    assert isinstance(end, End)
    return end.reason, end.signal


def test_two_models_alternate_and_every_reading_is_there(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    done = run(script("a", **GOOD), script("b", text="zero nine zero one"), options=("--reference", "0900"))
    assert done.returncode == 0, done.stderr
    records = log_of(tmp_path)
    readings = [(r.iteration, r.model, r.point) for r in records if isinstance(r, Reading)]
    points = ("before_load", "after_load", "after_infer", "after_unload")
    assert readings == [(i, m, p) for i in (1, 2) for m in "ab" for p in points]
    spoken = {r.model: r for r in records if isinstance(r, Transcription)}
    assert (spoken["a"].raw, spoken["a"].text) == ("language Chinese<asr_text>零九零零", "零九零零")
    assert (spoken["a"].language, spoken["a"].normalised, spoken["a"].wer) == ("Chinese", "0900", 0)
    assert (spoken["b"].language, spoken["b"].wer, spoken["b"].cer) == (None, 1, 0.25)
    assert ending(records) == ("complete", None)
    assert "2 of 2 iterations, complete" in done.stdout


def test_a_crash_in_any_phase_is_recorded_and_the_run_goes_on(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    phases = ("load", "transcribe", "unload")
    models = [script(f"crash-{p}", **GOOD, crash=p, once=tmp_path / f"crashed-{p}") for p in phases]
    models += [script(f"abort-{p}", **GOOD, abort=p, once=tmp_path / f"aborted-{p}") for p in phases]
    done = run(*models)
    assert done.returncode == 1
    records = log_of(tmp_path)
    failures = [r for r in records if isinstance(r, Failure)]
    assert [(f.iteration, f.model, f.phase, f.signal) for f in failures] == [
        (1, f"{kind}-{p}", p, name)
        for kind, name in (("crash", "SIGSEGV"), ("abort", "SIGABRT"))
        for p in phases
    ]
    second = {r.model for r in records if isinstance(r, Release) and r.iteration == 2}
    assert second == {f"{kind}-{p}" for kind in ("crash", "abort") for p in phases}
    assert "killed by SIGSEGV" in done.stdout
    assert len({r.pid for r in records if isinstance(r, WorkerStarted)}) == 7


@pytest.mark.parametrize("phase", ["load", "transcribe", "restart", "unload"])
def test_killing_the_worker_in_any_phase(
    phase: str, command: Callable[..., list[str]], script: Callable[..., str], tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    model = script("a", **GOOD, hang=phase, ready=ready, once=tmp_path / "hung")
    options = ("--strategy", "restart") if phase == "restart" else ()
    words = command(model, script("b", **GOOD), iterations=3, options=options)
    runner = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(ready.exists)
    os.kill(worker_pid(tmp_path), signal.SIGKILL)
    output, errors = runner.communicate(timeout=30)
    assert runner.returncode == 1, errors
    records = log_of(tmp_path)
    (failure,) = (r for r in records if isinstance(r, Failure))
    assert (failure.phase, failure.kind, failure.signal, failure.cycle) == (phase, "died", "SIGKILL", 0)
    assert ending(records) == ("complete", None)
    cycles = {r.cycle for r in records if isinstance(r, Reading) and r.point == "after_unload"}
    tried_again = phase in ("load", "transcribe")  # later than that nothing is won by it
    assert cycles == {1, 2, 3, 4, 5} | ({0} if tried_again else set())
    assert "SIGKILL" in output
    assert "TTFT" in output


def test_a_worker_that_hangs_is_killed_in_time(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    model = script("a", **GOOD, hang="transcribe", once=tmp_path / "hung")
    done = run(model, options=("--timeout", "1"))
    assert done.returncode == 1
    (failure,) = (r for r in log_of(tmp_path) if isinstance(r, Failure))
    assert (failure.phase, failure.kind) == ("transcribe", "timeout")
    assert "2 of 2 iterations, complete" in done.stdout


def test_errors_of_the_library_keep_its_message_and_the_run_goes_on(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    models = [
        script(p, **GOOD, error=p, once=tmp_path / f"failed-{p}") for p in ("load", "transcribe", "unload")
    ]
    done = run(*models, script("says-0", stderr_error=1))
    assert done.returncode == 1
    failures = [
        (f.iteration, f.model, f.phase, f.kind, f.message) for f in log_of(tmp_path) if isinstance(f, Failure)
    ]
    assert failures == [
        (1, "load", "load", "error", "told to fail"),
        (1, "transcribe", "transcribe", "error", "told to fail"),
        (1, "unload", "unload", "error", "told to fail"),
        (1, "says-0", "transcribe", "error", "failed and returned 0"),
        (2, "says-0", "transcribe", "error", "failed and returned 0"),
    ]
    unloaded = {(r.iteration, r.model) for r in log_of(tmp_path) if isinstance(r, Release)}
    assert (1, "transcribe") in unloaded


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_writes_what_is_known_and_leaves_no_worker(
    number: signal.Signals,
    code: int,
    command: Callable[..., list[str]],
    script: Callable[..., str],
    tmp_path: Path,
) -> None:
    ready = tmp_path / "ready"
    models = (script("a", **GOOD), script("b", **GOOD, hang="transcribe", ready=ready))
    runner = subprocess.Popen(
        command(*models), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(ready.exists)
    worker = worker_pid(tmp_path)
    runner.send_signal(number)
    output, errors = runner.communicate(timeout=30)
    assert runner.returncode == code
    assert without_progress(errors) == f"asrswitch: stopped by {number.name}\n"
    assert f"0 of 2 iterations, stopped by {number.name}" in output
    assert "TTFT" in output
    assert ending(log_of(tmp_path)) == ("stopped", number.name)
    assert not alive(worker)


def test_a_runner_that_is_killed_leaves_a_log_that_gives_a_summary(
    command: Callable[..., list[str]], script: Callable[..., str], tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    models = (script("a", **GOOD), script("b", **GOOD, hang="unload", ready=ready))
    runner = subprocess.Popen(command(*models), cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_for(ready.exists)
    worker = worker_pid(tmp_path)
    runner.kill()
    runner.wait()
    wait_for(lambda: not alive(worker))
    log = tmp_path / "out" / "run.jsonl"
    with log.open("ab") as file:
        file.write(b'{"record":"rele')
    words = [sys.executable, "-m", "asrswitch", "report", str(tmp_path / "out")]
    report = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert report.returncode == 0, report.stderr
    assert "0 of 2 iterations, cut off" in report.stdout
    assert "was cut off and is left out" in report.stdout
    assert [r.model for r in log_of(tmp_path) if isinstance(r, Transcription)] == ["a", "b"]


def test_a_leak_is_found_and_checked_for(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    done = run(script("a", **GOOD, leak=40_000), script("b", **GOOD), iterations=20, options=("--check",))
    assert done.returncode == 3, done.stdout
    verdict = summarise(log_of(tmp_path)).verdicts[0].verdict
    assert (verdict.word, verdict.holder) == (Word.LEAK, "heap in use")
    assert verdict.held is not None
    assert verdict.held.slope == pytest.approx(40_000, rel=0.05)


def test_mappings_that_stay_are_a_leak(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    done = run(script("a", **GOOD, hoard=4), iterations=15, options=("--check",))
    assert done.returncode == 3, done.stdout
    assert summarise(log_of(tmp_path)).verdicts[0].verdict.holder == "mappings"


def test_a_clean_library_is_flat(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    done = run(script("a", **GOOD), script("b", **GOOD), iterations=20, options=("--check",))
    assert done.returncode == 0, done.stdout
    summary = summarise(log_of(tmp_path))
    assert summary.word is Word.FLAT
    readings = [r for r in log_of(tmp_path) if isinstance(r, Reading) and r.point == "after_unload"]
    assert len({(r.memory.mappings, r.memory.threads, r.memory.descriptors) for r in readings[5:]}) == 1


def test_too_short_a_run_is_inconclusive_under_check(
    run: Callable[..., Completed], script: Callable[..., str]
) -> None:
    assert run(script("a", **GOOD), options=("--check",)).returncode == 4


def test_restart_loads_once_and_is_judged_by_model(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    done = run(script("a", **GOOD), script("b", **GOOD), iterations=12, options=("--strategy", "restart"))
    assert done.returncode == 0, done.stderr
    summary = summarise(log_of(tmp_path))
    assert [item.subject for item in summary.verdicts] == ["a", "b"]
    assert [item.verdict.iterations for item in summary.verdicts] == [11, 11]
    for model in summary.models:
        assert model.load_ms is not None and model.restart_ms is not None
        assert (model.load_ms.count, model.restart_ms.count) == (1, 11)
        assert model.load_overhead_bytes is not None
        # the model was loaded in the first cycle and unloaded in the last: no cycle has both readings
        assert model.net_growth_bytes is model.unload_release_bytes is None


def test_several_clips_are_transcribed_in_a_cleared_context(
    run: Callable[..., Completed], script: Callable[..., str], clip: Path, tmp_path: Path
) -> None:
    done = run(script("a", **GOOD), iterations=1, options=("--audio", str(clip)))
    assert done.returncode == 0, done.stderr
    assert len([r for r in log_of(tmp_path) if isinstance(r, Transcription)]) == 2


def test_a_library_that_kills_every_worker_is_one_line(
    command: Callable[..., list[str]], script: Callable[..., str], tmp_path: Path
) -> None:
    environ = os.environ | {"FAKE_DIES": str(tmp_path)}
    done = subprocess.run(
        command(script("a")), cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    (error,) = without_progress(done.stderr).splitlines()
    assert "SIGABRT" in error and "worker-" not in error
    assert done.stdout == "" and not (tmp_path / "out").exists()


def test_the_last_words_of_workers_that_never_start_are_kept(
    command: Callable[..., list[str]], script: Callable[..., str], tmp_path: Path
) -> None:
    source, library = tmp_path / "says.c", tmp_path / "says.so"
    source.write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n"
        '__attribute__((constructor)) static void die(void) { fputs("its last words", stderr); abort(); }\n'
    )
    subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-o", library, source], check=True)
    words = command(script("a", **GOOD), options=("--library", str(library)))
    del words[5:7]  # the fixture's library
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    log = tmp_path / "out" / "worker-2.log"
    assert f"(the worker was killed by SIGABRT); see {log}; name another" in done.stderr
    assert "its last words" in log.read_text()
    assert ending(log_of(tmp_path)) == ("failed", None)


def test_workers_that_no_longer_start_are_failures_and_what_was_measured_is_shown(
    command: Callable[..., list[str]], script: Callable[..., str], tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    environ = os.environ | {"FAKE_DIES": str(gone)}
    words = command(script("a", **GOOD), script("b", crash="load", once=gone), iterations=3)
    done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert without_progress(done.stderr).startswith(
        "asrswitch: 2 failures; the first: iteration 1, b, load: "
    )
    records = log_of(tmp_path)
    failures = [(f.cycle, f.attempt, f.phase, f.signal) for f in records if isinstance(f, Failure)]
    assert failures == [
        (1, 1, "load", "SIGSEGV"),
        (1, 2, "start", "SIGABRT"),
        (2, 1, "start", "SIGABRT"),
        (2, 2, "start", "SIGABRT"),
    ]
    assert [(skip.model, skip.iteration) for skip in records if isinstance(skip, Skip)] == [
        ("b", 1),
        ("a", 2),
    ]
    assert "TTFT" in done.stdout
    assert "0 of 3 iterations done, the run went to its end" in done.stdout


def test_a_disk_that_fills_up_ends_the_run_and_what_was_measured_is_shown(
    command: Callable[..., list[str]], script: Callable[..., str], tmp_path: Path
) -> None:
    limit = ("prlimit", "--fsize=12000", "--")
    words = [*limit, *command(script("a", **GOOD), iterations=50)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = without_progress(done.stderr).splitlines()
    assert "run.jsonl: cannot be written (File too large)" in line
    assert "TTFT" in done.stdout
    assert "of 50 iterations, cut off" in done.stdout


def test_a_worker_log_that_cannot_be_opened_is_one_line(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "out" / "worker-1.log").mkdir(parents=True)
    done = run(script("a", **GOOD))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "worker-1.log" in line
    assert "Is a directory" in line


def test_the_heap_after_a_failed_transcription_is_the_one_after_it(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    run(script("a", error="transcribe", error_leak=500_000), iterations=1)
    held = {r.point: r.malloc.held_bytes for r in log_of(tmp_path) if isinstance(r, Reading) and r.malloc}
    assert held["after_infer"] - held["after_load"] >= 500_000


def test_an_error_about_a_converted_clip_names_the_users_file(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    clip = tmp_path / "mine.flac"
    soundfile.write(clip, np.zeros(8000), 8000)
    done = run(script("a", error="transcribe", error_input=1), options=("--audio", str(clip)), iterations=1)
    messages = [f.message for f in log_of(tmp_path) if isinstance(f, Failure)]
    assert f"told to fail at {{{{audio:{clip}}}}}" in messages, done.stdout
    assert not any("asrswitch-" in message for message in messages)


@pytest.mark.slow
def test_an_ignored_hangup_stays_ignored(
    command: Callable[..., list[str]], script: Callable[..., str], tmp_path: Path
) -> None:
    words = ["nohup", *command(script("a", **GOOD, delay_ms=200), iterations=1)]
    runner = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for((tmp_path / "out" / "worker-1.log").exists)
    runner.send_signal(signal.SIGHUP)
    output, errors = runner.communicate(timeout=30)
    assert runner.returncode == 0, errors
    assert "1 of 1 iterations, complete" in output


def test_records_say_when_they_were_written_and_what_the_engine_said(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    run(script("a", **GOOD, statistics="tokens: generated 4, prompt 9"), iterations=1)
    records = log_of(tmp_path)
    times = [datetime.fromisoformat(r.at) for r in records if r.at]
    assert len(times) == len(records)
    assert times == sorted(times)
    (spoken,) = (r for r in records if isinstance(r, Transcription))
    assert spoken.statistics == ("tokens: generated 4, prompt 9",)
    assert spoken.stages == ()


@pytest.mark.parametrize(
    ("line", "stages"),
    [
        (
            "stage encoder: 45.5 ms, 7 operations int8, 5 operations f32, 61 bytes",
            (Stage("encoder", 45.5, {"int8": 7, "f32": 5}, 61),),
        ),
        ("stage encoder: in no time", ()),
        (f"stage encoder: {'9' * 500} ms", ()),
    ],
)
def test_stages_are_recorded_where_they_can_be_read(
    line: str,
    stages: tuple[Stage, ...],
    run: Callable[..., Completed],
    script: Callable[..., str],
    tmp_path: Path,
) -> None:
    done = run(script("a", **GOOD, statistics=line), iterations=1)
    assert (done.returncode, done.stderr) == (0, "")
    (spoken,) = (r for r in log_of(tmp_path) if isinstance(r, Transcription))
    assert (spoken.statistics, spoken.stages) == ((line,), stages)


def test_preload_and_lock_reach_the_library_and_the_log(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    model = script("a", text="OPTIONS", pieces=4000)
    done = run(model, iterations=1, options=("--preload", "--lock"))
    assert done.returncode == 0, done.stderr
    records = log_of(tmp_path)
    assert isinstance(records[0], Run)
    assert (records[0].plan.preload, records[0].plan.lock) == (True, True)
    (spoken,) = (r for r in records if isinstance(r, Transcription))
    assert spoken.raw.endswith("[--preload][--lock]")


@pytest.mark.slow
def test_every_report_on_a_model_of_random_weights_says_so(clip: Path, tmp_path: Path) -> None:
    model = tmp_path / "tiny.bin"
    synthesise(model, "tiny", TYPES["q4_0"], 0)
    words = [sys.executable, "-m", "asrswitch", "--iters", "1", "--max-new-tokens", "8", "--threads", "1"]
    words += ["--model", f"random={model}", "--model", f"trained={EMBEDDED}", "--reference", "x"]
    words += ["--audio", str(clip), "--out", str(tmp_path / "out"), "--order", "given", "--allow-concurrent"]
    environ = os.environ | {"CHATLLM_ISA": "scalar"}
    outputs = []
    for command in ([*words, "--dry-run"], words, [*words[:3], "report", str(tmp_path / "out")]):
        done = subprocess.run(
            command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "synthetic weights: speed and memory are true, text is not: random\n" in done.stdout
        outputs.append(done.stdout)
    assert re.search(r"WER, % +│ +– │ +[\d.]+ │", outputs[-1])
    records = log_of(tmp_path)
    assert isinstance(records[0], Run)
    assert [m.synthetic for m in records[0].plan.models] == [True, False]
    spoken = [r for r in records if isinstance(r, Transcription)]
    assert all(r.wer is not None for r in spoken)
    # the instruction set can be chosen, and is among what the engine says of itself
    assert all(any("kernels: scalar" in line for line in r.statistics) for r in spoken)
    assert all([stage.name for stage in r.stages] == list(STAGES) for r in spoken)


def test_resident_models_are_all_loaded_in_one_worker_until_the_last_iteration(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    done = run(script("a", **GOOD), script("b", **GOOD), iterations=3, options=("--strategy", "resident"))
    assert done.returncode == 0, done.stderr
    records = log_of(tmp_path)
    assert sum(isinstance(record, WorkerStarted) for record in records) == 1
    assert [record.model for record in records if isinstance(record, Load)] == ["a", "b"]
    spoken = [record.model for record in records if isinstance(record, Transcription)]
    assert spoken == ["a", "b"] * 3
    releases = [(r.model, r.how.value) for r in records if isinstance(r, Release)]
    assert releases == [("a", "restart"), ("b", "restart")] * 2 + [("a", "destroy"), ("b", "destroy")]


def test_isolated_cycles_have_a_process_each_that_is_ready_before_its_turn(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    done = run(script("a", **GOOD), script("b", **GOOD), options=("--strategy", "isolate"))
    assert done.returncode == 0, done.stderr
    records = log_of(tmp_path)
    workers = [record for record in records if isinstance(record, WorkerStarted)]
    assert len({worker.pid for worker in workers}) == len(workers) == 5  # the last stands ready for nothing
    assert all(worker.start_ms and worker.start_ms > 0 for worker in workers)
    assert not any(alive(worker.pid) for worker in workers)
    loads = [(record.cycle, record.worker) for record in records if isinstance(record, Load)]
    assert loads == [(cycle, cycle + 1) for cycle in range(4)]
    releases = [record for record in records if isinstance(record, Release)]
    assert all(release.how.value == "exit" and release.release_ms > 0 for release in releases)
    # What is left after an unload is the process that has its turn next.
    after = [r.worker for r in records if isinstance(r, Reading) and r.point == "after_unload"]
    assert after == [2, 3, 4, 5]


@pytest.mark.parametrize("phase", ["load", "transcribe"])
def test_a_crash_among_resident_or_isolated_models_costs_one_cycle(
    phase: str, run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    for strategy in ("resident", "isolate"):
        out = tmp_path / strategy
        crashes = script("b", **GOOD, crash=phase, once=tmp_path / f"{strategy}-once")
        options = ("--strategy", strategy, "--out", str(out))
        done = run(script("a", **GOOD), crashes, iterations=3, options=options)
        assert done.returncode == 1
        records = read_log(out / "run.jsonl")
        failures = [(r.cycle, r.phase) for r in records if isinstance(r, Failure)]
        assert failures == [(1, phase)]
        spoken = [record.cycle for record in records if isinstance(record, Transcription)]
        assert spoken == [0, 1, 2, 3, 4, 5]  # the second attempt, in a fresh worker
        assert "3 of 3 iterations, complete" in done.stdout


@pytest.mark.parametrize("kind", ["crash", "error", "hang"])
def test_a_model_that_fails_twice_is_skipped_and_the_others_go_on(
    kind: str, run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    settings: dict[str, object] = {kind: "load"}
    options = ("--timeout", "1")
    done = run(script("a", **GOOD), script("bad", **settings), iterations=3, options=options)
    assert done.returncode == 1 and done.stderr.startswith("asrswitch: 1 failure; the first: ")
    records = log_of(tmp_path)
    failures = [(f.cycle, f.attempt, f.phase) for f in records if isinstance(f, Failure)]
    assert failures == [(1, 1, "load"), (1, 2, "load")]
    (skip,) = (record for record in records if isinstance(record, Skip))
    assert (skip.model, skip.cycle) == ("bad", 1) and "failed 2 times" in skip.message
    assert [r.cycle for r in records if isinstance(r, Transcription)] == [0, 2, 4]
    assert ending(records) == ("complete", None)
    assert "warning: bad is left out from iteration 1 on: it failed 2 times in iteration 1" in done.stdout
    assert "0 of 3 iterations done, the run went to its end" in done.stdout


def test_a_run_is_refused_while_another_has_the_machines_lock(
    command: Callable[..., list[str]], script: Callable[..., str], tmp_path: Path
) -> None:
    words = [word for word in command(script("a", **GOOD)) if word != "--allow-concurrent"]
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    with MachineLock(tmp_path):
        done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert f"process {os.getpid()} is measuring" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_run_is_refused_while_another_runs_worker_is_there_and_leaves_it_alone(
    command: Callable[..., list[str]], script: Callable[..., str], tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    words = command(script("slow", **GOOD, hang="transcribe", ready=ready), iterations=1)
    second = [str(tmp_path / "second") if word == str(tmp_path / "out") else word for word in words]
    second.remove("--allow-concurrent")
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        try:
            wait_for(ready.exists)
            environ = os.environ | {"TMPDIR": str(tmp_path)}  # with a lock of its own
            done = subprocess.run(
                second, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
            )
            assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
            assert "holds models of another run; end it, or give --allow-concurrent" in done.stderr
            assert done.stdout == "" and not (tmp_path / "second").exists()
            assert first.poll() is None and alive(worker_pid(tmp_path))
        finally:
            first.terminate()


def test_a_run_that_is_disturbed_loses_that_turn_and_says_how_to_go_on(
    command: Callable[..., list[str]],
    script: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    looks = itertools.count()
    monkeypatch.setattr(guard, "other_workers", lambda ours: [4242] if next(looks) == 1 else [])
    monkeypatch.setattr(guard, "_GRACE_S", 0.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # with a lock of its own
    words = [word for word in command(script("a", **GOOD), iterations=3) if word != "--allow-concurrent"]
    assert main(words[3:]) == 1
    (failure,) = (record for record in log_of(tmp_path) if isinstance(record, Failure))
    assert (failure.iteration, failure.kind) == (2, "refused")
    assert failure.message == (
        "process 4242 holds models of another run; this turn is lost, and the run goes on: end that process, "
        "or stop the run and go on with it by --resume DIR --allow-concurrent"
    )
    assert [r.iteration for r in log_of(tmp_path) if isinstance(r, Transcription)] == [1, 3]
    printed = capsys.readouterr()
    assert "2 of 3 iterations done, the run went to its end" in printed.out
    assert "second attempt" not in printed.err


def test_a_run_in_which_every_cycle_failed_is_not_called_complete(
    run: Callable[..., Completed], script: Callable[..., str]
) -> None:
    done = run(script("a", error="load"), iterations=3)
    assert done.returncode == 1
    assert "0 of 3 iterations done, the run went to its end\n" in done.stdout
    assert "medians" not in done.stdout and "complete" not in done.stdout


@pytest.mark.parametrize("variants", [(), ("--threads", "1,2")])
def test_a_run_that_never_began_prints_its_error_alone_and_leaves_nothing(
    variants: tuple[str, ...], command: Callable[..., list[str]], script: Callable[..., str], tmp_path: Path
) -> None:
    library = tmp_path / "no-library.so"
    library.write_text("no library")
    (tmp_path / "there").mkdir()
    for out in (tmp_path / "out", tmp_path / "there"):
        options = ("--library", str(library), "--out", str(out), *variants)
        words = command(script("a", **GOOD), options=options)
        del words[5:7]  # the fixture's library
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "there").iterdir()) == []  # it is the user's own


@pytest.mark.slow
def test_a_second_attempt_is_told_as_one(
    command: Callable[..., list[str]], script: Callable[..., str], tmp_path: Path
) -> None:
    slow = script("slow", **GOOD, hang="load")
    mended = script("mended", **GOOD, crash="transcribe", once=tmp_path / "once")
    words = command(mended, slow, iterations=1, options=("--timeout", "0.5"))
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    told = [line.partition(": ") for line in done.stderr.splitlines() if line.startswith("[")]
    assert [where for where, _, _ in told] == [
        "[1/2] iteration 1/1 mended",
        "[1/2] iteration 1/1 mended, second attempt",
        "[2/2] iteration 1/1 slow",
        "[2/2] iteration 1/1 slow, second attempt",
    ]
    assert "TTFT" in told[1][2]
    late = "load failed: no answer within 0.5 s; the worker was killed; raise --timeout, if it was only slow"
    assert [facts for _, _, facts in told[2:]] == [late, late]


def test_a_limit_that_no_worker_starts_within_is_named(
    command: Callable[..., list[str]], script: Callable[..., str]
) -> None:
    words = command(script("a", **GOOD), options=("--memory-limit", "2M"))
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    line = without_progress(done.stderr)
    assert line.startswith("asrswitch: --memory-limit 2,097,152 B: no worker starts with it (the worker ")
    assert "; raise it, or, if it is ample for " in line and line.count("\n") == 1


def test_every_unload_is_proven_clean_or_not(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    done = run(script("a", **GOOD), script("leaks", **GOOD, leak=3 << 20), iterations=3)
    assert done.returncode == 0, done.stderr
    slates = [record for record in log_of(tmp_path) if isinstance(record, CleanSlate)]
    assert [slate.model for slate in slates] == ["a", "leaks"] * 3
    assert [slate.clean for slate in slates] == [True, True, True, False, False, False]
    assert not any(slate.mapped for slate in slates)
    assert 9 << 20 <= slates[-1].excess_bytes <= 11 << 20
    assert "warning: after 3 of 6 unloads something of a model was left: up to" in done.stdout
    assert all(0 <= slate.settle_ms < 2000 for slate in slates)


def test_progress_and_the_verdict_so_far_are_on_standard_error(
    command: Callable[..., list[str]], script: Callable[..., str]
) -> None:
    models = (script("a", **GOOD), script("b", **GOOD))
    words = command(*models, iterations=14, options=("--sample-hz", "0"))
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("medians") and "[1/28]" not in done.stdout
    assert without_progress(done.stderr) == ""
    lines = done.stderr.splitlines()
    assert [line.split()[0] for line in lines] == [f"[{number}/28]" for number in range(1, 29)]
    looks = [number for number, line in enumerate(lines, 1) if "memory so far" in line]
    assert looks == [20, 26]


def test_quiet_is_the_result_alone(run: Callable[..., Completed], script: Callable[..., str]) -> None:
    done = run(script("a", **GOOD), options=("--quiet",))
    assert done.stdout.startswith("medians")
    assert done.stderr == ""
