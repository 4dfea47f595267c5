"""A model in a worker, for the measurements beside this file."""

from __future__ import annotations

import contextlib
import os
import tempfile
import wave
from collections.abc import Iterator
from pathlib import Path

import msgspec

from asrswitch.native.locate import find_library
from asrswitch.stages import Account, parse_account
from asrswitch.worker.protocol import Done, LoadOptions, Transcribed
from asrswitch.worker_process import StopSignals, WorkerProcess, worker

SAMPLES = Path(__file__).parents[2] / "asrswitch" / "samples"
TIMEOUT_S = 1800.0


class Input(msgspec.Struct, frozen=True):
    """What one transcription took."""

    wall_ms: float
    account: Account

    @property
    def ttft_ms(self) -> float:
        return sum(stage.ms for stage in self.account.to_first_token())

    @property
    def decode_gb_per_s(self) -> float:
        decode = self.account.stage("decode")
        assert decode
        return decode.bytes / decode.ms / 1e6


def write_clip(path: Path, seconds: int) -> None:
    """An embedded sample, repeated and cut to a length."""
    with wave.open(str(SAMPLES / "long-zh.wav")) as source:
        rate, samples = source.getframerate(), source.readframes(source.getnframes())
    n_bytes = 2 * rate * seconds
    with wave.open(str(path), "wb") as clip:
        clip.setnchannels(1)
        clip.setsampwidth(2)
        clip.setframerate(rate)
        clip.writeframes((samples * (n_bytes // len(samples) + 1))[:n_bytes])


@contextlib.contextmanager
def scratch_and_workers() -> Iterator[tuple[Path, StopSignals]]:
    with tempfile.TemporaryDirectory() as folder, StopSignals() as stop:
        yield Path(folder), stop


def load_options(model: Path, threads: int, new_tokens: int) -> LoadOptions:
    return {
        "model": str(model.resolve()),
        "threads": threads,
        "context": None,
        "language": None,
        "max_new_tokens": new_tokens,
        "preload": False,
        "lock": False,
    }


@contextlib.contextmanager
def started(scratch: Path, stop: StopSignals) -> Iterator[WorkerProcess]:
    with worker(find_library(None, os.environ), scratch / "worker.log", stop) as process:
        yield process


def load(process: WorkerProcess, options: LoadOptions) -> None:
    process.request({"command": "load", "load": options}, Done, TIMEOUT_S)


def transcribe(process: WorkerProcess, clip: Path) -> Input:
    reply = process.request({"command": "transcribe", "audio": str(clip)}, Transcribed, TIMEOUT_S)
    return Input(
        (reply["returned_ns"] - reply["submitted_ns"]) / 1e6,
        parse_account(reply["statistics"]),
    )
