"""Whether to load a model when it is asked for, or ahead."""

from __future__ import annotations

from asrswitch.plan import Strategy
from asrswitch.rules.facts import Facts
from asrswitch.rules.result import EARLIER, Figure, Rule, RuleResult
from asrswitch.summary import ModelSummary

LOADING = Rule("loading", "model", EARLIER, rests_on="times")
_MUCH_READ = 1024 * 1024  # bytes a turn, from disk
_FEWEST_LOADS = 3


def judge_loading(model: ModelSummary, facts: Facts) -> RuleResult:
    """By the median load of a file that is in the page cache."""
    load, limits = model.load_ms, facts.thresholds
    if facts.cold:
        return LOADING.silent(model.label, "loads were cold; the rule is of cached ones")
    if model.read_bytes and model.read_bytes.median >= _MUCH_READ:
        read = f"{model.read_bytes.median / _MUCH_READ:,.1f} MiB"
        return LOADING.silent(model.label, f"turns read {read} from disk; the rule is of cached loads")
    if load is None:
        return LOADING.silent(model.label, "no load was measured")
    if load.count < _FEWEST_LOADS:
        few = f"of fewer than {_FEWEST_LOADS} loads the median may be the first, which waits for the disk"
        return LOADING.silent(model.label, few)
    seconds = load.median / 1e3
    if seconds < limits.load_lazy_below_s:
        outcome, says = "lazy loading", "load it when it is first asked for"
    elif seconds < limits.load_acceptable_below_s:
        outcome, says = "acceptable", "load it when it is asked for; who asks waits noticeably"
    elif seconds < limits.load_popular_below_s:
        outcome, says = "pre-warm popular models", "load it ahead if it is often asked for"
    else:
        outcome, says = "pre-warm at start", "load it when the service starts, and keep it loaded"
    figures = [Figure("cached load", load.median, "ms")]
    if model.answer_ms and facts.strategy in (Strategy.RELOAD, Strategy.ISOLATE):
        figures.append(Figure("load and first text", model.answer_ms.median, "ms"))
    thresholds = [
        Figure("lazy loading below", limits.load_lazy_below_s, "s"),
        Figure("acceptable below", limits.load_acceptable_below_s, "s"),
        Figure("pre-warm popular models below", limits.load_popular_below_s, "s"),
    ]
    return LOADING.speaks(model.label, outcome, says, figures, thresholds)
