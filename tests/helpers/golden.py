"""What the golden references are about: the checkpoint and the clips. numpy only."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from helpers.checkpoint import Sizes

FOLDER = Path(__file__).parent.parent / "golden"

SEED = 2026
# Every width differs from every other, so that a mix-up shows; grouped queries; an output matrix of its own.
SIZES = Sizes(
    hidden_size=192,
    heads=6,
    kv_heads=2,
    head_dim=64,
    layers=3,
    intermediate_size=320,
    vocab_size=1024,
    audio_width=128,
    audio_heads=2,
    audio_layers=3,
    audio_intermediate_size=256,
    conv_channels=40,
)

# Frames of a mel kept in a reference; longer ones are thinned.
_MAX_FRAMES = 300


def speech() -> NDArray[np.int16]:
    """Eleven seconds of speech at 16 kHz."""
    return read_wav(FOLDER / "speech.wav")


def long_speech() -> NDArray[np.int16]:
    """Thirty seconds: the speech, it backwards, and its beginning at half the level."""
    forwards = speech()
    return np.concatenate([forwards, forwards[::-1], forwards[:128_000] // 2])


CLIPS: dict[str, Callable[[], NDArray[np.int16]]] = {
    "speech_0.3s": lambda: speech()[6_000:10_800],
    "speech_0.7s": lambda: speech()[20_000:31_200],
    # 297 frames and a part of one: the last chunk of 97 frames keeps all of its 13 columns.
    "speech_2.975s": lambda: speech()[40_000:87_600],
    "speech_3s": lambda: speech()[88_000:136_000],
    "speech_11s": speech,
    "speech_30s": long_speech,
    "silence_1s": lambda: np.zeros(16_000, np.int16),
}


def mel_frames(count: int) -> NDArray[np.int64]:
    """The frames of `count` that a reference keeps: all, or the ends and a sample between."""
    if count <= _MAX_FRAMES:
        return np.arange(count)
    between = np.linspace(4, count - 5, 92).round().astype(np.int64)
    return np.concatenate([np.arange(4), between, np.arange(count - 4, count)])


def read_wav(path: Path) -> NDArray[np.int16]:
    """The samples of a 16-bit mono WAV file of 16 kHz."""
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000), path
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def write_wav(path: Path, samples: NDArray[np.int16]) -> None:
    """Write a 16-bit mono WAV file of 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.astype("<i2").tobytes())
