"""Runs that never were: their figures are known, and vary as they are told to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from asrswitch.compare.comparison import Comparison, Figure, compare
from asrswitch.compare.figures import At
from asrswitch.compare.runs import LoggedRun, Side
from asrswitch.records import End, Load, OfCycle, Reading, Record, Release, Transcription
from asrswitch.schedule import make_rounds
from helpers.records import cycle, run_of

NONE = (1.0,)


def make_run(
    name: str = "run",
    iterations: int = 24,
    seed: int = 0,
    spread: float = 0.01,
    ttft: float = 1.0,
    decode: float = 1.0,
    held_a_cycle: int = 0,
    machine: tuple[float, ...] = NONE,
    begins: tuple[float, ...] = (0.0,),
    wer: float | None = 0.0,
    **plan: Any,
) -> LoggedRun:
    """A run of models `a` and `b` whose times are noisy, by ``spread``.

    Args:
        name: of its directory.
        iterations: its length.
        seed: of its noise.
        spread: of its times, as a part.
        ttft: how many times as long the first text takes.
        decode: how many times as long all further text takes.
        held_a_cycle: bytes that malloc's callers hold more of after each cycle.
        machine: how many times as long all takes, round by round.
        begins: hour at which each round begins.
        wer: of all texts.
        plan: what its plan has otherwise.
    """
    head = run_of(iterations, **plan)
    random = np.random.default_rng(seed)
    records: list[Record] = [head]
    for number, cycles in enumerate(make_rounds(head.plan)):
        slow = machine[number % len(machine)]
        start = begins[number % len(begins)]
        for place, one in enumerate(cycles):
            at = f"2026-01-01T{int(start):02}:{int(start % 1 * 60):02}:{place:02}.000+00:00"
            noise = (slow * np.exp(random.normal(0, spread, 4))).tolist()
            for record in cycle(one.index, one.model.label, wer=wer, how=one.release, load=one.load):
                records.append(_vary(record, at, noise, ttft, decode, held_a_cycle * one.index))
    return LoggedRun(Path("/runs", name, "run.jsonl"), [*records, End(reason="complete")])


def _vary(record: Record, at: str, noise: Sequence[float], ttft: float, decode: float, held: int) -> Record:
    assert isinstance(record, OfCycle)
    replace = msgspec.structs.replace
    record = replace(record, at=at)
    if isinstance(record, Load):
        return replace(record, load_ms=100.0 * noise[0])
    if isinstance(record, Release):
        return replace(record, release_ms=10.0 * noise[1])
    if isinstance(record, Reading) and record.malloc:
        return replace(record, malloc=replace(record.malloc, held_bytes=record.malloc.held_bytes + held))
    if isinstance(record, Transcription):
        figures = replace(
            record.figures,
            ttft_ms=50.0 * noise[2] * ttft,
            chars_per_s=200.0 / noise[3] / decode,
            tokens_per_s=100.0 / noise[3] / decode,
            rtf=0.1 * noise[2] * ttft,
        )
        return replace(record, figures=figures)
    return record


def side(*runs: LoggedRun, name: str = "") -> Side:
    """A side of these runs."""
    return Side(name or runs[0].path.parent.name, list(runs))


def compared(first: Side | LoggedRun, second: Side | LoggedRun) -> Comparison:
    """Two sides compared."""
    return compare([item if isinstance(item, Side) else side(item) for item in (first, second)])


def figure(comparison: Comparison, key: str, model: str = "a") -> Figure:
    """One figure of the first pair, at its median."""
    those = comparison.pairs[0].figures
    (found,) = (f for f in those if (f.key, f.model, f.at) == (key, model, At.MEDIAN))
    return found


def changed(comparison: Comparison) -> set[tuple[str, str]]:
    """Figures that differ, as (figure, word)."""
    return {(f.key, f.word.value) for pair in comparison.pairs for f in pair.figures if f.differs}
