"""Summaries whose figures are given, and what the rules say of them."""

from __future__ import annotations

from typing import Any

import msgspec

from asrswitch.plan import Strategy
from asrswitch.rules.facts import Facts, Memory
from asrswitch.rules.recommend import recommend
from asrswitch.rules.result import RuleResult
from asrswitch.rules.thresholds import Thresholds
from asrswitch.stats.trend import Slope
from asrswitch.stats.verdict import Word
from asrswitch.summary import ModelSummary, Spread, SubjectVerdict, Summary, summarise
from helpers.records import MIB, cycle, run_of

replace = msgspec.structs.replace


def spread(value: float, count: int = 5) -> Spread:
    return Spread(count, value, value, value)


def summary_of(iterations: int = 20) -> Summary:
    """Of two models, flat: each takes 30 MiB at its peak above 10, and leaves 1 MiB."""
    turns = (record for index in range(2 * iterations) for record in cycle(index, "ab"[index % 2]))
    return summarise([run_of(iterations), *turns])


FLAT = summary_of()


def model(**changes: Any) -> ModelSummary:
    """Model a, with other figures."""
    return replace(FLAT.models[0], **changes)


def facts(strategy: Strategy = Strategy.RELOAD, free_mib: float = 1000, **thresholds: float) -> Facts:
    """Of a run on a machine with so much memory, whose worker begins with 10 MiB and peaks at 40."""
    memory = Memory("memory of the machine", int(free_mib * MIB))
    return Facts(
        Thresholds(**thresholds),  # type: ignore[arg-type]
        strategy,
        cold=False,
        memory=memory,
        all_memory=memory,
        base_bytes=10 * MIB,
        peak_bytes=40 * MIB,
        file_bytes={"a": 20 * MIB, "b": 10 * MIB},
    )


def verdict(
    word: Word, slope: Slope | None = None, series: tuple[str, ...] = ("heap in use",)
) -> SubjectVerdict:
    """The flat run's verdict with another word, which the named series have too, with that slope."""
    item = FLAT.verdicts[0]
    findings = dict(item.verdict.series)
    for name in series:
        found = findings[name]
        findings[name] = replace(found, verdict=replace(found.verdict, word=word, slope=slope))
    return replace(item, verdict=replace(item.verdict, word=word, series=findings))


def all_rules(summary: Summary, **plan: Any) -> dict[tuple[str, str], RuleResult]:
    """What the rules say, by rule and subject."""
    return {(result.rule, result.subject): result for result in recommend(run_of(20, **plan), summary)}
