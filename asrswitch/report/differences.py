"""Transcripts beside their references, with what differs marked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from asrswitch.records import Record, Run, Transcription

LONGEST = 2_000  # characters of a text that are shown at most: matching takes the square of them
_SHORTEST = 80
_VERSIONS = 3  # of each: the reference, the text, and both with their differences
MOST_TEXTS = 5  # of one model and clip
# Digits and ideographs each by itself, as CER counts; other letters by the word.
_TOKEN = re.compile(r"\d|[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|\s+|\w+|[^\w\s]")


class Piece(msgspec.Struct, frozen=True):
    """A stretch of text that both have, or that is in one only."""

    kind: Literal["same", "missing", "extra"]
    text: str


class Heard(msgspec.Struct, frozen=True):
    """One text that a model gave for a clip, and how often."""

    text: str
    wer: float | None
    cer: float | None
    count: int
    first_iteration: int
    pieces: list[Piece]  # beside the normalised reference; empty where there is none
    cut: int  # characters that are not shown
    check: str | None  # what it says, where there is one


class Transcripts(msgspec.Struct, frozen=True):
    """All that a model gave for a clip; greedy decoding gives one text."""

    model: str
    clip: str
    reference: str | None
    prompt: str | None  # the text that is answered; None of clips
    heard: list[Heard]  # most frequent first
    texts: int  # in all


def transcripts(records: Sequence[Record], budget: int) -> list[Transcripts]:
    """By model and clip, in the order of the run; the more there are, the less is shown of each.

    Args:
        records: of a run.
        budget: characters that all of them may show.
    """
    run = records[0]
    prompts = {prompt.name: prompt.text for prompt in run.plan.prompts} if isinstance(run, Run) else {}
    groups: dict[tuple[str, str], dict[str, list[Transcription]]] = {}
    for record in records:
        if isinstance(record, Transcription) and record.gives == "text":
            by_text = groups.setdefault((record.model, record.clip), {})
            by_text.setdefault(record.text, []).append(record)
    shown = sum(min(len(by_text), MOST_TEXTS) for by_text in groups.values())
    longest = max(_SHORTEST, min(LONGEST, budget // (_VERSIONS * max(shown, 1))))
    found = []
    for (model, clip), by_text in groups.items():
        ordered = sorted(by_text.values(), key=len, reverse=True)
        reference = ordered[0][0].reference
        heard = [_heard(those, longest) for those in ordered[:MOST_TEXTS]]
        prompt = prompts.get(clip)
        found.append(
            Transcripts(
                model,
                clip,
                reference and reference[:longest],
                prompt and prompt[:longest],
                heard,
                len(ordered),
            )
        )
    return found


def differences(reference: str, text: str) -> list[Piece]:
    """The text in pieces, with what of the reference is missing in it where it is missing."""
    before, after = _TOKEN.findall(reference), _TOKEN.findall(text)
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    pieces: list[Piece] = []
    for tag, first, last, begin, end in matcher.get_opcodes():
        if tag == "equal":
            pieces.append(Piece("same", "".join(after[begin:end])))
            continue
        if last > first:
            pieces.append(Piece("missing", "".join(before[first:last])))
        if end > begin:
            pieces.append(Piece("extra", "".join(after[begin:end])))
    return pieces


def _heard(those: Sequence[Transcription], longest: int) -> Heard:
    first = those[0]
    reference = first.reference_normalised
    pieces = [] if reference is None else differences(reference[:longest], first.normalised[:longest])
    return Heard(
        text=first.text[:longest],
        wer=first.wer,
        cer=first.cer,
        count=len(those),
        first_iteration=first.iteration,
        pieces=pieces,
        cut=max(0, max(len(first.text), len(first.normalised), len(reference or "")) - longest),
        check=_check(first),
    )


def _check(record: Transcription) -> str | None:
    if record.check is None:
        return None
    why = f": {record.check.reason}" if record.check.reason else ""
    return f"check {'passed' if record.check.passed else 'failed'}{why}"
