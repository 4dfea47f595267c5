"""Audio in any form, as the engine wants it."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from asrswitch.audio import SAMPLE_RATE, prepare
from asrswitch.errors import AudioError, UsageError
from asrswitch.transcription.sources import Source, check_source, read_blocks


def read(source: Source, rate: float | None = None) -> npt.NDArray[np.float32]:
    check_source(source, rate)
    blocks = list(read_blocks(source, rate))
    assert all(block.dtype == np.float32 and block.ndim == 1 and len(block) for block in blocks)
    return np.concatenate(blocks)


def tone(seconds: float, rate: int, hertz: float = 440) -> npt.NDArray[np.float64]:
    return 0.25 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    [
        ("a.wav", 16_000, 1),
        ("a.wav", 8_000, 1),
        ("a.flac", 44_100, 2),
        ("a.ogg", 48_000, 2),
        ("a.mp3", 44_100, 1),
    ],
)
def test_files_are_read_as_the_benchmark_reads_them(
    tmp_path: Path, name: str, rate: int, channels: int
) -> None:
    path = tmp_path / name
    soundfile.write(path, np.stack([tone(9.5, rate, 200 * (i + 1)) for i in range(channels)], axis=1), rate)
    (scratch := tmp_path / "scratch").mkdir()
    expected, _ = soundfile.read(prepare(path, scratch).path, dtype="float32")
    samples = read(path)
    assert len(samples) == len(expected)
    assert np.allclose(samples, expected, atol=1e-6)
    assert np.array_equal(read(str(path)), samples)
    assert np.array_equal(read(path.read_bytes()), samples)
    assert np.array_equal(read(io.BytesIO(path.read_bytes())), samples)
    with path.open("rb") as file:
        assert np.array_equal(read(file), samples)


def test_what_cannot_be_rewound_is_read_too(tmp_path: Path, clip: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(clip.read_bytes()))
    writer.start()
    samples = read(pipe)
    writer.join()
    assert np.array_equal(samples, read(clip))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16, np.int32])
def test_arrays_of_all_kinds(dtype: npt.DTypeLike) -> None:
    wanted = tone(1, SAMPLE_RATE)
    scale = 1.0 if np.dtype(dtype).kind == "f" else np.iinfo(np.dtype(dtype)).max
    array = (wanted * scale).astype(dtype)
    assert np.allclose(read(array, SAMPLE_RATE), wanted, atol=2e-4)
    stereo = np.stack([array, array], axis=1)
    assert np.allclose(read(stereo, SAMPLE_RATE), wanted, atol=2e-4)
    assert len(read(array, 8_000)) == 2 * len(array)


def test_no_more_than_a_block_is_held(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 48_000, 2, subtype="PCM_16") as file:
        for _ in range(10):
            file.write(np.zeros((48_000, 2), np.int16))
    assert max(len(block) for block in read_blocks(path, None)) <= 1 << 15


BAD = {
    "empty": b"",
    "text": b"this is a letter, not a clip",
    "headed": b"RIFF\x24\x00\x00\x00WAVE",
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("as_file", [True, False])
def test_what_is_no_audio_is_said_in_one_line(kind: str, as_file: bool, tmp_path: Path) -> None:
    path = tmp_path / f"{kind}.wav"
    path.write_bytes(BAD[kind])
    source: Source = path if as_file else path.read_bytes()
    with pytest.raises(AudioError) as caught:
        read(source)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: " if as_file else "bytes: ")


def test_audio_that_is_cut_short_is_refused(tmp_path: Path, clip: Path) -> None:
    whole = clip.read_bytes()
    with pytest.raises(AudioError, match="bytes: cut short"):
        read(whole[: len(whole) // 2])
    flac = io.BytesIO()
    soundfile.write(flac, np.random.default_rng(0).normal(0, 0.1, 160_000), SAMPLE_RATE, format="FLAC")
    with pytest.raises(AudioError, match=r"bytes: .*(damaged|cannot be decoded)"):
        read(flac.getvalue()[: len(flac.getvalue()) // 2])


def test_samples_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(AudioError, match="not finite"):
        read(np.array([0.0, np.nan, 0.0]), SAMPLE_RATE)


def test_no_samples_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.wav"
    soundfile.write(path, np.zeros(0), SAMPLE_RATE)
    for source, rate in ((path, None), (np.zeros(0), SAMPLE_RATE), (np.zeros(1), 10_000_000)):
        with pytest.raises(AudioError, match="holds no audio"):
            read(source, rate)


@pytest.mark.parametrize("path", ["/nowhere/a.wav", "/", "a\0b", "x" * 300])
def test_a_path_that_cannot_be_read_is_named(path: str) -> None:
    with pytest.raises(AudioError, match="cannot be read") as caught:
        read(path)
    assert path in str(caught.value)


def test_a_file_object_is_called_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"no audio")
    with path.open("rb") as file, pytest.raises(AudioError, match=str(path)):
        read(file)
    with path.open() as file, pytest.raises(UsageError, match="'rb'"):
        read(file)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "rate", "says"),
    [
        (np.zeros(9), None, "rate="),
        (np.zeros(9), 0, "rate is 0"),
        (np.zeros(9), float("nan"), "rate is nan"),
        (np.zeros(9, np.int64), SAMPLE_RATE, "int64"),
        (np.zeros(9, complex), SAMPLE_RATE, "complex"),
        (np.zeros((2, 16_000)), SAMPLE_RATE, r"\[frames, channels\]"),
        (np.zeros(()), SAMPLE_RATE, "shape"),
        (7, None, "int"),
        (None, None, "NoneType"),
        ("a.wav", SAMPLE_RATE, "rate is for arrays"),
    ],
)
def test_what_cannot_be_meant_is_refused(source: Source, rate: float | None, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check_source(source, rate)
