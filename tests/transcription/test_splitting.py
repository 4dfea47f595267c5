"""Where audio is cut: properties of any audio, and pauses that are there to be found."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrswitch.audio import SAMPLE_RATE
from asrswitch.transcription.splitting import QUIET, SEARCH, quietest_cut, split

EDGE = 8  # samples of noise beside a pause that may be as quiet as it


def noise(n: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.1, n).astype(np.float32)


@settings(deadline=None)  # the machine may be busy
@given(
    n=st.integers(0, 40_000),
    most=st.integers(300, 12_000),
    block=st.integers(300, 15_000),
    seed=st.integers(0, 9),
    quiet=st.booleans(),
)
def test_chunks_are_the_audio_and_none_is_too_long(
    n: int, most: int, block: int, seed: int, quiet: bool
) -> None:
    audio = np.zeros(n, np.float32) if quiet else noise(n, seed)
    chunks = list(split((audio[at : at + block] for at in range(0, n, block)), most))
    assert np.array_equal(np.concatenate([*chunks, np.zeros(0, np.float32)]), audio)
    assert all(len(chunk) <= most for chunk in chunks)
    assert all(2 * len(chunk) >= most for chunk in chunks[:-1])  # so that there are few
    whole = list(split([audio], most)) if n else []
    assert [len(chunk) for chunk in chunks] == [len(chunk) for chunk in whole]


@settings(deadline=None)  # the machine may be busy
@given(
    at=st.integers(SEARCH // 10, SEARCH - 2 * QUIET),
    length=st.integers(QUIET, 2 * QUIET),
    seed=st.integers(0, 9),
)
def test_a_pause_before_the_limit_is_where_the_cut_is(at: int, length: int, seed: int) -> None:
    audio = noise(3 * SEARCH, seed)
    pause = 2 * SEARCH + at
    audio[pause : pause + length] *= 0.01
    cut = quietest_cut(audio)
    assert pause + QUIET // 2 - EDGE <= cut <= pause + length - QUIET // 2 + EDGE


def test_a_pause_too_far_before_the_limit_is_not_looked_for() -> None:
    audio = noise(3 * SEARCH)
    audio[SEARCH : SEARCH + SAMPLE_RATE] = 0
    assert quietest_cut(audio) > 2 * SEARCH


def test_of_two_pauses_the_quieter_and_of_equal_ones_the_later_is_taken() -> None:
    audio = noise(2 * SEARCH)
    first, second = SEARCH + 20_000, SEARCH + 80_000
    audio[first : first + QUIET] = 0
    audio[second : second + QUIET] *= 0.1
    assert quietest_cut(audio) == first + QUIET // 2
    audio[second : second + QUIET] = 0
    assert quietest_cut(audio) == second + QUIET // 2


def test_a_constant_offset_does_not_hide_a_pause() -> None:
    audio = noise(2 * SEARCH)
    audio[SEARCH + 20_000 : SEARCH + 24_000] *= 0.01
    cut = quietest_cut(audio + np.float32(0.02))
    assert SEARCH + 20_000 < cut < SEARCH + 24_000


@pytest.mark.parametrize("n", [1, 2, QUIET, 2 * QUIET - 2])
def test_too_little_to_search_is_cut_at_its_end(n: int) -> None:
    assert quietest_cut(noise(n)) == n


def test_only_a_chunk_and_a_block_are_read_ahead() -> None:
    read = 0

    def blocks() -> object:
        nonlocal read
        while True:  # an endless recording
            read += 1
            yield noise(1_000)

    chunks = split(blocks(), 10_000)  # type: ignore[arg-type]
    assert len(next(chunks)) <= 10_000
    assert read == 11
