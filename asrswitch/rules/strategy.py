"""Which strategy is the best, as ``asrswitch.strategies`` finds it, where the verdicts let it be said."""

from __future__ import annotations

from collections.abc import Sequence

from asrswitch.plan import Plan
from asrswitch.rules.result import OURS, Figure, Rule, RuleResult
from asrswitch.stats.verdict import Word
from asrswitch.strategies import AS_GOOD, SAME_PEAK, Comparison
from asrswitch.summary import Summary

STRATEGY = Rule("strategy", "run", OURS, rests_on="verdict")


def judge_strategy(comparison: Comparison | None, runs: Sequence[tuple[Plan, Summary]]) -> RuleResult:
    """By turn, peak and verdict of each.

    A strategy that leaks is none, so that one whose verdict is open may change what is best.
    """
    subject = " + ".join(dict.fromkeys(plan.strategy.value for plan, _ in runs))
    if comparison is None:
        return STRATEGY.silent(subject, "one strategy was measured; --strategy all compares them")
    if invalid := [plan.strategy.value for plan, summary in runs if summary.invalid]:
        return STRATEGY.silent(subject, f"INVALID, and not to be trusted: {', '.join(invalid)}")
    choices = [item for item in comparison.strategies if item.out is None]
    if unsure := [item.strategy.value for item in choices if item.word is Word.INCONCLUSIVE]:
        return STRATEGY.silent(subject, f"the verdict on memory is inconclusive with {', '.join(unsure)}")
    if not choices:
        return STRATEGY.silent(subject, "no strategy was measured as a whole")
    best = list(dict.fromkeys(rule.strategy for rule in comparison.rules))
    figures = []
    for item in choices:
        if item.turn_ms is not None:
            figures.append(Figure(f"turn of {item.strategy.value}", item.turn_ms, "ms"))
        if item.peak_bytes is not None:
            figures.append(Figure(f"peak of {item.strategy.value}", item.peak_bytes, "bytes"))
    thresholds = [
        Figure("of an hour that turns may be longer", AS_GOOD * 100, "%"),
        Figure("by which a peak must be lower", SAME_PEAK * 100, "%"),
    ]
    if comparison.memory_limit_bytes is not None:
        thresholds.append(Figure("memory limit", comparison.memory_limit_bytes, "bytes"))
    if comparison.switches_per_hour is not None:
        thresholds.append(Figure("switches an hour", comparison.switches_per_hour, ""))
    outcome = " or ".join(strategy.value for strategy in best) or "none fits"
    return STRATEGY.speaks(subject, outcome, comparison.recommendation, figures, thresholds)
