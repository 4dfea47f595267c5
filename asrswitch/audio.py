"""Clips made ready for the engine, which reads 16 kHz mono WAV."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from asrswitch.errors import AudioError, UsageError

SAMPLE_RATE = 16_000
# The official pipeline cuts clips beyond this; memory and repetition grow with length, so a limit is a
# kindness.
MAX_SECONDS = 1_200
_NATIVE_SUBTYPES = {"PCM_16", "PCM_24", "PCM_32", "FLOAT"}
# Some libraries hand the name to a shell, and all find its end by a closing tag.
_PLAIN_NAME = re.compile(r"[\w./+-]+", re.ASCII)
_UNKNOWN_SIZE = 0xFFFFFF00  # this or more is what programs write that cannot know the size, as into a pipe


class PreparedClip(msgspec.Struct, frozen=True):
    """A file that the engine reads, and its length."""

    path: str
    seconds: float


def prepare(clip: Path, directory: Path) -> PreparedClip:
    """Pass a 16 kHz mono WAV as it is; decode, mix down and resample anything else into ``directory``.

    Every clip is decoded once, so that a bad one is found before a model is loaded.

    Raises:
        AudioError: not audio, empty, cut short, longer than ``MAX_SECONDS``, or with samples that are no
            numbers.
        UsageError: a copy is needed and the directory's name is no plain one.
    """
    info = _info(clip)
    if info.frames == 0:
        raise AudioError(f"{clip}: holds no audio; give a clip with at least one sample")
    seconds = info.frames / info.samplerate
    if seconds > MAX_SECONDS:
        raise AudioError(
            f"{clip}: {seconds:,.0f} s long, the limit is {MAX_SECONDS:,} s; cut it into shorter clips"
        )
    samples = _decode(clip)
    riff = is_whole_riff(clip)
    native = riff and info.format == "WAV" and info.samplerate == SAMPLE_RATE and info.channels == 1
    if native and info.subtype in _NATIVE_SUBTYPES and _PLAIN_NAME.fullmatch(str(clip)):
        return PreparedClip(str(clip), seconds)
    if not _PLAIN_NAME.fullmatch(str(directory)):
        raise UsageError(
            f"{directory}: temporary files need a directory of plain letters and digits; name one by TMPDIR"
        )
    samples = soxr.resample(samples.mean(axis=1), info.samplerate, SAMPLE_RATE)
    if not len(samples):
        raise AudioError(f"{clip}: too short to hold one sample at {SAMPLE_RATE} Hz; give a longer clip")
    number = sum(1 for _ in directory.iterdir())
    path = directory / f"clip-{number}.wav"
    write_wav(path, samples)
    return PreparedClip(str(path), len(samples) / SAMPLE_RATE)


def write_wav(file: Path | int, samples: npt.NDArray[np.float32]) -> None:
    """Write mono samples at ``SAMPLE_RATE`` to a file or an open descriptor, which stays open.

    Raises:
        AudioError: there is no room.
    """
    try:
        soundfile.write(file, samples, SAMPLE_RATE, subtype="FLOAT", format="WAV", closefd=False)
    except soundfile.SoundFileError:
        where = "a file in memory" if isinstance(file, int) else file
        raise AudioError(
            f"{where}: a clip's samples cannot be written; make room there, or name another place by TMPDIR"
        ) from None


def _info(clip: Path) -> Any:
    if clip.stat().st_size == 0:
        raise AudioError(f"{clip}: empty file; give a clip with audio")
    try:
        return soundfile.info(str(clip))
    except (
        soundfile.SoundFileError,
        TypeError,
    ):  # soundfile asks for a rate and more when a name ends in .raw
        raise AudioError(
            f"{clip}: not audio that can be decoded; give a WAV, FLAC, OGG or MP3 file"
        ) from None


def is_whole_riff(clip: Path) -> bool:
    """Whether it is a RIFF file; one that is shorter than it says is refused, which soundfile reads."""
    with clip.open("rb") as file:
        end = clip.stat().st_size
        if not file.read(12).startswith(b"RIFF"):
            return False
        while len(head := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", head)
            if size < _UNKNOWN_SIZE and file.tell() + size > end:
                raise AudioError(f"{clip}: cut short, its header says more than is there; copy it again")
            if name == b"data":
                break
            file.seek(size + size % 2, 1)
    return True


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
