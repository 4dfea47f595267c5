"""``python -m asrswitch bench`` from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from asrswitch.bench.floors import CEILING_KINDS
from asrswitch.bench.plan import BenchOptions, make_bench_plan
from asrswitch.bench.report import BenchReport
from asrswitch.native.locate import find_library
from asrswitch.worker.protocol import CeilingMeasured, CeilingOptions
from asrswitch.worker_process import StopSignals, WorkerError, WorkerProcess, worker_program
from support import ROOT, alive, wait_for

QUICK = ("--repetitions", "2", "--warmups", "1", "--max-new-tokens", "8")


def bench(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "asrswitch", "bench", "--allow-concurrent", *words],
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def report_of(*words: str) -> BenchReport:
    done = bench(*QUICK, "--format", "json", *words)
    assert (done.returncode, done.stderr) == (0, "")
    return msgspec.json.decode(done.stdout, type=BenchReport)


@pytest.mark.slow
def test_the_embedded_models_are_measured_by_default() -> None:
    report = report_of("--threads", "1,2")
    assert report.measured.clip_s == 11
    assert set(report.measured.isas) == set(CEILING_KINDS)
    assert len(report.measured.ceilings) == 3 * 2
    assert sum(item.warmup for item in report.measured.ceilings) == 2
    for item in report.measured.ceilings:
        assert set(item.rates) == set(CEILING_KINDS)
        assert all(rate > 0 for rates in item.rates.values() for rate in rates)
    assert len(report.measured.runs) == 3 * 2 * 2
    assert sum(run.warmup for run in report.measured.runs) == 4
    cases = {(case.model, case.threads) for case in report.summary.cases}
    assert cases == {("digits-small", 1), ("digits-large", 1), ("digits-small", 2), ("digits-large", 2)}
    for case in report.summary.cases:
        assert case.ttft_ms and case.ttft_ms.low > 0
        assert case.tokens_per_s and case.tokens_per_s.low > 0
        assert case.generated_tokens and 1 < case.generated_tokens <= 8
    switches = {(item.unloaded, item.loaded) for item in report.summary.switches}
    assert switches == {("digits-small", "digits-large"), ("digits-large", "digits-small")}


@pytest.mark.slow
def test_two_libraries_take_turns() -> None:
    library = str(find_library(None, os.environ))
    report = report_of("--library", library, "--library", library, "--threads", "1")
    order = [(run.repetition, run.model, run.library) for run in report.measured.runs]
    assert order == [
        (repetition, model, name)
        for repetition in range(3)
        for model in ("digits-small", "digits-large")
        for name in ("AB" if repetition % 2 == 0 else "BA")
    ]
    ratios = [item for item in report.summary.ratios if item.figure == "whole input"]
    assert {item.model for item in ratios} == {"digits-small", "digits-large"}
    assert all(item.ratio.count == 2 and item.ratio.low > 0 for item in ratios)


@pytest.mark.slow
def test_stages_of_the_engine_are_held_against_the_ceilings(
    fake_library: Path, clip: Path, script: Callable[..., str]
) -> None:
    """The fake library says what it counted, and what the machine can do is measured with ours."""
    line = "stage first_token: 250.000 ms, 4000000 operations int8, 2000000 operations f32, 1000000 bytes"
    model = script("fake", text="hello", statistics=line)
    report = report_of("--library", str(fake_library), "-m", model, "--audio", str(clip), "--threads", "1")
    (case,) = report.summary.cases
    (stage,) = case.stages
    assert (stage.name, stage.ms.median) == ("first_token", 250)
    assert stage.operations == {"int8": 4000000, "f32": 2000000}
    assert stage.operations_per_s and stage.operations_per_s.median == pytest.approx(24e6)
    assert stage.bytes_per_s and stage.bytes_per_s.median == pytest.approx(4e6)
    assert stage.share and 0 < stage.share.high < 1
    assert (case.ttft_source, case.ttft_ms and case.ttft_ms.median) == ("engine", 250)
    assert case.ttft_over_floor and case.ttft_over_floor.low > 1


@pytest.mark.slow
def test_text_and_markdown_show_the_same_figures(tmp_path: Path) -> None:
    out = tmp_path / "report.md"
    done = bench(*QUICK, "--threads", "1", "-f", "md", "--out", str(out))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    markdown = out.read_text(encoding="utf-8")
    done = bench(*QUICK, "--threads", "1", "-m", str(ROOT / "asrswitch" / "models" / "digits-small.bin"))
    assert done.returncode == 0
    for said in ("what this machine can do at best", "the whole, 1 thread", "TTFT, ms", "digits-small"):
        assert said in markdown
        assert said in done.stdout
    assert "digits-large → digits-small" in markdown
    assert "switches: unload one" not in done.stdout  # one model has none to switch to
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--repetitions", "0"), "--repetitions"),
        (("--warmups", "-1"), "--warmups"),
        (("--threads", "two"), "--threads"),
        (("--threads", "1,1"), "--threads"),
        (("--threads", "0"), "--threads"),
        (("--threads", ""), "--threads"),
        (("--model", "/nowhere.bin"), "/nowhere.bin"),
        (("--audio", "/nowhere.wav"), "/nowhere.wav"),
        (("--max-new-tokens", "0"), "--max-new-tokens"),
        (("--format", "html"), "html"),
        (("--library", "a", "--library", "b", "--library", "c"), "--library"),
        (("extra",), "extra"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(words: tuple[str, ...], says: str) -> None:
    done = bench(*words)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert says in done.stderr


@pytest.mark.slow
def test_what_fails_is_one_line_that_names_the_model(
    fake_library: Path, clip: Path, script: Callable[..., str], tmp_path: Path
) -> None:
    common = (*QUICK, "--library", str(fake_library), "--audio", str(clip), "--threads", "1")
    for settings, says in (
        ({"error": "load"}, "told to fail"),
        ({"crash": "transcribe", "text": "x"}, "SIGSEGV"),
        ({"text": "x", "statistics": "stage mel: soon"}, "stage mel: soon"),
    ):
        out = tmp_path / "out.txt"
        done = bench(*common, "-m", script("broken", **settings), "--out", str(out))
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
        assert says in done.stderr and "broken" in done.stderr
        assert list(tmp_path.glob("*out.txt*")) == []


@pytest.mark.slow
def test_ctrl_c_ends_the_bench_and_its_workers(
    fake_library: Path, clip: Path, script: Callable[..., str], tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    model = script("slow", hang="transcribe", ready=ready)
    words = ["--library", str(fake_library), "--audio", str(clip), "-m", model, "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "asrswitch", "bench", "--allow-concurrent", *words],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(ready.exists)
    workers = [int(pid) for pid in children(process.pid)]
    assert len(workers) == 2  # one holds the model, the other measures ceilings
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, len(said.splitlines())) == (130, 1)
    assert not any(alive(pid) for pid in workers)


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.slow
def test_an_output_that_cannot_be_written_is_found_before_anything_is_measured(tmp_path: Path) -> None:
    done = bench("--out", str(tmp_path / "nowhere" / "report.txt"))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "nowhere" in done.stderr


@pytest.mark.slow
def test_a_worker_measures_ceilings_and_says_what_it_cannot(fake_library: Path, tmp_path: Path) -> None:
    def ask(library: Path, kind: str) -> CeilingMeasured:
        with StopSignals() as stop:
            worker = WorkerProcess(worker_program(str(library)), tmp_path / "worker.log", stop, 20)
            try:
                options = CeilingOptions(kind=kind, threads=1, slices=3, slice_ms=0.5)
                return worker.request({"command": "measure_ceiling", "ceiling": options}, CeilingMeasured, 20)
            finally:
                worker.close()

    ours = find_library(None, os.environ)
    measured = ask(ours, "f32")
    assert measured["isa"]
    assert len(measured["rates"]) == 3 and min(measured["rates"]) > 0
    with pytest.raises(WorkerError, match="no ceiling is called int4"):
        ask(ours, "int4")
    with pytest.raises(WorkerError, match="does not measure ceilings"):
        ask(fake_library, "f32")


@pytest.mark.slow
def test_square_brackets_in_a_label_are_no_markup(
    fake_library: Path, clip: Path, script: Callable[..., str]
) -> None:
    path = script("fake", text="x").partition("=")[2]
    words = ("--library", str(fake_library), "--audio", str(clip), "--threads", "1", "-m", f"a[/b]={path}")
    done = bench(*QUICK, *words, FORCE_COLOR="1")  # the steps are shown as on a terminal
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "a[/b]" in done.stderr
    assert "a[/b]" in done.stdout


@pytest.mark.slow
def test_the_environment_counts_only_where_the_option_is_absent(
    fake_library: Path, clip: Path, script: Callable[..., str]
) -> None:
    words = ("--library", str(fake_library), "--audio", str(clip), "-m", script("fake", text="x"))
    done = bench(*QUICK, *words, "--threads", "1", INFERENCE_THREADS="abc")
    assert (done.returncode, done.stderr) == (0, "")
    done = bench(*QUICK, *words, INFERENCE_THREADS="abc")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "INFERENCE_THREADS=abc" in done.stderr


@pytest.mark.slow
def test_a_path_that_is_too_long_for_a_file_only_with_its_label(
    fake_library: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = "x" * 250
    (tmp_path / model).write_text("text=x\n")
    options = BenchOptions(models=[f"a-label={model}"], audio=str(clip), libraries=[str(fake_library)])
    monkeypatch.chdir(tmp_path)
    assert make_bench_plan(options, {}).models[0].path == str(tmp_path / model)
