"""The command line from outside: what it prints and its exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support import ROOT

Completed = subprocess.CompletedProcess[str]


def asrswitch(*words: str, **environ: str) -> Completed:
    return subprocess.run(
        [sys.executable, "-m", "asrswitch", *words],
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_fits_a_screen_and_shows_examples() -> None:
    done = asrswitch("--help", COLUMNS="120")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) <= 40
    assert "--iters 50" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "--iters"),
        (("--iters", "many"), "--iters"),
        (("--iters", "0"), "--iters"),
        (("--iters", "1", "--strategy", "pray"), "--strategy"),
        (("--iters", "1", "--model", "a=/nowhere.bin"), "/nowhere.bin"),
        (("--iters", "1", "--unknown"), "--unknown"),
        (("report",), "RUN_DIR"),
        (("models",), "convert"),
        (("models", "convert", "a", "b", "--type", "q9"), "q9"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(words: tuple[str, ...], says: str) -> None:
    done = asrswitch(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_report_of_nothing_is_one_line(tmp_path: Path) -> None:
    done = asrswitch("report", str(tmp_path))
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert str(tmp_path) in done.stderr


def test_a_dry_run_prints_the_schedule_and_touches_nothing(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    done = run(script("a"), script("b"), iterations=3, options=("--dry-run",))
    assert done.returncode == 0
    assert "6 cycles, reload" in done.stdout
    assert done.stdout.count("load, transcribe, unload") == 6
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, b"not a library"])
def test_a_library_that_cannot_be_used_is_one_line(
    content: bytes | None, script: Callable[..., str], clip: Path, tmp_path: Path
) -> None:
    library = tmp_path / "lib.so"
    if content is not None:
        library.write_bytes(content)
    out = str(tmp_path / "out")
    words = ("--iters", "1", "--model", script("a"), "--audio", str(clip), "--out", out)
    done = asrswitch(*words, "--library", str(library))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert str(library) in done.stderr


@pytest.mark.parametrize("content", [b"", b"no audio in here", b"RIFF\x04\x00\x00\x00WAVE"])
def test_a_bad_clip_is_one_line(
    content: bytes, run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(content)
    done = run(script("a"), options=("--audio", str(bad)))
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert str(bad) in done.stderr


def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m asrswitch --help | true",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
