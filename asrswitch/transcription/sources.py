"""Audio from a file, bytes, a file object or an array, as blocks of 16 kHz mono samples.

Never more than a block is held, whatever the length.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from asrswitch.audio import SAMPLE_RATE, is_whole_riff
from asrswitch.errors import AudioError, UsageError
from asrswitch.transcription.splitting import Samples

Source = str | os.PathLike[str] | bytes | bytearray | BinaryIO | npt.NDArray[Any]

_BLOCK_SAMPLES = 1 << 16  # of all channels together
_MOST_CHANNELS = 64
_MOST_RATE = 10_000_000


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read from its beginning to its end.

    What can be seeked in, soundfile seeks in after every read, to where it is; an MP3 decoder then lands
    somewhere else.
    """

    def seekable(self) -> bool:
        return False


def name_of(source: Source) -> str:
    """What messages call it."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, np.ndarray):
        return "array"
    if isinstance(source, (bytes, bytearray)):
        return "bytes"
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "file object"


def check_source(source: Source, rate: float | None) -> None:
    """Refuse what is no source, and a rate that is missing or has no place.

    Raises:
        UsageError: it cannot be audio.
    """
    if isinstance(source, np.ndarray):
        if rate is None:
            raise UsageError("array: has no rate of its own; give rate=, in samples a second")
        if not (math.isfinite(rate) and 1 <= rate <= _MOST_RATE):
            raise UsageError(f"rate is {rate:g}: give samples a second, 1 to {_MOST_RATE:,}")
        if source.dtype.kind != "f" and source.dtype not in (np.int16, np.int32):
            raise UsageError(f"array: of {source.dtype}; give floating-point numbers, int16 or int32")
        if source.ndim not in (1, 2) or (source.ndim == 2 and not 1 <= source.shape[1] <= _MOST_CHANNELS):
            raise UsageError(f"array: of shape {source.shape}; give [frames] or [frames, channels]")
        return
    if not isinstance(source, (str, os.PathLike, bytes, bytearray)) and not hasattr(source, "read"):
        raise UsageError(f"{type(source).__name__}: no audio; give a path, bytes, a file object or an array")
    if rate is not None:
        raise UsageError("rate is for arrays: a file has its own")


def read_blocks(source: Source, rate: float | None) -> Generator[Samples, None, None]:
    """Decode, mix down and resample; each block is 16 kHz mono, and none may be empty.

    Args:
        source: any audio that libsndfile reads, or an array [frames] or [frames, channels].
        rate: of an array.

    Raises:
        AudioError: not audio, empty, cut short, damaged, or with samples that are no numbers.
    """
    name = name_of(source)
    n_samples = 0
    with contextlib.ExitStack() as stack:
        if isinstance(source, np.ndarray):
            assert rate is not None
            file_rate, frames = rate, _array_frames(source)
        else:
            file = stack.enter_context(_open(source, name))
            file_rate, frames = file.samplerate, _file_frames(file, name)
        for block in _mono_16_khz(file_rate, frames):
            if not np.isfinite(block).all():
                raise AudioError(f"{name}: has samples that are not finite numbers; convert it again")
            n_samples += len(block)
            if len(block):
                yield block
    if not n_samples:
        raise AudioError(f"{name}: holds no audio; give a clip with at least one sample at {SAMPLE_RATE} Hz")


@contextlib.contextmanager
def _open(source: str | os.PathLike[str] | bytes | bytearray | BinaryIO, name: str) -> Iterator[_SoundFile]:
    """The file, opened; what cannot be rewound is copied to a temporary file first."""
    with contextlib.ExitStack() as stack:
        if isinstance(source, (str, os.PathLike)):
            path = Path(source)
            try:
                stream = stack.enter_context(path.open("rb"))
            except (OSError, ValueError) as error:  # a null character is a ValueError
                reason = getattr(error, "strerror", None) or str(error)
                raise AudioError(f"{name}: cannot be read ({reason}); check the path") from None
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                path = stack.enter_context(_copy(stream, name))
        else:
            path = stack.enter_context(_copy(source, name))
        if path.stat().st_size == 0:
            raise AudioError(f"{name}: empty; give a clip with audio")
        try:
            is_whole_riff(path)
        except AudioError as error:
            raise AudioError(str(error).replace(str(path), name, 1)) from None
        try:
            file = stack.enter_context(_SoundFile(str(path)))
        except (soundfile.SoundFileError, TypeError):  # it asks for a rate and more when a name ends in .raw
            raise AudioError(
                f"{name}: not audio that can be decoded; give a WAV, FLAC, OGG or MP3 file"
            ) from None
        yield file


@contextlib.contextmanager
def _copy(source: bytes | bytearray | BinaryIO, name: str) -> Iterator[Path]:
    """The path of an unnamed file with the same content."""
    with contextlib.ExitStack() as stack:
        try:
            copy = stack.enter_context(tempfile.TemporaryFile(prefix="asrswitch-"))
            if isinstance(source, (bytes, bytearray)):
                copy.write(source)
            else:
                shutil.copyfileobj(source, copy)
            copy.flush()
        except TypeError:
            raise UsageError(f"{name}: gives text; open it for bytes, with 'rb'") from None
        except OSError as error:
            reason = error.strerror or error
            raise AudioError(
                f"{name}: cannot be copied to {tempfile.gettempdir()} ({reason}); set TMPDIR"
            ) from None
        yield Path(f"/proc/self/fd/{copy.fileno()}")


def _file_frames(file: Any, name: str) -> Iterator[Samples]:
    """[frames, channels] each."""
    n_frames = max(1, _BLOCK_SAMPLES // file.channels)
    while True:
        try:
            block = file.read(n_frames, dtype="float32", always_2d=True)
        except soundfile.SoundFileError:
            raise AudioError(f"{name}: the audio in it is damaged; convert it again") from None
        if not len(block):
            return
        yield block


def _array_frames(array: npt.NDArray[Any]) -> Iterator[Samples]:
    """[frames, channels] each; integers over their range, as files have them."""
    frames = array if array.ndim == 2 else array[:, np.newaxis]
    scale = 1.0 if array.dtype.kind == "f" else 2.0 ** -(8 * array.dtype.itemsize - 1)
    n_frames = max(1, _BLOCK_SAMPLES // frames.shape[1])
    for begin in range(0, len(frames), n_frames):
        yield (frames[begin : begin + n_frames] * scale).astype(np.float32)


def _mono_16_khz(rate: float, blocks: Iterable[Samples]) -> Iterator[Samples]:
    resampler = None
    if rate != SAMPLE_RATE:
        resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
    for block in blocks:
        mono = block.mean(axis=1)
        yield resampler.resample_chunk(mono) if resampler else mono
    if resampler:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
