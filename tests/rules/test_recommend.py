"""All rules over a run: when each is silent, and how few lines say it."""

from __future__ import annotations

from typing import Any

import pytest
from rules_examples import FLAT, all_rules, replace, spread, verdict

from asrswitch.model import Model
from asrswitch.plan import Strategy
from asrswitch.report.recommendations import figure_text, recommendation_lines
from asrswitch.rules.recommend import recommend
from asrswitch.rules.result import Figure, Unit
from asrswitch.stats.trend import Slope
from asrswitch.stats.verdict import Word
from helpers.records import MIB, run_of

SIZED = {"release", "worker memory", "all at a time", "safe headroom", "largest safe model"}
MODELS = (Model("a", "/a", 20 * MIB), Model("b", "/b", 10 * MIB))


def speaking(results: dict[tuple[str, str], Any]) -> set[str]:
    return {rule for (rule, _), result in results.items() if result.outcome is not None}


def test_of_a_sound_run_every_rule_speaks_with_figures_and_thresholds() -> None:
    results = all_rules(FLAT, models=MODELS)
    assert speaking(results) == SIZED | {"loading", "leak"}
    for result in results.values():
        assert result.figures and result.thresholds and result.source
        assert result.about == ("model" if result.subject in ("a", "b") else "run")


def test_no_rule_speaks_of_an_invalid_run() -> None:
    results = all_rules(replace(FLAT, invalid=["swapped"]), models=MODELS)
    assert speaking(results) == set()
    assert {result.says for result in results.values()} == {"the run is INVALID"}


def test_what_rests_on_the_verdict_is_silent_while_it_is_open() -> None:
    item = verdict(Word.INCONCLUSIVE)
    item = replace(item, verdict=replace(item.verdict, next_step="run about 77 iterations"))
    results = all_rules(replace(FLAT, verdicts=[item]), models=MODELS)
    assert speaking(results) == {"loading"}
    said = "the verdict on memory is inconclusive: run about 77 iterations"
    assert {result.says for result in results.values() if result.outcome is None} == {said}


def test_what_sizes_memory_is_silent_where_it_leaks() -> None:
    results = all_rules(replace(FLAT, verdicts=[verdict(Word.LEAK, Slope(MIB, MIB, MIB))]), models=MODELS)
    assert speaking(results) == {"loading", "leak"}
    assert results["leak", "a + b"].outcome == "grave"
    assert results["release", "a"].says == "memory leaks: what a process holds grows with its age"


def test_a_model_that_has_the_process_to_itself_has_its_own_verdict() -> None:
    its_own = [
        replace(verdict(word), subject=name) for name, word in (("a", Word.FLAT), ("b", Word.INCONCLUSIVE))
    ]
    results = all_rules(replace(FLAT, verdicts=its_own), models=MODELS, strategy=Strategy.RESTART)
    assert results["worker memory", "a"].outcome and results["leak", "a"].outcome == "none"
    assert results["worker memory", "b"].outcome is results["leak", "b"].outcome is None
    assert results["all at a time", "a + b"].outcome is None


def test_one_model_is_not_all_at_a_time() -> None:
    results = all_rules(replace(FLAT, models=FLAT.models[:1]), models=MODELS[:1])
    assert ("worker memory", "a") in results
    assert "all at a time" not in {rule for rule, _ in results}


def test_two_models_take_about_ten_lines() -> None:
    lines = recommendation_lines(recommend(run_of(20, models=MODELS), FLAT))
    assert len(lines) == 7
    assert lines[0] == (
        "loading: lazy loading: load it when it is first asked for "
        "(cached load 119.0 ms / 120.0 ms; load and first text 124.0 ms / 125.0 ms)"
    )
    slow = [replace(FLAT.models[0], load_ms=spread(7000)), FLAT.models[1]]
    lines = recommendation_lines(recommend(run_of(20, models=MODELS), replace(FLAT, models=slow)))
    assert lines[0].startswith("loading of a: pre-warm popular models: ")
    assert lines[1].startswith("loading of b: lazy loading: ")


def test_what_is_silent_for_one_reason_is_told_once() -> None:
    lines = recommendation_lines(recommend(run_of(20, models=MODELS), replace(FLAT, invalid=["x"])))
    assert lines == [
        "loading, release, worker memory, leak, all at a time, safe headroom, largest safe model: silent: "
        "the run is INVALID"
    ]
    few = [replace(FLAT.models[0], load_ms=None), FLAT.models[1]]
    lines = recommendation_lines(recommend(run_of(20, models=MODELS), replace(FLAT, models=few)))
    assert any(line.startswith("loading of a: silent: no load was measured") for line in lines)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (999.94, "ms", "999.9 ms"),
        (1000, "ms", "1.00 s"),
        (2, "s", "2 s"),
        (0.25, "s", "0.25 s"),
        (1536, "bytes", "1.5 KiB"),
        (-0.2, "bytes an iteration", "0 B an iteration"),
        (65536, "bytes an iteration", "64.0 KiB an iteration"),
        (95.84, "%", "95.8 %"),
        (90, "%", "90 %"),
        (1.5, "times", "1.5 times"),
        (659_456, "times", "659,456 times"),
        (1234567, "", "1,234,567"),
    ],
)
def test_figures_have_their_units(value: float, unit: Unit, text: str) -> None:
    assert figure_text(Figure("x", value, unit)) == text
