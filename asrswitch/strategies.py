"""Which way of switching models is the best here: figures of one run a strategy, a rule, and its reason.

What a strategy costs an hour is the number of switches times its turn (load, time to first token, release)
beyond the turn of the quickest that is open. Those that cost at most 1 % of the hour are as good as the
quickest, and of these the one whose memory peaks lowest is chosen.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import msgspec

from asrswitch.plan import Plan, Strategy
from asrswitch.stats.verdict import Word
from asrswitch.summary import ModelSummary, Spread, Summary

_MIB = 1024 * 1024
AS_GOOD = 0.01  # of an hour
_HOUR_MS = 3_600_000
# Peaks differ by pages of shared libraries that happen to be mapped: by this part, or by 1 MiB, they do not.
SAME_PEAK = 0.01


class StrategyFigures(msgspec.Struct, frozen=True):
    """One strategy's run. Times are means over the models of their medians; None where one has none."""

    strategy: Strategy
    turn_ms: float | None  # load, time to first token and release
    answer_ms: float | None  # load and time to first token
    overhead_ms: float | None  # load and release
    switch_ms: float | None
    ttft_ms: float | None  # of embeddings, the time that they take
    tokens_per_s: float | None
    start_ms: float | None  # of a process; before its turn with `isolate`, and in no other figure
    peak_bytes: int | None
    retained_bytes: float | None  # after unloads; of the model that leaves most
    word: Word
    iterations_to_limit: int | None  # where memory leaks
    failures: int
    out: str | None  # why it is not to be recommended, whatever the limit and the rate


class Rule(msgspec.Struct, frozen=True):
    """A strategy that is the best from so much memory on and above so many switches an hour.

    0 where limit or rate were given: the rule is of that one.
    """

    strategy: Strategy
    least_bytes: int
    above_per_hour: float


class Comparison(msgspec.Struct, frozen=True):
    """The strategies side by side.

    The first of the rules that applies names the best strategy. They are of any limit where none was given,
    and of any rate where that was not given.
    """

    strategies: list[StrategyFigures]
    memory_limit_bytes: int | None
    switches_per_hour: float | None
    rules: list[Rule]
    recommendation: str
    notes: list[str]

    @property
    def recommended(self) -> Strategy | None:
        """The best, where it is one whatever limit and rate are."""
        return self.rules[0].strategy if len(self.rules) == 1 else None


def compare_strategies(
    runs: Sequence[tuple[Plan, Summary]],
    memory_limit_bytes: int | None,
    switches_per_hour: float | None,
) -> Comparison:
    """Compare runs that differ in their strategy alone.

    Args:
        runs: one for each strategy.
        memory_limit_bytes: what a strategy's peak may be; None for a rule that names it.
        switches_per_hour: how often a model is asked for; likewise.
    """
    figures = [_figures(plan, summary) for plan, summary in runs]
    candidates = [item for item in figures if item.out is None and _fits(item, memory_limit_bytes)]
    rules = _rules(candidates, memory_limit_bytes, switches_per_hour) if candidates else []
    return Comparison(
        strategies=figures,
        memory_limit_bytes=memory_limit_bytes,
        switches_per_hour=switches_per_hour,
        rules=rules,
        recommendation=_recommendation(figures, candidates, rules, memory_limit_bytes, switches_per_hour),
        notes=[
            *_reservations(figures, rules),
            *_exclusions(figures, rules, memory_limit_bytes),
            *_baseline(figures),
        ],
    )


def choose(open_to: Sequence[StrategyFigures], switches_per_hour: float) -> StrategyFigures:
    """The best of the strategies, all of which fit; one that leaks only where all do."""
    sound = [item for item in open_to if item.word is not Word.LEAK] or list(open_to)
    turns = {item.strategy: _turn(item) for item in sound}
    quickest = min(turns.values())
    good = [item for item in sound if switches_per_hour <= _rate_limit(turns[item.strategy], quickest)]
    most = _same_peak(min(_peak(item) for item in good))
    return min((item for item in good if _peak(item) <= most), key=lambda item: turns[item.strategy])


def _rate_limit(turn_ms: float, quickest_ms: float) -> float:
    """Up to how many switches an hour a strategy is as good as the quickest.

    Without end where its turns are at most 1 % longer: more than an hour of turns an hour there are not.
    """
    longer = turn_ms - quickest_ms
    return AS_GOOD * _HOUR_MS / longer if longer > AS_GOOD * quickest_ms else math.inf


def _same_peak(peak: float) -> float:
    """The highest peak that is not told from this one."""
    return peak + max(SAME_PEAK * peak, _MIB)


def _rules(candidates: Sequence[StrategyFigures], limit: int | None, rate: float | None) -> list[Rule]:
    """The choice at every limit and rate at which it may change, strictest first, and no rule too many."""
    rules = []
    for level in _levels(candidates) if limit is None else [0]:
        open_to = [item for item in candidates if limit is not None or _peak(item) <= level]
        for above in _changes(candidates) if rate is None else [0.0]:
            chosen = choose(open_to, math.nextafter(above, math.inf) if rate is None else rate)
            rules.append(Rule(chosen.strategy, level, above))
    return _without_needless(rules)


def _levels(candidates: Sequence[StrategyFigures]) -> list[int]:
    """The limits from which more strategies fit, highest first; of peaks that are the same, the highest."""
    levels: list[int] = []
    first = -math.inf
    for peak in sorted(item.peak_bytes for item in candidates if item.peak_bytes is not None):
        if peak <= _same_peak(first):
            levels[-1] = peak
        else:
            levels.append(peak)
            first = peak
    return levels[::-1]


def _changes(candidates: Sequence[StrategyFigures]) -> list[float]:
    """The rates above which one strategy less is as good as the quickest, highest first."""
    turns = [_turn(item) for item in candidates]
    limits = {_rate_limit(turn, quickest) for turn in turns for quickest in turns}
    return sorted((limit for limit in limits | {0.0} if math.isfinite(limit)), reverse=True)


def _without_needless(rules: Sequence[Rule]) -> list[Rule]:
    """The same choices everywhere by fewer rules."""
    kept = list(rules)
    for rule in reversed(rules):
        fewer = [other for other in kept if other is not rule]
        if all(_first(fewer, place) is place.strategy for place in rules):
            kept = fewer
    return kept


def _first(rules: Sequence[Rule], place: Rule) -> Strategy | None:
    """What the rules say just above a rule's limit and rate."""
    for rule in rules:
        if rule.least_bytes <= place.least_bytes and rule.above_per_hour <= place.above_per_hour:
            return rule.strategy
    return None


def _figures(plan: Plan, summary: Summary) -> StrategyFigures:
    models = summary.models
    overhead_ms = _mean_of_medians(models, lambda model: model.overhead_ms)
    ttft_ms = _mean_of_medians(models, lambda model: model.ttft_ms or model.inference_ms)
    turn_ms = None if overhead_ms is None or ttft_ms is None else overhead_ms + ttft_ms
    limits = [item.verdict.iterations_to_limit for item in summary.verdicts]
    return StrategyFigures(
        strategy=plan.strategy,
        turn_ms=turn_ms,
        answer_ms=_mean_of_medians(models, lambda model: model.answer_ms),
        overhead_ms=overhead_ms,
        switch_ms=_mean_of_medians(models, lambda model: model.switch_ms),
        ttft_ms=ttft_ms,
        tokens_per_s=_mean_of_medians(models, lambda model: model.tokens_per_s),
        start_ms=summary.start_ms.median if summary.start_ms else None,
        peak_bytes=summary.resident.peak if summary.resident else None,
        retained_bytes=max(
            (model.retained_bytes.median for model in models if model.retained_bytes), default=None
        ),
        word=summary.word,
        iterations_to_limit=min((limit for limit in limits if limit is not None), default=None),
        failures=len(summary.failures),
        out=_out(plan, summary, turn_ms),
    )


def _mean_of_medians(
    models: Sequence[ModelSummary], spread: Callable[[ModelSummary], Spread | None]
) -> float | None:
    known = [found.median for model in models if (found := spread(model))]
    return statistics.fmean(known) if known and len(known) == len(models) else None


def _out(plan: Plan, summary: Summary, turn_ms: float | None) -> str | None:
    if plan.strategy is Strategy.RESTART and len(plan.models) > 1:
        return "it never switches, and is here to compare with"
    if summary.invalid:
        return f"its figures are not to be trusted: {summary.invalid[0]}"
    if any(failure.kind == "refused" for failure in summary.failures):
        return "a load was refused for want of memory"
    if any(failure.out_of_memory for failure in summary.failures):
        return "it ran out of memory"
    if turn_ms is None or summary.resident is None:
        stays = plan.strategy in (Strategy.RESTART, Strategy.RESIDENT)
        few = "; it takes three iterations in a worker" if stays and not summary.failures else ""
        return f"not every model's turn was measured{few}"
    return None


def _recommendation(
    figures: Sequence[StrategyFigures],
    candidates: Sequence[StrategyFigures],
    rules: Sequence[Rule],
    limit: int | None,
    rate: float | None,
) -> str:
    by_strategy = {item.strategy: item for item in candidates}
    if not rules:
        measured = [item for item in figures if item.out is None]
        if not measured or limit is None:
            return "no strategy can be recommended: none was measured as a whole"
        least = min(measured, key=_peak)
        return (
            f"no strategy fits {_size(limit)}: {least.strategy.value} takes the least, "
            f"{_size(_peak(least))} at its peak"
        )
    if len(rules) == 1:
        return _reason(by_strategy[rules[0].strategy], candidates, limit, rate)
    *stricter, last = rules
    named = [f"{rule.strategy.value} where {_condition(rule, last)}" for rule in stricter]
    chosen = dict.fromkeys(rule.strategy for rule in rules)
    figured = (
        f"{name.value} {_time(_turn(by_strategy[name]))} and {_size(_peak(by_strategy[name]))}"
        for name in chosen
    )
    within = "" if limit is None else f" within {_size(limit)}"
    often = "" if rate is None else f" at {_rate(rate)} switches an hour"
    return (
        f"best{within}{often}: {'; '.join(named)}; else {last.strategy.value}. "
        f"Their turns (load, first text, release) and peaks: {', '.join(figured)}"
    )


def _condition(rule: Rule, last: Rule) -> str:
    parts = []
    if rule.least_bytes > last.least_bytes:
        parts.append(f"there are at least {_size(rule.least_bytes)}")
    if rule.above_per_hour > 0:
        parts.append(f"models are switched more than {_rate(rule.above_per_hour)} times an hour")
    return " and ".join(parts)


def _reason(
    best: StrategyFigures, candidates: Sequence[StrategyFigures], limit: int | None, rate: float | None
) -> str:
    """Why it is the best of those that are open, with the figures that say so."""
    often = "" if rate is None else f" at {_rate(rate)} switches an hour"
    within = "" if limit is None else f" within {_size(limit)}"
    said = f"{best.strategy.value} is the best{often}{within}: "
    others = [item for item in candidates if item is not best and _comparable(item, best)]
    turn, peak = _time(_turn(best)), _size(_peak(best))
    if not others:
        return f"{said}no other is a choice; its turns take {turn}, its peak is {peak}"
    quickest, least = min(others, key=_turn), min(others, key=_peak)
    if _turn(best) > _turn(quickest):
        more = _seconds_more(best, quickest, rate)
        return (
            f"{said}its peak is {peak}, that of {quickest.strategy.value}, the quickest, "
            f"{_size(_peak(quickest))}, and its turns take {turn} instead of {_time(_turn(quickest))}{more}"
        )
    if _peak(best) <= _same_peak(_peak(least)):
        return f"{said}its turns are the quickest ({turn}), and no other's peak is noticeably lower ({peak})"
    more = _seconds_more(least, best, rate)
    return (
        f"{said}its turns are the quickest ({turn}), and its peak is {peak}; "
        f"{least.strategy.value} takes {_size(_peak(least))}, but {_time(_turn(least))} a turn{more}"
    )


def _comparable(item: StrategyFigures, best: StrategyFigures) -> bool:
    """Whether a strategy was a choice besides the best: one that leaks is none where the best does not."""
    return item.word is not Word.LEAK or best.word is Word.LEAK


def _seconds_more(slower: StrategyFigures, quicker: StrategyFigures, rate: float | None) -> str:
    if rate is None:
        return ""
    seconds = rate * (_turn(slower) - _turn(quicker)) / 1e3
    return f": {seconds:,.1f} s more an hour"


def _reservations(figures: Sequence[StrategyFigures], rules: Sequence[Rule]) -> list[str]:
    """What is to be known of the strategies that are named."""
    notes = []
    for item in figures:
        name = item.strategy.value
        if all(rule.strategy is not item.strategy for rule in rules):
            continue
        if item.word is Word.LEAK:
            after = item.iterations_to_limit
            when = "" if after is None else f" and runs out after {after:,} more iterations"
            notes.append(f"{name} leaks memory{when}, and nothing else is left: restart the process in time")
        if item.word is Word.INCONCLUSIVE:
            notes.append(f"whether {name} leaks memory is not decided: run more iterations")
        if item.failures:
            notes.append(f"{name} had {item.failures} failure{'s' * (item.failures > 1)}: see its run")
    return notes


def _exclusions(figures: Sequence[StrategyFigures], rules: Sequence[Rule], limit: int | None) -> list[str]:
    """The strategies that are no choice, and why."""
    notes = []
    for item in figures:
        reason = item.out
        if reason is None and rules and limit is not None and not _fits(item, limit):
            reason = f"its peak of {_size(_peak(item))} is above the limit of {_size(limit)}"
        if reason is None and item.word is Word.LEAK and all(r.strategy is not item.strategy for r in rules):
            reason = "it leaks memory"
        if reason is not None:
            notes.append(f"{item.strategy.value} is out: {reason}")
    return notes


def _baseline(figures: Sequence[StrategyFigures]) -> list[str]:
    """What switching adds to what transcribing costs without it."""
    turns = {item.strategy: item.turn_ms for item in figures if item.turn_ms is not None}
    alone = turns.pop(Strategy.RESTART, None)
    if alone is None or not turns:
        return []
    added = ", ".join(f"{name.value} {_time(turn - alone, '+')}" for name, turn in turns.items())
    return [f"a turn without switching (restart) takes {_time(alone)}; with it: {added}"]


def _fits(item: StrategyFigures, limit: int | None) -> bool:
    return limit is None or _peak(item) <= limit


def _turn(item: StrategyFigures) -> float:
    return math.inf if item.turn_ms is None else item.turn_ms


def _peak(item: StrategyFigures) -> float:
    return math.inf if item.peak_bytes is None else item.peak_bytes


def _size(count: float) -> str:
    return f"{count / 1024 / _MIB:,.2f} GiB" if count >= 1024 * _MIB else f"{count / _MIB:,.1f} MiB"


def _time(ms: float, sign: str = "") -> str:
    return f"{ms / 1e3:{sign},.2f} s" if abs(ms) >= 1e3 else f"{round(ms, 1) + 0.0:{sign}.1f} ms"


def _rate(per_hour: float) -> str:
    return f"{per_hour:,.0f}" if per_hour >= 10 else f"{per_hour:.2g}"
