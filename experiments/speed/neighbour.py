"""One thread on a quiet machine, two there, and two beside a process that never rests: neighbour.py MODEL.

The neighbour is bound to one processor. The three take turns; what is compared is the median of each.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from engine import Input, load, load_options, scratch_and_workers, started, transcribe, write_clip

ROUNDS = 7
NEW_TOKENS = 48


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    processor = max(os.sched_getaffinity(0))
    busy = subprocess.Popen(
        [sys.executable, "-c", f"import os\nos.sched_setaffinity(0, [{processor}])\nwhile True: pass"]
    )
    try:
        yield
    finally:
        busy.kill()
        busy.wait()


def main() -> None:
    model = Path(sys.argv[1])
    inputs: dict[str, list[Input]] = {}
    with scratch_and_workers() as (scratch, stop):
        clip = scratch / "clip.wav"
        write_clip(clip, 11)
        with started(scratch, stop) as one, started(scratch, stop) as two:
            for process, threads in ((one, 1), (two, 2)):
                load(process, load_options(model, threads, NEW_TOKENS))
                transcribe(process, clip)  # warm-up
            for _ in range(ROUNDS):
                inputs.setdefault("1 thread, quiet", []).append(transcribe(one, clip))
                inputs.setdefault("2 threads, quiet", []).append(transcribe(two, clip))
                with neighbour():
                    inputs.setdefault("2 threads, neighbour", []).append(transcribe(two, clip))
    reference = inputs["1 thread, quiet"]
    print("| | TTFT, ms | of 1 thread's | decode, GB/s | of 1 thread's |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, each in inputs.items():
        ttft, base_ttft = (statistics.median(i.ttft_ms for i in list) for list in (each, reference))
        speed, base = (statistics.median(i.decode_gb_per_s for i in list) for list in (each, reference))
        print(f"| {name} | {ttft:,.0f} | {ttft / base_ttft:.2f} | {speed:.1f} | {speed / base:.2f} |")


if __name__ == "__main__":
    main()
