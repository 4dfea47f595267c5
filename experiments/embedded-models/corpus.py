"""Spoken digit strings: what is said, by whom, how it is recorded; all a function of seed and index."""

from __future__ import annotations

import argparse
import io
import json
import random
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from scipy.signal import butter, fftconvolve, sosfilt

from features import HOP, SAMPLE_RATE, FloatArray, log_mel

ZH = "零一二三四五六七八九"
EN = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

SHARD_SIZE = 1_000
SHORT_SHARDS = 3  # the first shards hold strings of 1 to 5 digits only: the curriculum starts with them

# espeak-ng voices. Plain ones are over-weighted, because they are what the samples are spoken with.
ZH_VOICES = ("cmn", "cmn-latn-pinyin")
EN_VOICES = ("en-us", "en-gb", "en-gb-x-rp", "en-029", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc")
_VARIANTS = (
    "m1 m2 m3 m4 m6 m7 m8 f1 f2 f3 f5 croak klatt klatt2 klatt4 Alex Alicia Andrea Annie Gene Hugo Jacky Lee "
    "Mario Mike adam anika antonio belinda benjamin boris david ed edward grandma grandpa iven john linda "
    "max michel miguel norbert pablo paul quincy rob robert sandro shelby steph travis victor zac"
)
VARIANTS = tuple(_VARIANTS.split())
HELD_OUT_VARIANTS = ("f4", "m5", "Michael", "Storm")
HELD_OUT_ACCENT = "en-gb-scotland"


@dataclass(frozen=True)
class Utterance:
    """One spoken digit string, before it is recorded."""

    language: str  # "Chinese", "English", or "None" for a clip without speech
    digits: str
    spoken: str  # the text given to espeak-ng
    voice: str
    speed: int = 150  # words per minute
    pitch: int = 50
    amplitude: int = 100

    @property
    def text(self) -> str:
        """The transcript."""
        return transcript(self.language, self.digits)


def transcript(language: str, digits: str) -> str:
    """Digits as the models write them: 零九零 in Mandarin, "zero nine zero" in English."""
    if language == "Chinese":
        return "".join(ZH[int(d)] for d in digits)
    return " ".join(EN[int(d)] for d in digits)


def spellings(language: str, digits: str) -> list[str]:
    """The input texts that espeak-ng reads digit by digit (checked with `espeak-ng -x`).

    Digits run together are read as a number unless the first is 0 and there are more than three (010 is
    "zero ten"), so only then are they listed. espeak-ng 1.51 reads Chinese characters under the voice `cmn`
    through the English names of their pinyin (零 as "ling two"): wrong, but it is what a user of that voice
    hears, and the ten digits stay distinct.
    """
    texts = [" ".join(digits), ", ".join(digits)]
    if digits.startswith("0") and len(digits) > 3:
        texts.append(digits)
    if language == "Chinese":
        characters = transcript(language, digits)
        texts += [characters, " ".join(characters), ",".join(digits), "，".join(characters), "-".join(digits)]
    else:
        words = transcript(language, digits).split()
        texts += [" ".join(words), " ".join(words), ", ".join(words), "-".join(words)]
    return texts


def random_digits(rng: random.Random, low: int, high: int) -> str:
    """A random digit string; one in four is rich in repetitions, the hardest thing to count."""
    length = rng.randint(low, high)
    alphabet = "0123456789" if rng.random() < 0.75 else rng.sample("0123456789", 2)
    return "".join(rng.choice(alphabet) for _ in range(length))


def random_utterance(rng: random.Random, short: bool = False) -> Utterance:
    """One utterance of the training distribution; `short` keeps it to 5 digits."""
    if rng.random() < 0.04:
        return Utterance("None", "", "", "")
    chinese = rng.random() < 0.5
    language = "Chinese" if chinese else "English"
    draw = rng.random()
    if short:
        digits = random_digits(rng, 1, 5)
    elif draw < 0.08:
        digits = random_digits(rng, 1, 2)
    elif draw < 0.85:
        digits = random_digits(rng, 3, 10)
    else:
        digits = random_digits(rng, 11, 24)
    plain = rng.random() < 0.55
    if plain:
        voice = rng.choice(("cmn", "cmn", "cmn-latn-pinyin")) if chinese else "en-us"
    else:
        voice = rng.choice(ZH_VOICES if chinese else EN_VOICES) + "+" + rng.choice(VARIANTS)
        if rng.random() < 0.25:
            voice = voice.split("+")[0]
    default_prosody = plain and rng.random() < 0.7
    return Utterance(
        language,
        digits,
        rng.choice(spellings(language, digits)),
        voice,
        rng.randint(110, 220),
        50 if default_prosody else rng.randint(15, 90),
        100 if default_prosody else rng.randint(40, 180),
    )


def synthesise(utterance: Utterance) -> FloatArray:
    """Speak with espeak-ng; 16 kHz mono samples in [-1, 1]."""
    done = subprocess.run(
        ["espeak-ng", "-v", utterance.voice, "-s", str(utterance.speed), "-p", str(utterance.pitch),
         "-a", str(utterance.amplitude), "--stdout", "--", utterance.spoken],
        capture_output=True, check=True,
    )  # fmt: skip
    samples, rate = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
    return np.asarray(soxr.resample(samples, rate, SAMPLE_RATE), dtype=np.float32)


def noise(rng: np.random.Generator, size: int) -> FloatArray:
    """White, pink or mains-hum noise of unit power."""
    kind = rng.integers(3)
    if kind == 0:
        out = rng.standard_normal(size)
    elif kind == 1:
        spectrum = np.fft.rfft(rng.standard_normal(size))
        out = np.fft.irfft(spectrum / np.sqrt(np.arange(spectrum.size) + 1.0), size)
    else:
        time = np.arange(size) / SAMPLE_RATE
        base = rng.choice([50.0, 60.0]) * rng.uniform(0.99, 1.01)
        out = 0.05 * rng.standard_normal(size)
        for harmonic in range(1, 6):
            out += rng.uniform(0.0, 1.0) * np.sin(2 * np.pi * (base * harmonic * time + rng.uniform()))
    unit: FloatArray = (out / np.sqrt(np.mean(out**2) + 1e-12)).astype(np.float32)
    return unit


def record(utterance: Utterance, seed: int) -> tuple[FloatArray, int]:
    """The clip as a microphone or a file might give it, and the samples of silence put before the speech.

    Half of the clips of plain voices stay untouched. The rest get silence around them, and most of those
    colour, reverberation, noise and a level.
    """
    rng = np.random.default_rng(seed)
    if utterance.language == "None":
        size = int(rng.uniform(0.2, 8.0) * SAMPLE_RATE)
        if rng.random() < 0.3:
            return np.zeros(size, np.float32), 0
        return noise(rng, size) * np.float32(10 ** rng.uniform(-4.0, -1.0)), 0
    clip = synthesise(utterance)
    plain = "+" not in utterance.voice
    if plain and rng.random() < 0.5:
        return clip, 0
    lead = int(rng.uniform(0.0, 1.0) * SAMPLE_RATE) if rng.random() < 0.7 else 0
    trail = int(rng.uniform(0.0, 1.0) * SAMPLE_RATE) if rng.random() < 0.7 else 0
    clip = np.pad(clip, (lead, trail))
    if plain and rng.random() < 0.3:
        return clip, lead
    if rng.random() < 0.2:
        low, high = rng.uniform(60.0, 300.0), rng.uniform(3000.0, 7500.0)
        clip = sosfilt(butter(2, [low, high], "bandpass", fs=SAMPLE_RATE, output="sos"), clip).astype(
            np.float32
        )
    if rng.random() < 0.2:
        decay = rng.uniform(0.02, 0.12) * SAMPLE_RATE
        tail = rng.standard_normal(int(4 * decay)) * np.exp(-np.arange(int(4 * decay)) / decay)
        tail *= rng.uniform(0.1, 0.5) / np.sqrt(np.sum(tail**2))
        tail[0] = 1.0
        clip = fftconvolve(clip, tail)[: clip.size].astype(np.float32)
    if rng.random() < 0.6:
        power = float(np.mean(clip**2))
        snr_db = rng.uniform(10.0, 40.0)
        clip = clip + noise(rng, clip.size) * np.float32(np.sqrt(power * 10 ** (-snr_db / 10)))
    peak_db = rng.uniform(-30.0, 0.0)
    clip = clip * np.float32(10 ** (peak_db / 20) / (np.abs(clip).max() + 1e-9))
    return clip.astype(np.float32), lead


def quantise16(clip: FloatArray) -> FloatArray:
    """As a 16-bit file holds it."""
    return (np.clip(np.round(clip * 32768.0), -32768, 32767) / 32768.0).astype(np.float32)


def utterances(seed: int, shard: int) -> Iterator[tuple[Utterance, int]]:
    """The utterances of a shard, each with the seed of its recording."""
    for index in range(shard * SHARD_SIZE, (shard + 1) * SHARD_SIZE):
        rng = random.Random(f"{seed}/{index}")
        yield random_utterance(rng, short=shard < SHORT_SHARDS), rng.getrandbits(32)


def write_shard(directory: Path, seed: int, shard: int) -> None:
    """Write `shard-NNN.npy` (log-mel [all frames, 128] as float16) and `shard-NNN.jsonl`, unless they exist.

    The index is renamed into place last, so its presence means that the shard is whole.
    """
    index_path = directory / f"shard-{shard:03}.jsonl"
    if index_path.exists():
        return
    directory.mkdir(parents=True, exist_ok=True)
    mels, lines = [], []
    for utterance, recording_seed in utterances(seed, shard):
        clip, lead = record(utterance, recording_seed)
        mel = log_mel(quantise16(clip))
        mels.append(mel.astype(np.float16))
        facts = {"frames": len(mel), "lead_frames": lead // HOP, "text": utterance.text, **asdict(utterance)}
        lines.append(json.dumps(facts, ensure_ascii=False))
    temporary = directory / f".shard-{shard:03}"
    with temporary.open("wb") as file:
        np.save(file, np.concatenate(mels))
    temporary.replace(directory / f"shard-{shard:03}.npy")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.replace(index_path)


def main() -> None:
    """Write the shards of the corpus, in order."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=40, help=f"of {SHARD_SIZE} utterances each")
    parser.add_argument("--seed", type=int, default=2026)
    arguments = parser.parse_args()
    for shard in range(arguments.shards):
        write_shard(arguments.out, arguments.seed, shard)
        print(f"shard {shard + 1} of {arguments.shards}", flush=True)


if __name__ == "__main__":
    main()
