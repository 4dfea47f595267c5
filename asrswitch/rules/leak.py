"""How grave a leak is, where there is one."""

from __future__ import annotations

from asrswitch.rules.facts import Facts
from asrswitch.rules.result import EARLIER, Figure, Rule, RuleResult
from asrswitch.rules.thresholds import Thresholds
from asrswitch.stats.trend import Slope
from asrswitch.stats.verdict import Verdict, Word
from asrswitch.summary import SubjectVerdict

LEAK = Rule("leak", "run", EARLIER, rests_on="verdict")
_MIB = 1024 * 1024
_SAYS = {
    "small": "mend it; until then restart the process now and then",
    "considerable": "mend it; until then restart the process by a schedule",
    "grave": "mend it; until then give the model a process of its own",
}


def judge_leak(item: SubjectVerdict, facts: Facts) -> RuleResult:
    """By the verdict's growth an iteration, over a stated number of iterations.

    Where the slope's interval spans a threshold, both grades are named.
    """
    limits, verdict = facts.thresholds, item.verdict
    over = f"over {limits.leak_iterations:,} iterations"
    thresholds = [
        Figure(f"small below, {over}", limits.leak_small_below_mib * _MIB, "bytes"),
        Figure(f"grave from, {over}", limits.leak_grave_from_mib * _MIB, "bytes"),
    ]
    if verdict.word is not Word.LEAK:
        return LEAK.speaks(item.subject, "none", "nothing needs to be done", _seen(verdict), thresholds)
    grown = _fastest(verdict)
    if grown is None:
        counts = ", ".join(name for name, found in verdict.series.items() if found.verdict.word is Word.LEAK)
        return LEAK.silent(item.subject, f"what leaks has no size ({counts}): the verdict names it")
    name, slope = grown
    low, high = (_grade(end * limits.leak_iterations, limits) for end in (slope.low, slope.high))
    outcome = low if low == high else f"{low} to {high}"
    figures = [
        Figure(f"{name}, {over}", slope.slope * limits.leak_iterations, "bytes"),
        Figure("growth", slope.slope, "bytes an iteration"),
        Figure("at least", slope.low, "bytes an iteration"),
        Figure("at most", slope.high, "bytes an iteration"),
    ]
    return LEAK.speaks(item.subject, outcome, _SAYS[high], figures, thresholds)


def _grade(growth: float, limits: Thresholds) -> str:
    if growth < limits.leak_small_below_mib * _MIB:
        return "small"
    return "considerable" if growth < limits.leak_grave_from_mib * _MIB else "grave"


def _fastest(verdict: Verdict) -> tuple[str, Slope] | None:
    """The series of bytes that leaks fastest."""
    slopes = {
        name: found.verdict.slope
        for name, found in verdict.series.items()
        if found.verdict.word is Word.LEAK and found.verdict.slope and name not in verdict.counts
    }
    name = max(slopes, key=lambda name: slopes[name].slope, default=None)
    return None if name is None else (name, slopes[name])


def _seen(verdict: Verdict) -> list[Figure]:
    found = verdict.series["resident memory"].verdict
    figures = []
    if found.slope:
        figures.append(Figure("resident memory", found.slope.slope, "bytes an iteration"))
    if found.detectable is not None:
        figures.append(Figure("would have shown from", found.detectable, "bytes an iteration"))
    return figures
