"""Decoding's share of the read bandwidth there is at that moment: bandwidth.py SECONDS MODEL...

Where a machine is shared its bandwidth jumps from second to second, and a share of a median tells little.
Here it is read just before and after each input, of a second and 24 tokens, and an input counts where the two
agree. Two threads; the models take turns.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

from asrswitch.worker.protocol import CeilingMeasured
from asrswitch.worker_process import WorkerProcess
from engine import TIMEOUT_S, load, load_options, scratch_and_workers, started, transcribe, write_clip

NEW_TOKENS = 24
AGREES = 1.15  # the highest slice over the lowest
STEP_GB_PER_S = 10


def read_ceiling(process: WorkerProcess) -> list[float]:
    ceiling = {"kind": "read", "threads": 2, "slices": 4, "slice_ms": 4.0}
    reply = process.request({"command": "measure_ceiling", "ceiling": ceiling}, CeilingMeasured, TIMEOUT_S)
    return [rate / 1e9 for rate in reply["rates"]]


def main() -> None:
    seconds, models = float(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    shares: dict[tuple[int, str], list[float]] = defaultdict(list)
    left_out = 0
    with scratch_and_workers() as (scratch, stop), contextlib.ExitStack() as stack:
        clip = scratch / "clip.wav"
        write_clip(clip, 1)
        gauge, *processes = (stack.enter_context(started(scratch, stop)) for _ in range(1 + len(models)))
        for process, model in zip(processes, models, strict=True):
            load(process, load_options(model, 2, NEW_TOKENS))
            transcribe(process, clip)  # warm-up
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            for process, model in zip(processes, models, strict=True):
                before = read_ceiling(gauge)
                decoded = transcribe(process, clip).decode_gb_per_s
                slices = before + read_ceiling(gauge)
                if max(slices) > AGREES * min(slices):
                    left_out += 1
                    continue
                rate = statistics.mean(slices)
                step = int(rate // STEP_GB_PER_S) * STEP_GB_PER_S
                shares[step, model.name].append(100 * decoded / rate)
    print(f"| read, GB/s | {' | '.join(model.name for model in models)} |")
    print(f"| --- |{' ---: |' * len(models)}")
    for step in sorted({step for step, _ in shares}):
        cells = [told(shares[step, model.name]) for model in models]
        print(f"| {step} to {step + STEP_GB_PER_S} | {' | '.join(cells)} |")
    print(f"\n{left_out} inputs left out: the bandwidth changed")


def told(shares: list[float]) -> str:
    """Median, quartiles and number; nothing of fewer than four."""
    if len(shares) < 4:
        return "–"
    low, middle, high = statistics.quantiles(shares, n=4)
    return f"{middle:.1f} ({low:.1f} to {high:.1f}; {len(shares)})"


if __name__ == "__main__":
    main()
