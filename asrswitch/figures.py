"""From the worker's times to the figures of one transcription: pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

HEADER_END = "<asr_text>"

# Ours says `tokens: generated N, prompt M`; chatllm.cpp `prompt eval time = … / M tokens` and `eval time = …
# / N tokens`. A number too long for a record is none.
_COUNT = r"(\d{1,16})(?!\d)"
_GENERATED = re.compile(rf"generated\s+{_COUNT}|(?<!prompt )\beval time\s*=.*?/\s*{_COUNT}\s+tokens")
_PROMPT = re.compile(rf"\bprompt\s+{_COUNT}|prompt eval time\s*=.*?/\s*{_COUNT}\s+tokens")
_LANGUAGE = re.compile(r"\s*language\s+(.+?)\s*\Z", re.DOTALL)


class Output(msgspec.Struct, frozen=True):
    """What the engine wrote, taken apart: `language English<asr_text>The text.`"""

    language: str | None
    text: str


class Figures(msgspec.Struct, frozen=True):
    """Times in ms from the submission of the input; see the design's table for the definitions."""

    inference_ms: float
    rtf: float | None  # None for a clip of no length
    callbacks: int
    text_callbacks: int
    characters: int
    first_callback_ms: float | None
    ttft_ms: float | None
    chars_per_s: float | None
    tokens: int | None
    tokens_source: Literal["engine", "callbacks"] | None
    tokens_per_s: float | None
    prompt_tokens: int | None


def split_output(raw: str) -> Output:
    """Split at the first `<asr_text>`; without it everything is text. `language None` means no language."""
    head, found, text = raw.partition(HEADER_END)
    if not found:
        return Output(None, raw.strip())
    match = _LANGUAGE.match(head)
    language = match.group(1) if match else None
    return Output(None if language == "None" else language, text.strip())


def figure_out(
    pieces: Sequence[tuple[int, str]],
    submitted_ns: int,
    returned_ns: int,
    audio_s: float,
    statistics: Sequence[str],
    reported: Mapping[str, float] | None = None,
    streams: bool = True,
) -> Figures:
    """Compute the figures of one transcription.

    Args:
        pieces: time (ns) and text of each text callback, in order; the header may be split over several.
        submitted_ns: when the input was submitted.
        returned_ns: when the call returned.
        audio_s: length of the clip.
        statistics: the engine's own statistics lines; token counts are taken from them where they are there.
        reported: what a program says of itself, ``tokens`` and ``prompt_tokens`` among it; None where the
            callbacks are the engine's. What is read of a program may hold several tokens, or half of one.
        streams: whether each token is handed over as it is made.

    ``chars_per_s`` counts the characters that came after the first text callback, over the time from the
    first to the last. ``tokens`` are the engine's count, or else the callbacks with text, and
    ``tokens_source`` says which. ``tokens_per_s`` counts the callbacks of any kind after the first, over the
    time from the first to the last: the engine's count has tokens that no callback shows, such as the last.
    Of a program they are the tokens after the first that it reports, over the same time.
    """
    raw = "".join(text for _, text in pieces)
    begins = raw.index(HEADER_END) + len(HEADER_END) if HEADER_END in raw else 0
    begins += len(raw[begins:]) - len(raw[begins:].lstrip())
    ends = len(raw.rstrip())
    carried: list[tuple[int, int]] = []  # (time, transcript characters) of callbacks that carry any
    position = 0
    for at, text in pieces:
        characters = min(position + len(text), ends) - max(position, begins)
        position += len(text)
        if characters > 0:
            carried.append((at, characters))
    inference_ns = returned_ns - submitted_ns
    generated = _count_of("tokens", reported, _GENERATED, statistics)
    counts = streams and reported is None  # each callback is a token
    spoken = sum(bool(text) for _, text in pieces) if counts else 0
    after_first = len(pieces) - 1 if counts else (generated or 0) - 1
    tokens = spoken if generated is None else generated
    return Figures(
        inference_ms=inference_ns / 1e6,
        rtf=inference_ns / 1e9 / audio_s if audio_s > 0 else None,
        callbacks=len(pieces),
        text_callbacks=len(carried),
        characters=sum(characters for _, characters in carried),
        first_callback_ms=(pieces[0][0] - submitted_ns) / 1e6 if pieces else None,
        ttft_ms=(carried[0][0] - submitted_ns) / 1e6 if carried else None,
        chars_per_s=_rate(sum(n for _, n in carried[1:]), carried[0][0], carried[-1][0]) if carried else None,
        tokens=tokens or None,
        tokens_source=None if not tokens else "callbacks" if generated is None else "engine",
        tokens_per_s=_rate(after_first, pieces[0][0], pieces[-1][0]) if pieces and streams else None,
        prompt_tokens=_count_of("prompt_tokens", reported, _PROMPT, statistics),
    )


def _rate(count: int, first_ns: int, last_ns: int) -> float | None:
    return count / ((last_ns - first_ns) / 1e9) if last_ns > first_ns and count > 0 else None


def _count_of(
    name: str, reported: Mapping[str, float] | None, pattern: re.Pattern[str], lines: Sequence[str]
) -> int | None:
    told = (reported or {}).get(name)
    return _last_count(pattern, lines) if told is None else round(told)


def _last_count(pattern: re.Pattern[str], lines: Sequence[str]) -> int | None:
    for line in reversed(lines):
        match = pattern.search(line)
        if match:
            return int(next(group for group in match.groups() if group is not None))
    return None
