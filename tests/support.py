"""Helpers for tests with real processes."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from asrswitch.cli import main
from helpers.ollama_restart import ended

ROOT = Path(__file__).resolve().parent.parent


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Poll until the condition holds; fail the test when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether any thread of the process is: it may be a zombie while others than its first still run."""
    return not ended(pid)


def without_progress(errors: str) -> str:
    """What a run wrote on standard error beside its lines of progress, ``[1/4] ...``."""
    return "".join(line for line in errors.splitlines(True) if not re.match(r"\[\d+/[\d?]+\] ", line))


def run_here(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """``asrswitch WORDS`` in this process, which has imported all of it."""
    written = io.BytesIO(), io.BytesIO()
    output, errors = (io.TextIOWrapper(file, encoding="utf-8", write_through=True) for file in written)
    with (
        mock.patch.dict(os.environ, environ),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        code = main(words)
    return subprocess.CompletedProcess(words, code, *(file.getvalue().decode() for file in written))
