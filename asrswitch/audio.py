"""Clips made ready for the engine, which reads 16 kHz mono WAV."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from asrswitch.errors import AudioError

SAMPLE_RATE = 16_000
# The official pipeline cuts clips beyond this; memory and repetition grow with length, so a limit is a
# kindness.
MAX_SECONDS = 1_200
_NATIVE_SUBTYPES = {"PCM_16", "PCM_24", "PCM_32", "FLOAT"}
# Some libraries hand the name to a shell, and all find its end by a closing tag.
_PLAIN_NAME = re.compile(r"[\w./+-]+", re.ASCII)


class PreparedClip(msgspec.Struct, frozen=True):
    """A file that the engine reads, and its length."""

    path: str
    seconds: float


def prepare(clip: Path, directory: Path) -> PreparedClip:
    """Pass a 16 kHz mono WAV as it is; decode, mix down and resample anything else into ``directory``.

    Raises:
        AudioError: not audio, empty, longer than ``MAX_SECONDS``, or with samples that are no numbers.
    """
    info = _info(clip)
    if info.frames == 0:
        raise AudioError(f"{clip}: holds no audio; give a clip with at least one sample")
    seconds = info.frames / info.samplerate
    if seconds > MAX_SECONDS:
        raise AudioError(
            f"{clip}: {seconds:,.0f} s long, the limit is {MAX_SECONDS:,} s; cut it into shorter clips"
        )
    native = info.format == "WAV" and info.samplerate == SAMPLE_RATE and info.channels == 1
    if native and info.subtype in _NATIVE_SUBTYPES and _PLAIN_NAME.fullmatch(str(clip)):
        return PreparedClip(str(clip), seconds)
    samples = soxr.resample(_decode(clip).mean(axis=1), info.samplerate, SAMPLE_RATE)
    number = sum(1 for _ in directory.iterdir())
    path = directory / f"clip-{number}.wav"
    soundfile.write(path, samples, SAMPLE_RATE, subtype="FLOAT", format="WAV")
    return PreparedClip(str(path), len(samples) / SAMPLE_RATE)


def _info(clip: Path) -> Any:
    if clip.stat().st_size == 0:
        raise AudioError(f"{clip}: empty file; give a clip with audio")
    try:
        return soundfile.info(str(clip))
    except soundfile.SoundFileError:
        raise AudioError(
            f"{clip}: not audio that can be decoded; give a WAV, FLAC, OGG or MP3 file"
        ) from None


def _decode(clip: Path) -> npt.NDArray[np.float32]:
    """Samples, [frames, channels]."""
    try:
        samples, _ = soundfile.read(str(clip), dtype="float32", always_2d=True)
    except soundfile.SoundFileError:
        raise AudioError(f"{clip}: the audio in it is damaged; convert it again") from None
    if not len(samples):
        raise AudioError(f"{clip}: holds no audio; give a clip with at least one sample")
    if not np.isfinite(samples).all():
        raise AudioError(f"{clip}: has samples that are not finite numbers; convert it again")
    return np.asarray(samples, dtype=np.float32)
