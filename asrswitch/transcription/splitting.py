"""Long audio cut into chunks where it is quiet: pure functions over samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from asrswitch.audio import SAMPLE_RATE

Samples = npt.NDArray[np.float32]

# As wide a search, and as long a quiet stretch, as the official pipeline's: it looks 5 s to either side of
# its mark. Here the whole search lies before the mark, so that no chunk exceeds the limit.
SEARCH = 10 * SAMPLE_RATE
QUIET = SAMPLE_RATE // 10


def split(blocks: Iterable[Samples], most: int) -> Iterator[Samples]:
    """Cut audio that comes in blocks into chunks of at most ``most`` samples; together they are the audio.

    Only a chunk and a block are held at a time. What is left is cut as long as it exceeds ``most``, by
    ``quietest_cut``; the last chunk is as short as it happens to be.
    """
    held: list[Samples] = []
    n_held = 0
    for block in blocks:
        held.append(block)
        n_held += len(block)
        if n_held <= most:
            continue
        samples = np.concatenate(held)
        while len(samples) > most:
            cut = quietest_cut(samples[:most])
            yield samples[:cut]
            samples = samples[cut:]
        held, n_held = [samples.copy()], len(samples)
    if n_held:
        yield np.concatenate(held)


def quietest_cut(samples: Samples) -> int:
    """How many samples come before the cut: at least half of them, and at most all.

    The cut is in the middle of the quietest 100 ms (by mean magnitude) of the last 10 s, or of the second
    half if that is less; of equally quiet ones the last. Fewer than 100 ms to search are not divided.
    """
    begin = len(samples) - min(SEARCH, len(samples) // 2)
    magnitudes = np.abs(samples[begin:], dtype=np.float64)
    if len(magnitudes) < QUIET:
        return len(samples)
    sums = np.concatenate([[0.0], np.cumsum(magnitudes)])
    quiet = sums[QUIET:] - sums[:-QUIET]
    last = len(quiet) - 1 - int(np.argmin(quiet[::-1]))
    return begin + last + QUIET // 2
