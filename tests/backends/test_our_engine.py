"""Our own engine as any other program: the records, verdict, reports and comparison that the library has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import asrswitch
from asrswitch.cli import main
from asrswitch.native.locate import find_library
from asrswitch.records import Reading, Transcription
from helpers.backend_runs import log_of, summary_of
from support import ROOT

RunBackend = Callable[..., subprocess.CompletedProcess[str]]
PACKAGE = Path(asrswitch.__file__).parent
MODELS = [str(PACKAGE / "models" / f"digits-{size}.bin") for size in ("small", "large")]
CLIP = ("--audio", str(PACKAGE / "samples" / "phone-zh.wav"))
SCRIPT = """
import sys, time
from asrswitch.native import PRINT_TEXT, ffi, open_library

library = open_library(sys.argv[1])
began = time.monotonic()
engine = library.chatllm_create()
for word in ("-m", sys.argv[2], "-n", sys.argv[4], "--temp", "0", "--multimedia_file_tags", "{{", "}}"):
    library.chatllm_append_param(engine, word.encode())

@ffi.callback("f_chatllm_print")
def show(_user, kind, text):
    if kind == PRINT_TEXT:
        sys.stdout.buffer.write(ffi.string(text))
        sys.stdout.buffer.flush()

@ffi.callback("f_chatllm_end")
def end(_user):
    pass

assert library.chatllm_start(engine, show, end, ffi.NULL) == 0
print(f"loaded in {time.monotonic() - began:.6f} s", file=sys.stderr)
assert library.chatllm_user_input(engine, b"{{audio:" + sys.argv[3].encode() + b"}}") == 0
library.chatllm_destroy(engine)
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    """A program of a few lines around the library, and the --backend word."""
    (tmp_path / "engine.py").write_text(SCRIPT, encoding="utf-8")
    file = tmp_path / "engine.toml"
    file.write_text(
        f"""command = [
  "{sys.executable}", "-S", "{tmp_path}/engine.py", "{find_library(None, os.environ)}", "{{model}}",
  "{{audio}}", "{{threads}}",
]
streams = true
[figures]
load_ms = {{ pattern = 'loaded in ([0-9.]+) s', scale = 1000 }}
[environment]
PYTHONPATH = "{ROOT}:{":".join(path for path in sys.path if path.endswith("site-packages"))}"
""",
        encoding="utf-8",
    )
    return f"command:{file}"


def check(tmp_path: Path, iterations: int, out: str = "out") -> None:
    """Everything that a run of so many iterations leaves."""
    records = log_of(tmp_path, out)
    spoken = [record for record in records if isinstance(record, Transcription)]
    assert len(spoken) == 2 * iterations
    assert {(record.text, record.wer) for record in spoken} == {("零九零零零七三三三一", 0)}
    assert all(r.peak_rss_bytes and r.peak_rss_bytes > 14 << 20 and not r.left_behind for r in spoken)
    assert sum(isinstance(record, Reading) for record in records) == 6 * iterations
    summary = summary_of(tmp_path, out)
    assert summary["iterations_done"] == iterations
    assert not summary["failures"] and not summary["invalid"]
    for model in summary["models"]:
        assert model["cycles"] == iterations and model["wer"] == 0
        assert model["peak_above_load_bytes"] > 10 << 20
        assert model["load_ms"] is model["unload_ms"] is model["switch_ms"] is None


@pytest.mark.slow
def test_a_program_around_the_library(
    script: str, run_backend: RunBackend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_and_compare(script, 3, run_backend, tmp_path, capsys)


@pytest.mark.slow
def test_20_iterations_of_it(
    script: str, run_backend: RunBackend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_and_compare(script, 20, run_backend, tmp_path, capsys)
    for out in ("out", "again"):
        assert [item["verdict"]["word"] for item in summary_of(tmp_path, out)["verdicts"]] == ["flat"]


def run_and_compare(
    script: str,
    iterations: int,
    run_backend: RunBackend,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two runs with all that they leave, reports of one in every format, and their comparison."""
    for out in ("out", "again"):
        options = (*CLIP, "--threads", "2")
        done = run_backend(script, *MODELS, iterations=iterations, options=options, out=out)
        assert done.returncode == 0, done.stderr
        check(tmp_path, iterations, out)
        for record in log_of(tmp_path, out):
            if isinstance(record, Transcription):
                assert 0 < record.reported["load_ms"] < (record.figures.ttft_ms or 0)
                assert record.language == "Chinese" and record.figures.tokens is None
    check_reports(tmp_path, capsys)
    assert main(["compare", str(tmp_path / "out"), str(tmp_path / "again")]) == 0
    said = capsys.readouterr().out
    assert "the program is the same on both sides, bit for bit" in said and "TTFT" in said


def check_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = {
        "text": ("load, as it says, ms", "TTFT counts from its start, its load included"),
        "md": ("load, as it says, ms", "| command | ", "| TTFT | each transcription is a process"),
        "html": ("load, as it says, ms", "<dt>program</dt>", "its load included", "from its process"),
        "csv": ("reported_load_ms_median", ",command,", "peak_bytes"),
        "json": ('"reported": {', '"loads": false', '"backend": {'),
    }
    for form, texts in wanted.items():
        assert main(["report", str(tmp_path / "out"), "--format", form]) == 0
        said = capsys.readouterr().out
        if form == "html":
            said = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        assert not [text for text in texts if text not in said], form


def test_runs_of_different_backends_are_not_compared(
    script: str, run_backend: RunBackend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (*CLIP, "--threads", "2")
    assert run_backend(script, *MODELS, options=options).returncode == 0
    assert run_backend("chatllm", *MODELS, options=options, out="library").returncode == 0
    runs = [str(tmp_path / "library"), str(tmp_path / "out")]
    assert main(["compare", *runs]) == 2
    assert "backend: chatllm against command" in capsys.readouterr().err
    assert main(["compare", "--force", *runs]) == 0


@pytest.mark.slow
def test_the_transcribe_verb_as_the_program(run_backend: RunBackend, tmp_path: Path) -> None:
    file = tmp_path / "transcribe.toml"
    words = ", ".join(f'"{w}"' for w in (sys.executable, "-m", "asrswitch", "transcribe", "-m", "{model}"))
    file.write_text(
        f'command = [{words}, "{{audio}}"]\n[environment]\nPYTHONPATH = "{ROOT}"\n', encoding="utf-8"
    )
    done = run_backend(f"command:{file}", *MODELS, iterations=20, options=CLIP)
    assert done.returncode == 0, done.stderr
    check(tmp_path, 20)
    assert [item["verdict"]["word"] for item in summary_of(tmp_path)["verdicts"]] == ["flat"]
