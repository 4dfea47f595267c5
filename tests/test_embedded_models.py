"""The embedded models transcribe: the shipped clips, and digits that nobody has recorded."""

from __future__ import annotations

import random
import shutil
import subprocess
import wave
from pathlib import Path

import pytest
import soundfile
import soxr

import asrswitch
from asrswitch.convert.quantise import TensorType
from asrswitch.figures import split_output
from asrswitch.text import error_rates, normalise
from helpers.container import rewrite
from helpers.engine import Engine

PACKAGE = Path(asrswitch.__file__).parent
MODELS = ["digits-small", "digits-large"]
CLIPS = sorted((PACKAGE / "samples").glob("*.wav"))
N_STRINGS = 200
CER_CEILING = 0.02

HAN = "零一二三四五六七八九"
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def model_path(name: str) -> Path:
    return PACKAGE / "models" / f"{name}.bin"


def transcribe(model: Path, clips: list[Path], *parameters: str) -> list[str]:
    with Engine(model, *parameters) as engine:
        return [engine.run(clip).text for clip in clips]


def test_there_are_clips_longer_than_a_window_and_in_both_languages() -> None:
    assert {clip.stem for clip in CLIPS} >= {"phone-zh", "phone-en", "long-zh", "long-en"}
    for clip in CLIPS:
        with wave.open(str(clip)) as opened:
            seconds = opened.getnframes() / opened.getframerate()
        assert seconds > 8 or not clip.stem.startswith("long")
        assert clip.with_suffix(".txt").read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("name", MODELS)
def test_shipped_clips_have_no_word_error(name: str) -> None:
    for clip, raw in zip(CLIPS, transcribe(model_path(name), CLIPS), strict=True):
        output = split_output(raw)
        reference = clip.with_suffix(".txt").read_text(encoding="utf-8")
        rates = error_rates(normalise(reference), normalise(output.text))
        assert rates and rates.wer == 0, (clip.name, raw)
        assert output.language == {"zh": "Chinese", "en": "English"}[clip.stem[-2:]]


@pytest.mark.parametrize("name", MODELS)
def test_text_is_the_same_by_thread_count(name: str) -> None:
    expected = transcribe(model_path(name), CLIPS)
    for threads in ("1", "3", "7"):
        assert transcribe(model_path(name), CLIPS, "-n", threads) == expected


@pytest.mark.parametrize("name", MODELS)
def test_text_is_the_same_by_instruction_set(name: str, instruction_set: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CHATLLM_ISA")
        expected = transcribe(model_path(name), CLIPS)
    assert transcribe(model_path(name), CLIPS) == expected, instruction_set


@pytest.mark.parametrize("type", [TensorType.F32, TensorType.Q4_0], ids=["f32", "q4_0"])
@pytest.mark.parametrize("name", MODELS)
def test_text_is_the_same_with_other_weights(name: str, type: TensorType, tmp_path: Path) -> None:
    rewrite(model_path(name), tmp_path / "other.bin", type)
    assert transcribe(tmp_path / "other.bin", CLIPS) == transcribe(model_path(name), CLIPS)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Path]]:
    """Digit strings and clips of them, by the plain voices at speeds from 120 to 200 words a minute."""
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed: no speech can be synthesised")
    folder = tmp_path_factory.mktemp("spoken")
    pick = random.Random(20261121)
    clips = []
    for index in range(N_STRINGS):
        digits = [pick.randrange(10) for _ in range(pick.randint(3, 10))]
        voice = pick.choice(["cmn", "en-us"])
        names = pick.choice([HAN if voice == "cmn" else WORDS, "0123456789"])
        words = [names[digit] for digit in digits]
        text = "".join(words) if names is HAN else " ".join(words)
        raw, path = folder / "raw.wav", folder / f"{index}.wav"
        speed = str(pick.randint(120, 200))
        subprocess.run(["espeak-ng", "-v", voice, "-s", speed, "-w", str(raw), text], check=True)
        samples, rate = soundfile.read(raw, dtype="float32")
        soundfile.write(path, soxr.resample(samples, rate, 16000), 16000, subtype="PCM_16")
        clips.append(("".join(map(str, digits)), path))
    return clips


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_fresh_digits(name: str, spoken: list[tuple[str, Path]]) -> None:
    errors, length = 0.0, 0
    for (digits, _), raw in zip(
        spoken, transcribe(model_path(name), [clip for _, clip in spoken]), strict=True
    ):
        rates = error_rates(digits, normalise(split_output(raw).text))
        assert rates
        errors += rates.cer * len(digits)
        length += len(digits)
    print(f"{name}: CER {errors / length:.2%} over {len(spoken)} strings")
    assert errors / length <= CER_CEILING
