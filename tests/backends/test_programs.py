"""Programs that behave in all the ways that programs do, each through whole runs."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from asrswitch.cli import main
from asrswitch.records import (
    CleanSlate,
    Failure,
    Load,
    Prediction,
    Reading,
    Release,
    Run,
    Timeline,
    Transcription,
    WorkerStarted,
)
from helpers.backend_runs import log_of, summary_of
from helpers.disk import directory_on_disk
from support import ROOT, alive, wait_for

RunProgram = Callable[..., subprocess.CompletedProcess[str]]
MIB = 1 << 20


@pytest.fixture
def model_and_clip(clip: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "m").write_bytes(b"weights")
    return ["--model", f"m={tmp_path}/m", "--audio", str(clip)]


def spoken_of(tmp_path: Path) -> list[Transcription]:
    return [record for record in log_of(tmp_path) if isinstance(record, Transcription)]


def test_what_is_recorded_of_a_program(
    run_program: RunProgram,
    tmp_path: Path,
) -> None:
    source = 'echo "$(basename $1 .weights) heard $(basename $2 .wav)"'
    done = run_program(source, "a", "b", iterations=2, options=("--reference", "a heard tone"))
    assert done.returncode == 0, done.stderr
    records = log_of(tmp_path)
    readings = [(r.iteration, r.model, r.point) for r in records if isinstance(r, Reading)]
    points = ("before_load", "after_infer", "after_unload")
    assert readings == [(i, m, p) for i in (1, 2) for m in "ab" for p in points]
    assert not [record for record in records if isinstance(record, Load | Release)]
    assert all(record.clean for record in records if isinstance(record, CleanSlate))
    run = records[0]
    assert isinstance(run, Run)
    assert run.library == str(tmp_path / "program") and run.sha256[run.library]
    assert run.plan.backend.name == "command" and run.plan.models[0].bytes == 4096
    (started,) = (record for record in records if isinstance(record, WorkerStarted))
    assert started.capabilities and not started.capabilities["loads"]
    spoken = spoken_of(tmp_path)
    assert [(r.model, r.wer) for r in spoken][:2] == [("a", 0), ("b", pytest.approx(1 / 3))]
    assert all(r.figures.tokens is None and r.peak_rss_bytes and not r.left_behind for r in spoken)
    assert "each transcription is a process: TTFT counts from its start, its load included" in done.stdout
    assert {p.failure for p in records if isinstance(p, Prediction)} == {
        "this backend does not predict its memory"
    }
    summary = summary_of(tmp_path)
    assert not summary["loads"] and summary["models"][0]["net_growth_bytes"]["count"] == 2
    assert summary["models"][0]["retained_bytes"]["count"] == 2


def test_text_that_comes_slowly_is_timed_as_it_comes(
    run_program: RunProgram,
    tmp_path: Path,
) -> None:
    source = "sleep 0.25\nfor word in one two three four five; do printf '%s ' $word; sleep 0.05; done"
    source += "; echo '5 tokens' >&2"
    configuration = "streams = true\n[figures]\ntokens = '([0-9]+) tokens'"
    done = run_program(source, configuration=configuration)
    assert done.returncode == 0, done.stderr
    (record,) = spoken_of(tmp_path)
    figures = record.figures
    assert figures.ttft_ms and 250 <= figures.ttft_ms < 400
    assert figures.inference_ms >= 500
    assert (figures.tokens, figures.tokens_source) == (5, "engine")
    assert figures.tokens_per_s == pytest.approx(20, rel=0.3)
    assert record.text == "one two three four five"


def test_what_is_removed_and_what_is_text(
    run_program: RunProgram,
    tmp_path: Path,
) -> None:
    lines = ("loading", "[00:00.0 --> 00:01.0]  one", "[00:01.0 --> 00:02.0]  two", "bye")
    source = "\n".join(f"echo '{line}'; sleep 0.02" for line in lines)
    configuration = "remove = ['\\[[^\\]]*\\] ', '(?m)^bye\\n']\ntext = '(?s)loading\\n(.*)'"
    done = run_program(source, configuration=configuration)
    assert done.returncode == 0, done.stderr
    (record,) = spoken_of(tmp_path)
    assert record.raw == " one\n two\n"
    assert record.text == "one\n two"
    assert record.figures.callbacks == 2  # those without text are left out
    assert record.figures.ttft_ms and record.figures.ttft_ms > 20


def test_figures_that_a_program_reports_are_shown_as_such(
    run_program: RunProgram,
    tmp_path: Path,
) -> None:
    source = (
        "echo 'load time = 1,250.5 ms' >&2\necho 'text in 0.5 s'\necho '7 tokens, of prompt 31, rate nan' >&2"
    )
    configuration = """
remove = [' in .* s']
[figures]
load_ms = 'load time = ([0-9.,]+) ms'
decode_ms = { pattern = 'in ([0-9.]+) s', scale = 1000 }
tokens = '([0-9]+) tokens'
prompt_tokens = 'prompt ([0-9]+)'
rate = 'rate (\\w+)'
missing = 'never ([0-9]+)'
"""
    done = run_program(source, configuration=configuration)
    assert done.returncode == 0, done.stderr
    (record,) = spoken_of(tmp_path)
    assert record.reported == {"load_ms": 1250.5, "decode_ms": 500, "tokens": 7, "prompt_tokens": 31}
    assert (record.figures.tokens, record.figures.tokens_source, record.figures.prompt_tokens) == (
        7,
        "engine",
        31,
    )
    assert record.text == "text"
    assert "load, as it says, ms" in done.stdout and "1250.5" in done.stdout.replace(",", "")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("echo some; echo 'no such model' >&2; exit 3", "program ended with exit code 3: no such model"),
        ("echo 'on stdout'; exit 4", "program ended with exit code 4: on stdout"),
        ("exit 5", "program ended with exit code 5 and said nothing"),
        ("kill -SEGV $$", "program was killed by SIGSEGV and said nothing"),
        (
            "head -c 3000000 /dev/zero | tr '\\0' x; exit 0",
            "program printed more than 1,048,576 bytes and was ended",
        ),
    ],
)
def test_a_failure_is_recorded_and_the_next_model_goes_on(
    source: str,
    says: str,
    run_program: RunProgram,
    tmp_path: Path,
) -> None:
    done = run_program(f"case $1 in *bad.weights) {source};; esac\necho fine", "bad", "good")
    assert done.returncode == 1
    assert says in done.stderr and len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stdout
    (failure,) = (record for record in log_of(tmp_path) if isinstance(record, Failure))
    assert (failure.model, failure.phase, failure.kind) == ("bad", "transcribe", "error")
    assert failure.message.startswith(says)
    assert [record.model for record in spoken_of(tmp_path)] == ["good"]
    assert summary_of(tmp_path)["finished"] == "complete"


def test_megabytes_on_standard_error_are_no_text(
    run_program: RunProgram,
    tmp_path: Path,
) -> None:
    source = "head -c 3000000 /dev/zero | tr '\\0' '\\n' >&2; echo 'done in 7 ms' >&2; echo text"
    configuration = "[figures]\ndone_ms = 'done in ([0-9]+) ms'"
    assert run_program(source, configuration=configuration).returncode == 0
    (record,) = spoken_of(tmp_path)
    assert (record.text, record.reported) == ("text", {"done_ms": 7})


def test_a_hang_ends_by_the_time_limit_with_all_that_it_started(
    run_program: RunProgram,
    tmp_path: Path,
) -> None:
    flag = tmp_path / "hung"
    source = f"[ -e {flag} ] || {{ sleep 77 & echo $! $$ > {flag}; wait; }}\necho text"
    done = run_program(source, iterations=2, options=("--timeout", "0.6"))
    assert done.returncode == 1
    (failure,) = (record for record in log_of(tmp_path) if isinstance(record, Failure))
    assert (failure.phase, failure.kind) == ("transcribe", "timeout")
    assert len(spoken_of(tmp_path)) == 2, "the cycle was tried again"
    wait_for(lambda: not any(alive(int(pid)) for pid in flag.read_text().split()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_ends_with_its_run(number: signal.Signals, model_and_clip: list[str], tmp_path: Path) -> None:
    flag = tmp_path / "started"
    file = tmp_path / "c.toml"
    source = f"echo $$ > {flag}.part; mv {flag}.part {flag}; : {{model}} {{audio}}; exec sleep 55"
    file.write_text(f'command = ["sh", "-c", "{source}"]\n', encoding="utf-8")
    words = [sys.executable, "-m", "asrswitch", "--iters", "1", "--backend", f"command:{file}"]
    words += ["--allow-concurrent", "--out", str(tmp_path / "out"), *model_and_clip]
    runner = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(flag.exists)
    runner.send_signal(number)
    runner.communicate(timeout=20)
    assert runner.returncode == (130 if number is signal.SIGINT else -number)
    wait_for(lambda: not alive(int(flag.read_text())))


def test_bytes_that_are_no_characters_are_replaced(
    run_program: RunProgram,
    tmp_path: Path,
) -> None:
    source = "printf 'a\\377\\351\\233'; sleep 0.05; printf '\\266b\\303'"  # 零 in two parts, and half of ö
    assert run_program(source).returncode == 0
    (record,) = spoken_of(tmp_path)
    assert record.text == "a\ufffd零b\ufffd"


def test_a_program_that_prints_nothing_makes_the_run_invalid(
    run_program: RunProgram,
    tmp_path: Path,
) -> None:
    done = run_program("true", configuration="text = '(.+)'", options=("--check",))
    assert done.returncode == 5
    assert "INVALID: a gave no text" in done.stdout


def test_text_that_the_pattern_does_not_match_is_an_error(
    run_program: RunProgram,
    tmp_path: Path,
) -> None:
    done = run_program("echo other", configuration="text = 'text: (.+)'")
    assert done.returncode == 1
    assert "is matched by text = 'text: (.+)'; it begins with 'other'" in done.stderr


@pytest.mark.parametrize("how", ["sleep 66 &", "(setsid sleep 66 > /dev/null 2>&1 &)"])
def test_what_a_program_leaves_behind_is_ended_and_told(
    how: str,
    run_program: RunProgram,
    tmp_path: Path,
) -> None:
    began = time.monotonic()
    done = run_program(f"{how}\necho text")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 20
    (record,) = spoken_of(tmp_path)
    assert record.left_behind == ("sleep",)
    assert record.figures.inference_ms < 500, "waiting for what was left is no part of it"
    assert "transcriptions of a left processes behind, which were ended: 1 in all, sleep" in done.stdout
    sleeping = subprocess.run(["pgrep", "-f", "^sleep 66$"], capture_output=True, check=False)
    assert sleeping.stdout == b""


def test_memory_of_a_program_is_measured_from_outside(
    run_program: RunProgram,
    tmp_path: Path,
) -> None:
    source = "dd if=/dev/zero of=/dev/null bs=64M count=12 2>/dev/null\necho text"
    done = run_program(source, options=("--sample-hz", "100"))
    assert done.returncode == 0, done.stderr
    records = log_of(tmp_path)
    (record,) = spoken_of(tmp_path)
    assert record.peak_rss_bytes == pytest.approx(64 * MIB, rel=0.1)
    (summary,) = summary_of(tmp_path)["models"]
    assert summary["peak_above_load_bytes"] == pytest.approx(64 * MIB, rel=0.1)
    readings = {r.point: r.memory for r in records if isinstance(r, Reading)}
    seen = max(n for r in records if isinstance(r, Timeline) for n in r.samples.anonymous_bytes)
    assert seen - readings["before_load"].anonymous_bytes == pytest.approx(64 * MIB, rel=0.1)
    assert readings["after_infer"].rss_bytes - readings["before_load"].rss_bytes < MIB


def test_its_files_are_cold_or_warm_and_what_it_reads_is_counted(
    run_program: RunProgram, tmp_path: Path
) -> None:
    with directory_on_disk() as directory:
        (directory / "weights").write_bytes(b"w" * (8 * MIB))
        options = ("--model", f"dir={directory}", "--cache", "cold,warm")
        done = run_program('cat "$1"/* > /dev/null 2>&1; echo text', iterations=2, options=options)
    assert done.returncode == 0, done.stderr
    assert re.search(r"dir, cold against warm: TTFT .* 8\.0 against 0\.0 MiB read from disk", done.stdout)


def test_words_environment_and_directory_are_as_the_file_says(
    run_program: RunProgram,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ', "{model_dir}|{model_name}", "{threads}", "{max_new_tokens}", "{", ["-l", "{language}"]'
    arguments += ', ["-c={context}"], ["{language_code}", "{context}"]'
    monkeypatch.setenv("INHERITED", "inherited")
    done = run_program(
        'printf "%s\\n" "$@"; echo "$GIVEN $INHERITED"; pwd',
        configuration='[environment]\nGIVEN = "given"',
        arguments=arguments,
        options=("--threads", "3", "--language", "zh", "--max-new-tokens", "9"),
    )
    assert done.returncode == 0, done.stderr
    said = spoken_of(tmp_path)[0].raw.splitlines()
    assert said[0] == f"{tmp_path}/a.weights"
    assert said[1].endswith("tone.wav")
    assert said[2:8] == [f"{tmp_path}|a.weights", "3", "9", "{", "-l", "Chinese"]
    assert said[8] == "given inherited"
    directory = log_of(tmp_path)[0].plan.backend.configuration["directory"]  # type: ignore[union-attr]
    assert said[9] == directory


def test_a_run_that_was_stopped_goes_on(
    run_program: RunProgram,
    tmp_path: Path,
) -> None:
    assert run_program("echo text", iterations=2).returncode == 0
    log = tmp_path / "out" / "run.jsonl"
    lines = log.read_bytes().splitlines(True)
    cut = next(n for n, line in enumerate(lines) if b'"record":"transcription"' in line)
    log.write_bytes(b"".join(lines[: cut + 1]))
    assert main(["--resume", str(tmp_path / "out"), "--quiet"]) == 0
    assert summary_of(tmp_path)["iterations_done"] == 2
    log.write_bytes(b"".join(lines[: cut + 1]))
    (tmp_path / "program").unlink()
    assert main(["--resume", str(tmp_path / "out"), "--quiet"]) == 2


def test_a_worker_a_cycle_and_several_clips(
    run_program: RunProgram,
    tmp_path: Path, clip: Path,
) -> None:  # fmt: skip
    options = ("--strategy", "isolate", "--audio", str(clip), "--audio", str(clip))
    done = run_program("echo text", "a", "b", iterations=2, options=options)
    assert done.returncode == 0, done.stderr
    assert len(spoken_of(tmp_path)) == 8
    releases = [record for record in log_of(tmp_path) if isinstance(record, Release)]
    assert [record.how.value for record in releases] == ["exit"] * 4
