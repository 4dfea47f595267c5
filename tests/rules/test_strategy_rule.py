"""Which strategy, and when that cannot be said."""

from __future__ import annotations

from rules_examples import FLAT, replace, spread, verdict

from asrswitch.plan import Plan, Strategy
from asrswitch.rules.result import RuleResult
from asrswitch.rules.strategy import judge_strategy
from asrswitch.stats.verdict import Word
from asrswitch.strategies import compare_strategies
from asrswitch.summary import Summary
from helpers.records import MIB, run_of

Run = tuple[Plan, Summary]


def run(strategy: Strategy, turn_ms: float, peak: int, word: Word = Word.FLAT, *invalid: str) -> Run:
    """A run whose turns take so long, with a peak in MiB."""
    assert FLAT.resident
    models = [replace(m, overhead_ms=spread(turn_ms), ttft_ms=spread(1.0)) for m in FLAT.models]
    summary = replace(
        FLAT,
        models=models,
        resident=replace(FLAT.resident, peak=peak * MIB),
        verdicts=[verdict(word)],
        invalid=[*invalid],
    )
    return run_of(20, strategy=strategy).plan, summary


def judge(*runs: Run, limit: int | None = 1000, rate: float | None = 60.0) -> RuleResult:
    return judge_strategy(compare_strategies(runs, limit and limit * MIB, rate), runs)


SLOW, QUICK = run(Strategy.RELOAD, 1000, 100), run(Strategy.RESIDENT, 1, 300)


def test_it_says_what_the_comparison_recommends() -> None:
    result = judge(SLOW, QUICK)
    assert result.outcome == "resident"
    assert result.says == compare_strategies([SLOW, QUICK], 1000 * MIB, 60.0).recommendation
    figures = {figure.name: figure.value for figure in result.figures}
    assert figures["turn of reload"] - figures["turn of resident"] == 999
    assert (figures["peak of reload"], figures["peak of resident"]) == (100 * MIB, 300 * MIB)
    limits = {limit.name: limit.value for limit in result.thresholds}
    assert (limits["memory limit"], limits["switches an hour"]) == (1000 * MIB, 60)
    assert judge(SLOW, QUICK, rate=30).outcome == "reload"
    assert judge(SLOW, QUICK, limit=200).outcome == "reload"
    assert judge(SLOW, QUICK, limit=50).outcome == "none fits"
    assert judge(SLOW, QUICK, limit=None, rate=None).outcome == "resident or reload"


def test_it_is_silent_where_a_verdict_is_open_that_could_change_it() -> None:
    open_one = run(Strategy.ISOLATE, 2000, 100, Word.INCONCLUSIVE)
    result = judge(SLOW, QUICK, open_one)
    assert (result.outcome, result.says) == (
        None,
        "the verdict on memory is inconclusive with isolate",
    )
    baseline = run(Strategy.RESTART, 1, 100, Word.INCONCLUSIVE)  # never switches: no choice in any case
    assert judge(SLOW, QUICK, baseline).outcome == "resident"


def test_it_is_silent_of_runs_that_are_invalid_or_alone() -> None:
    result = judge(SLOW, run(Strategy.RESIDENT, 1, 300, Word.FLAT, "swapped"))
    assert (result.outcome, result.says) == (None, "INVALID, and not to be trusted: resident")
    alone = judge_strategy(None, [SLOW])
    assert (alone.outcome, alone.subject) == (None, "reload")
    assert "--strategy all" in alone.says
    baseline = run(Strategy.RESTART, 1, 100)
    assert judge(baseline).says == "no strategy was measured as a whole"


def test_a_leak_is_a_verdict_like_another() -> None:
    assert judge(SLOW, run(Strategy.RESIDENT, 1, 300, Word.LEAK)).outcome == "reload"
