"""Log-mel features of Qwen3-ASR (those of Whisper with 128 bands), in numpy."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000
N_FFT = 400
HOP = 160
N_MELS = 128
MIN_SAMPLES = 8_000

FloatArray = npt.NDArray[np.float32]


def _mel_to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Slaney's scale: linear to 1 kHz (15 mel), logarithmic above."""
    linear = mel * (200.0 / 3.0)
    logarithmic = 1000.0 * np.exp(np.log(6.4) / 27.0 * (mel - 15.0))
    return np.where(mel >= 15.0, logarithmic, linear)


@cache
def mel_filters() -> npt.NDArray[np.float64]:
    """Triangular bands of unit area (Slaney's normalisation), [201, 128]."""
    top = 15.0 + 27.0 / np.log(6.4) * np.log(SAMPLE_RATE / 2 / 1000.0)
    edges = _mel_to_hz(np.linspace(0.0, top, N_MELS + 2))
    bins = np.linspace(0.0, SAMPLE_RATE / 2, N_FFT // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))


def log_mel(samples: FloatArray) -> FloatArray:
    """Normalised log-mel [frames, 128] of 16 kHz mono samples, frames = floor(samples / 160).

    Clips under 0.5 s are padded with zeros at the end, and a peak above 1 is scaled back to 1.
    """
    if samples.size == 0:
        raise ValueError("empty audio has no log-mel")
    clip = samples.astype(np.float64)
    clip /= max(1.0, float(np.abs(clip).max()))
    if clip.size < MIN_SAMPLES:
        clip = np.pad(clip, (0, MIN_SAMPLES - clip.size))
    frames = clip.size // HOP
    padded = np.pad(clip, N_FFT // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP][:frames]
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(N_FFT) / N_FFT)
    power = np.abs(np.fft.rfft(windows * hann, axis=1)) ** 2
    mel = np.log10(np.maximum(power @ mel_filters(), 1e-10))
    mel = np.maximum(mel, mel.max() - 8.0)
    normalised: FloatArray = ((mel + 4.0) / 4.0).astype(np.float32)
    return normalised
