"""Speech with known texts."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from asrswitch.audio import SAMPLE_RATE

SAMPLES = Path(str(resources.files("asrswitch") / "samples"))


def spoken(*names: str, pause_s: float = 0.5) -> npt.NDArray[np.float32]:
    """Samples of this package one after the other, with pauses between them."""
    pause = np.zeros(round(pause_s * SAMPLE_RATE), np.float32)
    parts = []
    for name in names:
        samples, rate = soundfile.read(SAMPLES / f"{name}.wav", dtype="float32")
        assert rate == SAMPLE_RATE
        parts += [samples, pause]
    return np.concatenate(parts[:-1])


def written(*names: str) -> str:
    """Their texts."""
    return " ".join((SAMPLES / f"{name}.txt").read_text(encoding="utf-8").strip() for name in names)
