"""How much memory workers need, and how large a model may be.

A footprint is the most resident memory of a worker that holds one model: as it was before its first load,
and what the model took besides, at its peak.
"""

from __future__ import annotations

from collections.abc import Sequence

from asrswitch.rules.facts import Facts
from asrswitch.rules.result import EARLIER, OURS, Figure, Rule, RuleResult
from asrswitch.summary import ModelSummary

WORKER = Rule("worker memory", "model", EARLIER, rests_on="no leak")
TOGETHER = Rule("all at a time", "run", EARLIER, rests_on="no leak")
HEADROOM = Rule("safe headroom", "run", OURS, rests_on="no leak")
LARGEST = Rule("largest safe model", "run", OURS, rests_on="no leak")
_NOT_MEASURED = "no turn of it shows what a load takes"


def judge_worker(model: ModelSummary, facts: Facts) -> RuleResult:
    """What a worker should be given, and how many such workers are safe at a time."""
    footprint, worker = facts.footprint_bytes(model), facts.worker_bytes(model)
    if footprint is None or worker is None:
        return WORKER.silent(model.label, _NOT_MEASURED)
    figures = [
        Figure("for a worker", worker, "bytes"),
        Figure("footprint", footprint, "bytes"),
        Figure("workers at most", facts.all_safe_bytes // worker, ""),
    ]
    outcome = f"{facts.thresholds.worker_times:g} times the footprint"
    says = "give each worker so much"
    return WORKER.speaks(model.label, outcome, says, figures, [*_times(facts), *_safe(facts)])


def judge_together(models: Sequence[ModelSummary], facts: Facts) -> RuleResult:
    """What all models of the run take, each in a worker of its own."""
    subject = _subject(models)
    workers = [facts.worker_bytes(model) for model in models]
    known = [worker for worker in workers if worker is not None]
    if len(known) < len(workers):
        return TOGETHER.silent(subject, "not every model's memory was measured")
    needed = sum(known)
    outcome, says = "fits", "all models may be loaded, each in a worker of its own"
    if needed > facts.all_safe_bytes:
        outcome, says = "does not fit", "switch between the models, or run fewer"
    figures = [
        Figure(f"for {len(known)} workers", needed, "bytes"),
        Figure("safe memory", facts.all_safe_bytes, "bytes"),
    ]
    return TOGETHER.speaks(subject, outcome, says, figures, [*_times(facts), *_safe(facts)])


def judge_headroom(models: Sequence[ModelSummary], facts: Facts) -> RuleResult:
    """What the run, as it was, leaves of the memory that may be in use."""
    subject = _subject(models)
    if facts.peak_bytes is None:
        return HEADROOM.silent(subject, "no memory was measured")
    left = facts.safe_bytes - facts.peak_bytes
    outcome, says = "room left", "so much more may be in use before memory is tight"
    if left < 0:
        outcome, says = "too tight", "use a smaller model, clip or context, or more memory"
    figures = [
        Figure("headroom", left, "bytes"),
        Figure("peak", facts.peak_bytes, "bytes"),
        Figure(facts.memory.name, facts.memory.bytes, "bytes"),
    ]
    return HEADROOM.speaks(subject, outcome, says, figures, _safe(facts))


def judge_largest(models: Sequence[ModelSummary], facts: Facts) -> RuleResult:
    """The largest of the run's models whose worker fits, and by its need for its size the largest file.

    Larger models need less beside their weights for their size, so that the highest factor measured is on
    the safe side.
    """
    subject = _subject(models)
    factors: dict[str, float] = {}
    fitting: list[str] = []
    for model in models:
        worker, file = facts.worker_bytes(model), facts.file_bytes.get(model.label)
        if worker is None or model.peak_above_load_bytes is None or not file:
            continue
        factors[model.label] = model.peak_above_load_bytes / file
        if worker <= facts.safe_bytes:
            fitting.append(model.label)
    factor = max(factors.values(), default=0.0)
    if factor <= 0 or facts.base_bytes is None:
        return LARGEST.silent(subject, "what a model takes for its file's size was not measured")
    room = facts.safe_bytes / facts.thresholds.worker_times - facts.base_bytes
    outcome, says = "none of these", "use a smaller model, or more memory"
    if fitting:
        outcome = max(fitting, key=lambda label: facts.file_bytes[label])
        says = "it fits; a larger file does as far as it needs no more for its size"
    figures = [
        Figure("largest file", max(0.0, room / factor), "bytes"),
        Figure("memory for its size", factor, "times"),
        Figure("safe memory", facts.safe_bytes, "bytes"),
    ]
    return LARGEST.speaks(subject, outcome, says, figures, [*_times(facts), *_safe(facts)])


def _subject(models: Sequence[ModelSummary]) -> str:
    return " + ".join(model.label for model in models)


def _times(facts: Facts) -> list[Figure]:
    return [Figure("of the footprint", facts.thresholds.worker_times, "times")]


def _safe(facts: Facts) -> list[Figure]:
    return [Figure("of memory in use at most", facts.thresholds.safe_percent, "%")]
