"""All rules over one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from asrswitch.records import Run
from asrswitch.rules.facts import Facts, facts_of
from asrswitch.rules.leak import LEAK, judge_leak
from asrswitch.rules.loading import LOADING, judge_loading
from asrswitch.rules.memory import (
    HEADROOM,
    LARGEST,
    TOGETHER,
    WORKER,
    judge_headroom,
    judge_largest,
    judge_together,
    judge_worker,
)
from asrswitch.rules.release import RELEASE, judge_release
from asrswitch.rules.result import Rule, RuleResult
from asrswitch.stats.verdict import Word
from asrswitch.summary import ModelSummary, SubjectVerdict, Summary

INVALID = "the run is INVALID"

_Of = Callable[[Sequence[ModelSummary], Facts], RuleResult]
_OF_A_MODEL: tuple[tuple[Rule, Callable[[ModelSummary, Facts], RuleResult]], ...] = (
    (LOADING, judge_loading),
    (RELEASE, judge_release),
    (WORKER, judge_worker),
)
_OF_THE_RUN: tuple[tuple[Rule, _Of], ...] = (
    (TOGETHER, judge_together),
    (HEADROOM, judge_headroom),
    (LARGEST, judge_largest),
)


def recommend(run: Run, summary: Summary) -> list[RuleResult]:
    """What each rule says of each model and of the run, or why it says nothing.

    No rule speaks of a run that is INVALID. One that rests on the verdict does not where that is
    inconclusive; one that tells how much memory stays or is needed does not where memory leaks either.

    Args:
        run: the first record, which has the plan with its thresholds, and the machine.
        summary: of all of them.
    """
    facts = facts_of(run, summary)
    labels = " + ".join(model.label for model in summary.models)
    found = []
    for rule, judge in _OF_A_MODEL:
        for model in summary.models:
            why = _why_silent(rule, summary, _verdicts_on(summary, model.label))
            found.append(rule.silent(model.label, why) if why else judge(model, facts))
    for item in summary.verdicts:
        why = _why_silent(LEAK, summary, [item])
        found.append(LEAK.silent(item.subject, why) if why else judge_leak(item, facts))
    for rule, judge_all in _OF_THE_RUN:
        if rule is TOGETHER and len(summary.models) < 2:
            continue  # that is what a worker of the one takes
        why = _why_silent(rule, summary, summary.verdicts)
        found.append(rule.silent(labels, why) if why else judge_all(summary.models, facts))
    return found


def _verdicts_on(summary: Summary, label: str) -> list[SubjectVerdict]:
    """The model's own, where it has the process to itself, or else those on all models."""
    return [item for item in summary.verdicts if item.subject == label] or summary.verdicts


def _why_silent(rule: Rule, summary: Summary, verdicts: Sequence[SubjectVerdict]) -> str | None:
    if summary.invalid:
        return INVALID
    if rule.rests_on == "times":
        return None
    for item in verdicts:
        if item.verdict.word is Word.INCONCLUSIVE:
            return f"the verdict on memory is inconclusive: {item.verdict.next_step}"
    if rule.rests_on == "no leak" and any(item.verdict.word is Word.LEAK for item in verdicts):
        return "memory leaks: what a process holds grows with its age"
    return None
