"""Loading, transcribing and closing gives everything back, fifty times over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise

import pytest

from support import ROOT
from transcription.speech import SAMPLES

# Tables of the interpreter grow once, within the first twenty cycles.
CYCLES, SETTLED_AFTER = 70, 30
TOLERANCE_BYTES = 64 << 10

# One pool of malloc's and one thread of numpy's, so that anonymous memory is what is held.
STILL = {"MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"}

PROGRAM = """
import gc, json, sys
import asrswitch
from asrswitch.native import open_process
from helpers.cycles import reading
process = open_process()
lines = []
for cycle in range(int(sys.argv[1])):
    with asrswitch.load(("digits-small", "digits-large")[cycle % 2], threads=2) as model:
        for _ in model.transcribe(sys.argv[2], max_chunk=5, stream=True):
            pass
        assert model.transcribe(sys.argv[2]).text
        next(model.transcribe(sys.argv[2], stream=True))  # and dropped
    gc.collect()
    lines.append(reading(process))
print(json.dumps(lines))
"""


@pytest.mark.slow
def test_nothing_is_left_behind() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(CYCLES), str(SAMPLES / "long-zh.wav")],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"} | STILL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    readings = json.loads(done.stdout)
    assert len(readings) == CYCLES
    settled = readings[SETTLED_AFTER - 1]
    # The interpreter takes a piece more at a time; what leaks grows in every cycle.
    pieces = dict.fromkeys(("held_bytes", "anonymous_bytes"), 0)
    for cycle, (before, reading) in enumerate(pairwise(readings[SETTLED_AFTER - 1 :]), SETTLED_AFTER + 1):
        for figure in ("threads", "descriptors"):
            assert reading[figure] == settled[figure], (cycle, figure)
        # The kernel merges neighbours or not; one lost in each cycle would be forty.
        assert abs(reading["mappings"] - settled["mappings"]) <= 2, cycle
        for figure, largest in pieces.items():
            pieces[figure] = max(largest, reading[figure] - before[figure])
            grown = reading[figure] - settled[figure] - pieces[figure]
            assert grown <= TOLERANCE_BYTES, (cycle, figure)
    assert settled["threads"] == 1
