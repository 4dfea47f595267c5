"""How much memory workers need, and what fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_examples import FLAT, facts, model, replace

from asrswitch.rules.facts import facts_of
from asrswitch.rules.memory import judge_headroom, judge_largest, judge_together, judge_worker
from asrswitch.rules.result import RuleResult
from helpers.records import MIB, run_of


def figures(result: RuleResult) -> dict[str, float]:
    return {figure.name: figure.value for figure in result.figures}


def test_a_worker_gets_half_as_much_again() -> None:
    result = judge_worker(FLAT.models[0], facts())  # 10 MiB and 30 more at its peak
    assert figures(result) == {
        "for a worker": 60 * MIB,
        "footprint": 40 * MIB,
        "workers at most": 13,  # in 800 MiB
    }
    assert result.outcome == "1.5 times the footprint"
    assert figures(judge_worker(FLAT.models[0], facts(worker_times=2)))["for a worker"] == 80 * MIB


@pytest.mark.parametrize(("free", "workers"), [(75, 1), (74.9, 0), (150, 2), (149.9, 1)])
def test_as_many_workers_as_are_safe(free: float, workers: int) -> None:
    result = judge_worker(FLAT.models[0], facts(free_mib=free))
    assert figures(result)["workers at most"] == workers


@pytest.mark.parametrize(("free", "outcome"), [(150, "fits"), (149.9, "does not fit")])
def test_all_models_at_a_time(free: float, outcome: str) -> None:
    result = judge_together(FLAT.models, facts(free_mib=free))
    assert result.outcome == outcome
    assert figures(result)["for 2 workers"] == 120 * MIB


@pytest.mark.parametrize(("free", "outcome"), [(50, "room left"), (49.9, "too tight")])
def test_headroom_is_what_is_safe_less_the_peak(free: float, outcome: str) -> None:
    result = judge_headroom(FLAT.models, facts(free_mib=free))
    assert result.outcome == outcome
    assert figures(result)["headroom"] == pytest.approx((free * 0.8 - 40) * MIB, abs=1)
    assert judge_headroom(FLAT.models, facts(free_mib=50, safe_percent=79)).outcome == "too tight"


def test_the_largest_that_fits_is_named() -> None:
    small, large = FLAT.models[1], model(peak_above_load_bytes=90 * MIB)  # of files of 10 and 20 MiB
    cases = {187.5: "a", 187: "b", 75: "b", 74.9: "none of these"}
    for free, outcome in cases.items():
        assert judge_largest([small, large], facts(free_mib=free)).outcome == outcome
    found = figures(judge_largest([small, large], facts(free_mib=187.5)))
    assert found["memory for its size"] == 4.5
    # (150 / 1.5 - 10) / 4.5
    assert found["largest file"] == 20 * MIB
    assert figures(judge_largest([small], facts(free_mib=1)))["largest file"] == 0


@given(st.floats(1, 1e5), st.floats(1, 1e5))
def test_more_memory_never_holds_less(one: float, other: float) -> None:
    less, more = (facts(free_mib=free) for free in sorted((one, other)))
    for judge, name in ((judge_headroom, "headroom"), (judge_largest, "largest file")):
        assert figures(judge(FLAT.models, less))[name] <= figures(judge(FLAT.models, more))[name]
    workers = [figures(judge_worker(FLAT.models[0], each))["workers at most"] for each in (less, more)]
    assert workers == sorted(workers)


def test_what_was_not_measured_is_not_guessed() -> None:
    unknown = model(peak_above_load_bytes=None)
    assert judge_worker(unknown, facts()).outcome is None
    assert judge_together([FLAT.models[1], unknown], facts()).outcome is None
    assert judge_largest([unknown], facts()).outcome is None
    assert judge_largest(FLAT.models, replace(facts(), file_bytes={})).outcome is None
    assert judge_headroom(FLAT.models, replace(facts(), peak_bytes=None)).outcome is None


def test_memory_is_the_least_that_limits() -> None:
    run = run_of(20)
    alone = facts_of(run, FLAT)
    assert (alone.memory.name, alone.memory.bytes) == ("memory of the machine", 1 << 30)
    busy = replace(run, machine=replace(run.machine, memory_available_bytes=300 * MIB))
    assert facts_of(busy, FLAT).memory == facts_of(busy, FLAT).all_memory
    assert facts_of(busy, FLAT).memory.bytes == 300 * MIB
    limited = replace(busy, plan=replace(run.plan, memory_limit_bytes=200 * MIB))
    found = facts_of(limited, FLAT)  # the limit is of each worker
    assert (found.memory.name, found.memory.bytes) == ("memory limit", 200 * MIB)
    assert found.all_memory.bytes == 300 * MIB
    assert facts_of(run, replace(FLAT, resident=None)).base_bytes is None
