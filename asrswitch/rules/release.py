"""Whether an unload gives back enough, or a process must end for it."""

from __future__ import annotations

import msgspec

from asrswitch.plan import Strategy
from asrswitch.rules.facts import Facts
from asrswitch.rules.result import EARLIER, Figure, Rule, RuleResult
from asrswitch.summary import ModelSummary

RELEASE = Rule("release", "model", EARLIER, rests_on="no leak")
_MIB = 1024 * 1024


class _Kind(msgspec.Struct, frozen=True):
    """One kind of memory: what an unload gives back of it, and what it leaves; medians."""

    name: str
    percent: float
    left_bytes: float


def judge_release(model: ModelSummary, facts: Facts) -> RuleResult:
    """By the part of what a worker held above its beginning, with the model, that the unload gave back.

    Of resident memory and of anonymous memory by itself, the lower counts: pages of a mapped file go whenever
    it is unmapped, so that where weights are mapped resident memory alone would hide a heap that stays. What
    leaves next to nothing suffices whatever its part: code and tables that the first calls map stay, and a
    process of its own would cost more.
    """
    if facts.strategy is Strategy.ISOLATE:
        return RELEASE.silent(model.label, "models go with their process; no unload was measured")
    kinds = _kinds(model)
    if not kinds:
        return RELEASE.silent(model.label, "no unload was measured that leaves no model loaded")
    limits = facts.thresholds
    noticeable = [kind for kind in kinds if kind.left_bytes > limits.reclaimed_left_mib * _MIB]
    counts = min(noticeable, key=lambda kind: kind.percent, default=kinds[0])
    percent = counts.percent
    if not noticeable:
        outcome, says = "release suffices", "what an unload leaves is next to nothing"
    elif percent > limits.reclaimed_release_above_percent:
        outcome, says = "release suffices", "one process may load and unload it"
    elif percent > limits.reclaimed_monitor_above_percent:
        outcome, says = "monitor", "unload it, and watch what the process keeps"
    elif percent > limits.reclaimed_critical_above_percent:
        outcome, says = "isolate critical ones", "give it a process of its own if it must not fail"
    else:
        outcome, says = "isolate", "give it a process of its own, which ends to unload it"
    thresholds = [
        Figure("release suffices up to, left", limits.reclaimed_left_mib * _MIB, "bytes"),
        Figure("or above", limits.reclaimed_release_above_percent, "%"),
        Figure("monitor above", limits.reclaimed_monitor_above_percent, "%"),
        Figure("isolate critical ones above", limits.reclaimed_critical_above_percent, "%"),
    ]
    figures = [
        Figure(f"reclaimed{counts.name}", percent, "%"),
        Figure(f"left{counts.name}", counts.left_bytes, "bytes"),
    ]
    return RELEASE.speaks(model.label, outcome, says, figures, thresholds)


def _kinds(model: ModelSummary) -> list[_Kind]:
    measured = (
        ("", model.reclaimed, model.retained_bytes),
        (" of anonymous memory", model.reclaimed_anonymous, model.retained_anonymous_bytes),
    )
    return [
        _Kind(name, reclaimed.median * 100, left.median)
        for name, reclaimed, left in measured
        if reclaimed and left
    ]
