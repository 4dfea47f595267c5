"""What several tests need: a library without a model, clips, and a way to run the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from helpers.instruction_sets import NEEDS, lacking
from support import ROOT, run_here, without_progress


def pytest_configure() -> None:
    """Let Ctrl-C reach the programs under test, also where a shell started all of this in the background.

    And let them start quickly: byte code is kept, also where the environment says that it is not to be.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Hundreds of processes import the package: one of them compiles it.
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # The threads of OpenBLAS wait for large matrices, which never come: a fifth of a short process's time.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def fake_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/native/fake_chatllm.c, compiled."""
    library = tmp_path_factory.mktemp("library") / "libfake.so"
    source = ROOT / "tests" / "native" / "fake_chatllm.c"
    compiler = os.environ.get("CC", "cc")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source], check=True
    )
    return library


@pytest.fixture(params=NEEDS)
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the engine's in turn, chosen for the test by CHATLLM_ISA."""
    name: str = request.param
    if missing := lacking(name, Path("/proc/cpuinfo").read_text()):
        pytest.skip(f"this processor does not offer {name}: it lacks {', '.join(missing)}")
    monkeypatch.setenv("CHATLLM_ISA", name)
    return name


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second of a quiet tone at 16 kHz, mono, 16-bit."""
    path = tmp_path_factory.mktemp("clip") / "tone.wav"
    soundfile.write(path, 0.1 * np.sin(np.arange(16_000) * 0.2), 16_000, subtype="PCM_16")
    return path


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., str]:
    """Write a "model file" for the fake library, give its --model word: ``script("a", text="x")``."""

    def write(label: str, **settings: object) -> str:
        path = tmp_path / f"{label}.bin"
        path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()), encoding="utf-8")
        return f"{label}={path}"

    return write


@pytest.fixture
def command(fake_library: Path, clip: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The command line of a run with the fake library that logs to ``tmp_path / "out"``."""

    def build(*models: str, iterations: int = 2, options: tuple[str, ...] = ()) -> list[str]:
        words = [
            sys.executable,
            "-m",
            "asrswitch",
            "--iters",
            str(iterations),
            "--library",
            str(fake_library),
        ]
        words += ["--audio", str(clip), "--out", str(tmp_path / "out")]
        words += ["--order", "given", "--allow-concurrent", *options]
        for model in models:
            words += ["--model", model]
        return words

    return build


@pytest.fixture
def run(
    command: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run it to its end: in this process, which has imported all of it, with workers of its own.

    Lines of progress, `[1/4] ...`, are left out of ``stderr``.
    """

    def start(
        *models: str, iterations: int = 2, options: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        words = command(*models, iterations=iterations, options=options)
        monkeypatch.chdir(ROOT)
        done = run_here(*words[3:])  # after `python -m asrswitch`
        return subprocess.CompletedProcess(words, done.returncode, done.stdout, without_progress(done.stderr))

    return start
