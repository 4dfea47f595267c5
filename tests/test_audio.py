from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asrswitch.audio import MAX_SECONDS, SAMPLE_RATE, prepare
from asrswitch.errors import AudioError, UsageError
from support import ROOT


def tone(seconds: float, rate: int, hertz: float = 440) -> np.ndarray:
    return 0.25 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT"])
def test_what_the_engine_reads_passes_as_it_is(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(0.5, SAMPLE_RATE), SAMPLE_RATE, subtype=subtype)
    clip = prepare(path, tmp_path)
    assert (clip.path, clip.seconds) == (str(path), 0.5)


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.mp3", "a.wav"])
def test_anything_else_becomes_16_khz_mono_float(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    stereo = np.stack([tone(1.0, 44_100), tone(1.0, 44_100)], axis=1)
    soundfile.write(path, stereo, 44_100)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    clip = prepare(path, scratch)
    info = soundfile.info(clip.path)
    assert (info.format, info.subtype, info.samplerate, info.channels) == ("WAV", "FLOAT", SAMPLE_RATE, 1)
    assert clip.seconds == pytest.approx(1.0, abs=0.06)
    samples, _ = soundfile.read(clip.path)
    spectrum = np.abs(np.fft.rfft(samples[:SAMPLE_RATE]))
    assert np.argmax(spectrum) == pytest.approx(440, abs=2)


def test_a_name_that_would_end_the_tag_or_reach_a_shell_is_copied_to_a_plain_one(tmp_path: Path) -> None:
    path = tmp_path / "a}} $(touch x) b.wav"
    soundfile.write(path, tone(0.5, SAMPLE_RATE), SAMPLE_RATE)
    clip = prepare(path, tmp_path)
    assert Path(clip.path).name == "clip-1.wav"


def test_a_wav_written_into_a_pipe_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(0.5, SAMPLE_RATE), SAMPLE_RATE, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = b"\xff" * 4
    path.write_bytes(content)
    assert prepare(path, tmp_path).seconds == 0.5


def test_a_directory_whose_name_would_end_the_tag_is_refused(tmp_path: Path) -> None:
    path, scratch = tmp_path / "a.flac", tmp_path / "a}}b"
    soundfile.write(path, tone(0.5, 8000), 8000)
    scratch.mkdir()
    with pytest.raises(UsageError, match="TMPDIR"):
        prepare(path, scratch)


def test_silence_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    assert prepare(path, tmp_path).seconds == 1


def bad_clips(directory: Path) -> dict[str, Path]:
    paths = {
        name: directory / f"{name}.wav" for name in ("empty", "text", "headed", "frameless", "long", "noise")
    }
    paths["empty"].write_bytes(b"")
    paths["text"].write_text("this is a letter, not a clip")
    paths["headed"].write_bytes(b"RIFF\x24\x00\x00\x00WAVE")
    soundfile.write(paths["frameless"], np.zeros(0), SAMPLE_RATE)
    # A long file without the bytes: a header over a hole.
    soundfile.write(paths["long"], np.zeros((MAX_SECONDS + 1) * 100), 100)
    paths["noise"].write_bytes(bytes(range(256)) * 40)
    paths["nan"] = directory / "nan.wav"
    soundfile.write(paths["nan"], np.full(8000, np.nan), 8000, subtype="FLOAT")
    paths["flac cut in its header"] = directory / "cut.flac"
    soundfile.write(paths["flac cut in its header"], tone(1, 8000), 8000)
    whole = paths["flac cut in its header"].read_bytes()
    paths["flac cut in its header"].write_bytes(whole[:30])
    for name, seconds in (("cut short", 0.5), ("native nan", np.nan)):
        paths[name] = directory / f"{name}.wav"
        soundfile.write(paths[name], tone(0.5, SAMPLE_RATE) * seconds, SAMPLE_RATE, subtype="FLOAT")
    paths["cut short"].write_bytes(paths["cut short"].read_bytes()[:-1000])
    paths["raw"] = directory / "a.raw"
    paths["raw"].write_bytes(bytes(64))
    paths["a sample"] = directory / "sample.wav"
    soundfile.write(paths["a sample"], np.zeros(1), 192_000)
    return paths


def test_bad_clips_are_one_line_that_names_the_file(tmp_path: Path) -> None:
    for name, path in bad_clips(tmp_path).items():
        with pytest.raises(AudioError) as caught:
            prepare(path, tmp_path)
        assert str(path) in str(caught.value), name
        assert "\n" not in str(caught.value), name


@pytest.mark.parametrize("words", [("--iters", "1", "--audio"), ("transcribe",), ("bench", "--audio")])
def test_no_room_for_a_clip_is_one_line(words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(1, 44_100), 44_100)
    limit = ["prlimit", "--fsize=20000", "--", sys.executable, "-m", "asrswitch", *words, str(path)]
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(limit, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = [line for line in done.stderr.splitlines() if "no --model" not in line]
    assert "cannot be written; make room" in line
