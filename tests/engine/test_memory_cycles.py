"""Unloading gives everything back: 200 cycles of load, transcribe, unload in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from asrswitch.convert import convert
from asrswitch.native.locate import find_library
from helpers.checkpoint import Sizes, write_checkpoint
from support import ROOT

CYCLES = 200
SETTLED_AFTER = 3
TOLERANCE_BYTES = 64 << 10
EXACT = ("mappings", "threads", "descriptors")
WITHIN_TOLERANCE = ("held_bytes", "anonymous_bytes")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models: the embedded ones, or in a tree without them small random ones."""
    embedded = sorted(Path(str(resources.files("asrswitch") / "models")).glob("*.bin"))
    if len(embedded) >= 2:
        return embedded[:2]
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "checkpoint", Sizes(vocab_size=400), seed=1)
    paths = []
    for type in ("q8_0", "f16"):
        paths.append(folder / f"{type}.bin")
        convert(folder / "checkpoint", paths[-1], type)
    return paths


def test_memory_after_each_unload_is_that_after_the_third(models: list[Path], clip: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "tests" / "helpers" / "cycles.py",
            find_library(None, os.environ),
            str(CYCLES),
            *models,
            clip,
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    readings = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(readings) == CYCLES
    third = readings[SETTLED_AFTER - 1]
    for cycle, reading in enumerate(readings[SETTLED_AFTER:], SETTLED_AFTER + 1):
        for figure in EXACT:
            assert reading[figure] == third[figure], (cycle, figure)
        for figure in WITHIN_TOLERANCE:
            assert abs(reading[figure] - third[figure]) <= TOLERANCE_BYTES, (cycle, figure)
    # One thread: those of the engine ended. And it is no empty claim: the model was in memory.
    assert third["threads"] == 1
    assert all(reading["text_bytes"] > 0 for reading in readings)
