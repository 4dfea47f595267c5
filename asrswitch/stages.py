"""The engine's own account of an input, from its statistics lines.

A stage is a line ``stage NAME: MS ms[, N operations KIND]*[, N bytes]``; beside them stand ``tokens:
generated G, prompt P, audio A`` and ``audio: S s``. Libraries that print no such lines give an empty account.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from asrswitch.errors import AsrSwitchError

COMPUTE_KINDS = ("int8", "bf16", "f32")
FIRST_TOKEN, DECODE = "first_token", "decode"
STAGES = ("read", "mel", "convolutions", "encoder", "projector", "prefill", FIRST_TOKEN, DECODE)

# No number is longer than what a record can hold.
_HEAD = re.compile(rf"stage ({'|'.join(STAGES)})\b")
_STAGE = re.compile(
    rf"stage ({'|'.join(STAGES)}): (\d{{1,15}}(?:\.\d{{1,15}})?) ms"
    rf"((?:, \d{{1,16}} operations (?:{'|'.join(COMPUTE_KINDS)})){{,99}})(?:, (\d{{1,16}}) bytes)?",
    re.ASCII,
)
_OPERATIONS = re.compile(r", (\d+) operations (\w+)", re.ASCII)
_TOKENS = re.compile(r"tokens: generated (\d{1,16}), prompt (\d{1,16}), audio (\d{1,16})", re.ASCII)
_AUDIO = re.compile(r"audio: (\d{1,15}(?:\.\d{1,15})?) s", re.ASCII)


class StatisticsError(AsrSwitchError):
    """A statistics line that begins as ours do and goes on otherwise."""


class Stage(msgspec.Struct, frozen=True):
    """A stretch of one input: its time, and what was counted in it."""

    name: str
    ms: float
    operations: dict[str, int] = {}  # by kind; a multiplication and an addition are two
    bytes: int = 0  # of weights and KV cache that must be read from memory once


class Account(msgspec.Struct, frozen=True):
    """All stages of one input, in the order they came; None where the library does not tell."""

    stages: tuple[Stage, ...] = ()
    audio_tokens: int | None = None
    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    audio_s: float | None = None

    def stage(self, name: str) -> Stage | None:
        """The stage of that name."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def to_first_token(self) -> tuple[Stage, ...]:
        """Everything up to the first token, or nothing where the library does not tell when that was."""
        names = [stage.name for stage in self.stages]
        return self.stages[: names.index(FIRST_TOKEN) + 1] if FIRST_TOKEN in names else ()


def parse_account(lines: Sequence[str]) -> Account:
    """Read the statistics lines of one input; lines of other forms are passed over.

    Raises:
        StatisticsError: a line about a stage that does not follow the grammar, or a stage told twice.
    """
    stages: dict[str, Stage] = {}
    tokens: Sequence[int | None] = (None, None, None)
    audio_s: float | None = None
    for line in lines:
        if _HEAD.match(line):
            stage = _parse_stage(line)
            if stage.name in stages:
                raise StatisticsError(f"statistics: stage {stage.name} is told twice; update the library")
            stages[stage.name] = stage
        elif match := _TOKENS.fullmatch(line):
            tokens = [int(count) for count in match.groups()]
        elif match := _AUDIO.fullmatch(line):
            audio_s = float(match[1])
    generated_tokens, prompt_tokens, audio_tokens = tokens
    return Account(tuple(stages.values()), audio_tokens, prompt_tokens, generated_tokens, audio_s)


def _parse_stage(line: str) -> Stage:
    match = _STAGE.fullmatch(line)
    if match is None:
        raise StatisticsError(f"statistics: not a stage's line: {line!r}; update the library or asrswitch")
    name, ms, operations, count = match.groups()
    by_kind: dict[str, int] = {}
    for number, kind in _OPERATIONS.findall(operations):
        by_kind[kind] = by_kind.get(kind, 0) + int(number)
    return Stage(name, float(ms), by_kind, int(count or 0))
