"""The memory that the engine predicts is what it takes, as seen from outside while it transcribes."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from asrswitch.convert import TYPES
from asrswitch.convert.synth import synthesise
from asrswitch.memory_prediction import MemoryOptions, MemoryPrediction, make_question, predict_memory
from asrswitch.native.locate import find_library
from asrswitch.worker.protocol import Command, Done, Transcribed
from asrswitch.worker_process import StopSignals, WorkerProcess, worker
from helpers.golden import read_wav, write_wav

MODELS = ["tiny", "digits-small", "digits-large"]
CLIP_SECONDS = [1, 11, 30]
SAMPLES_PER_S = 16_000
PERIOD_S = 0.001
# How much more than what is seen may be predicted: fewer new tokens may come than are allowed for, and a
# sample every millisecond may miss the highest moment.
SLACK_RATIO, SLACK_BYTES = 1.5, 4 << 20
_TIMEOUT_S = 60.0


class AnonymousPeak:
    """Reads another process's RssAnon (proc(5)) every millisecond while entered; bytes."""

    def __init__(self, pid: int) -> None:
        self._status = os.open(f"/proc/{pid}/status", os.O_RDONLY)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.bytes = self.read()

    def read(self) -> int:
        found = re.search(rb"RssAnon:\s+(\d+) kB", os.pread(self._status, 4096, 0))
        assert found
        return int(found[1]) * 1024

    def __enter__(self) -> AnonymousPeak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        os.close(self._status)

    def _watch(self) -> None:
        while not self._ended.wait(PERIOD_S):
            self.bytes = max(self.bytes, self.read())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    tiny = tmp_path_factory.mktemp("models") / "tiny.bin"
    synthesise(tiny, "tiny", TYPES["q4_0"], 0)
    embedded = Path(str(resources.files("asrswitch") / "models"))
    return {"tiny": tiny} | {name: embedded / f"{name}.bin" for name in MODELS[1:]}


@pytest.fixture(scope="module")
def stop() -> Iterator[StopSignals]:
    with StopSignals() as signals:
        yield signals


def load_command(model: Path, prediction: MemoryPrediction) -> Command:
    asked = prediction.question
    return {
        "command": "load",
        "load": {
            "model": str(model),
            "threads": asked.threads,
            "context": asked.context,
            "language": None,
            "max_new_tokens": asked.max_new_tokens,
            "preload": False,
            "lock": False,
        },
    }


def measure(process: WorkerProcess, load: Command, clip: Path) -> tuple[int, int]:
    """What loading added to the worker's anonymous memory, and the most until the clip was transcribed twice.

    The second input finds what the first left.
    """
    with AnonymousPeak(process.hello["pid"]) as peak:
        before = peak.bytes
        process.request(load, Done, _TIMEOUT_S)
        loaded = peak.read()
        for _ in range(2):
            process.request({"command": "transcribe", "audio": str(clip)}, Transcribed, _TIMEOUT_S)
        highest = max(peak.bytes, peak.read())
    process.request({"command": "unload"}, Done, _TIMEOUT_S)
    return loaded - before, highest - before


@pytest.mark.parametrize("seconds", CLIP_SECONDS)
@pytest.mark.parametrize("name", MODELS)
def test_the_prediction_holds(
    name: str, seconds: int, models: dict[str, Path], stop: StopSignals, tmp_path: Path
) -> None:
    speech = read_wav(Path(str(resources.files("asrswitch") / "samples" / "long-zh.wav")))
    clip = tmp_path / "clip.wav"
    write_wav(clip, np.resize(speech, seconds * SAMPLES_PER_S))
    model = models[name]
    question = make_question(MemoryOptions(clip_s=seconds, threads=2), {})
    prediction = predict_memory(model, model.stat().st_size, question, os.environ, stop)
    assert isinstance(prediction, MemoryPrediction), prediction
    with worker(find_library(None, os.environ), tmp_path / "worker.log", stop) as process:
        loaded, peak = measure(process, load_command(model, prediction), clip)
    numbers = f"loaded {loaded:,}, peak {peak:,}, predicted {prediction}"
    print(numbers)
    assert 0 < loaded <= peak, numbers
    assert peak <= prediction.anonymous_bytes, numbers
    assert prediction.anonymous_bytes <= SLACK_RATIO * peak + SLACK_BYTES, numbers
