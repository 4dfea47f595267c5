"""The engine's own tests, so that one command runs everything: built by the `dev` preset and run by ctest."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_native_tests_pass() -> None:
    run("cmake", "--preset", "dev")
    run("cmake", "--build", "--preset", "dev")
    summary = run("ctest", "--preset", "dev")
    assert "100% tests passed" in summary
    assert "No tests were found" not in summary
