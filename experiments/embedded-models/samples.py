"""The spoken samples that ship with the package, each a WAV file and its text."""

from __future__ import annotations

from pathlib import Path

import soundfile

from corpus import Utterance, synthesise
from features import SAMPLE_RATE, FloatArray

PHONE = "0900073331"
LONG_ZH = "3141592653589793"
LONG_EN = "1618033988749894"


SAMPLES = {
    "phone-zh": Utterance("Chinese", PHONE, " ".join(PHONE), "cmn", 150),
    "phone-en": Utterance("English", PHONE, " ".join(PHONE), "en-us", 150),
    "long-zh": Utterance("Chinese", LONG_ZH, ", ".join(LONG_ZH), "cmn", 120),
    "long-en": Utterance("English", LONG_EN, ", ".join(LONG_EN), "en-us", 130),
}


def peak_at(clip: FloatArray, peak: float) -> FloatArray:
    """The clip at another level."""
    scaled: FloatArray = clip * (peak / abs(clip).max())
    return scaled


def write_samples(directory: Path) -> None:
    """Write NAME.wav (16 kHz, mono, 16 bits) and NAME.txt for each sample."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, utterance in SAMPLES.items():
        soundfile.write(
            directory / f"{name}.wav", peak_at(synthesise(utterance), 0.7), SAMPLE_RATE, subtype="PCM_16"
        )
        (directory / f"{name}.txt").write_text(utterance.text + "\n", encoding="utf-8")
