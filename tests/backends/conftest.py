"""Programs and their configurations, and a way to run them by the command line."""

from __future__ import annotations

import contextlib
import io
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asrswitch.cli import main
from support import ROOT, without_progress

TAKE_TEXT = ("ollama", "transformers", "sentence-transformers")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_backend(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a backend in this process, with workers of its own: ``run_backend("command:a.toml", "a=a.bin")``.

    The log is in ``tmp_path / "out"``.
    """

    def start(
        backend: str, *models: str, iterations: int = 1, options: tuple[str, ...] = (), out: str = "out"
    ) -> subprocess.CompletedProcess[str]:
        words = ["--iters", str(iterations), "--backend", backend, "--out", str(tmp_path / out)]
        words += ["--order", "given", "--allow-concurrent", *options]
        takes_text = backend.partition(":")[0] in TAKE_TEXT
        if not (takes_text or {"--audio", "--prompts"} & {*options}):
            words += ["--audio", str(clip)]
        for model in models:
            words += ["--model", model]
        output, errors = io.StringIO(), io.StringIO()
        monkeypatch.chdir(ROOT)
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            code = main(words)
        said = without_progress(errors.getvalue())
        return subprocess.CompletedProcess(words, code, output.getvalue(), said)

    return start


@pytest.fixture
def run_program(run_backend: Run, tmp_path: Path) -> Run:
    """Run a shell script as the ``command`` backend: ``run_program("echo hello", "a", "b")`` has two models.

    ``configuration`` is added to its file, ``arguments`` to the words of its command line.
    """

    def start(
        source: str, *labels: str, configuration: str = "", arguments: str = "", **options: Any
    ) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "program"
        script.write_text(f"#!/bin/sh\n{source}\n", encoding="utf-8")
        script.chmod(0o755)
        file = tmp_path / "program.toml"
        words = f'"{script}", "{{model}}", "{{audio}}"{arguments}'
        file.write_text(f"command = [{words}]\n{configuration}\n", encoding="utf-8")
        models = []
        for label in labels or ("a",):
            weights = tmp_path / f"{label}.weights"
            weights.write_text("weights " * 512, encoding="utf-8")
            models.append(f"{label}={weights}")
        return run_backend(f"command:{file}", *models, **options)

    return start
