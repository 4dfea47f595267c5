"""What clips of several lengths cost, and the memory they take: length.py MODEL SECONDS..."""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path

from asrswitch.worker.protocol import Command, MemoryNeeds
from engine import TIMEOUT_S, load, load_options, scratch_and_workers, started, transcribe, write_clip

NEW_TOKENS = 48


class Peak:
    """The most anonymous memory of a process while entered, looked at every few milliseconds."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.bytes = 0

    def read(self) -> int:
        match = re.search(r"^RssAnon:\s+(\d+) kB", self._status.read_text(), re.MULTILINE)
        assert match
        return 1024 * int(match.group(1))

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.bytes = max(self.bytes, self.read())

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def main() -> None:
    model = Path(sys.argv[1])
    print(
        "| clip, s | prompt tokens | TTFT, s | TTFT / clip | RTF, 48 tokens | encoder side, ms/s"
        " | prefill, ms/token | anonymous at most, MiB | predicted |"
    )
    print("| ---: |" + " ---: |" * 8)
    with scratch_and_workers() as (scratch, stop):
        for seconds in map(int, sys.argv[2:]):
            clip = scratch / "clip.wav"
            write_clip(clip, seconds)
            options = load_options(model, 2, NEW_TOKENS)
            with started(scratch, stop) as process:
                ask: Command = {"command": "memory_needs", "load": options, "clip_s": float(seconds)}
                needs = process.request(ask, MemoryNeeds, TIMEOUT_S)
                with Peak(process.hello["pid"]) as peak:
                    before = peak.read()
                    load(process, options)
                    if seconds < 120:
                        transcribe(process, clip)  # warm-up
                    result = transcribe(process, clip)
            account = result.account
            stages = {stage.name: stage.ms for stage in account.stages}
            encoder_side = sum(stages[name] for name in ("mel", "convolutions", "encoder", "projector"))
            prompt = account.prompt_tokens or 0
            taken = (peak.bytes - before) / 2**20
            print(
                f"| {seconds} | {prompt} | {result.ttft_ms / 1e3:.2f} | {result.ttft_ms / 1e3 / seconds:.4f}"
                f" | {result.wall_ms / 1e3 / seconds:.4f} | {encoder_side / seconds:.1f}"
                f" | {stages['prefill'] / prompt:.2f} | {taken:.0f} | {needs['peak'] / 2**20:.0f} |"
            )


if __name__ == "__main__":
    main()
