"""What the tests with injected faults need."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from injected import Inject, injector

_MEMORY = Path("/dev/shm")


@pytest.fixture
def inject(
    run: Callable[..., subprocess.CompletedProcess[str]], script: Callable[..., str]
) -> Iterator[Inject]:
    """Run fake models: see ``injected.injector``. The log is in memory where it can be: a disk is slow."""
    where = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="asrswitch-faults-", dir=where) as directory:
        yield injector(run, script, Path(directory) / "out")
