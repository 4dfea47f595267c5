from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from asrswitch.model import Model
from asrswitch.plan import Clip, Order, Plan, Strategy
from asrswitch.schedule import Cycle, Release, make_open_schedule, make_rounds, make_schedule

plans = st.builds(
    Plan,
    models=st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True).map(
        lambda labels: tuple(Model(label, f"/{label}.bin") for label in labels)
    ),
    clips=st.just((Clip("/a.wav", None),)),
    iterations=st.integers(1, 9),
    threads=st.just(1),
    context=st.none(),
    language=st.none(),
    strategy=st.sampled_from(Strategy),
    max_new_tokens=st.just(1),
    timeout_s=st.just(1.0),
    out=st.just("/out"),
    order=st.sampled_from(Order),
    seed=st.integers(0, 99),
)


SOME = Plan((Model("a", "/a"),), (Clip("/c", None),), 9, 1, None, None, Strategy.RELOAD, 1, 1.0, "/out")


@given(plans)
def test_every_model_has_one_turn_an_iteration_and_is_loaded_when_it_comes(plan: Plan) -> None:
    cycles = make_schedule(plan)
    assert [cycle.index for cycle in cycles] == list(range(len(plan.models) * plan.iterations))
    turns = {(cycle.iteration, cycle.model.label) for cycle in cycles}
    assert turns == {(i, m.label) for i in range(1, plan.iterations + 1) for m in plan.models}
    loaded: set[Model] = set()
    for cycle in cycles:
        assert cycle.load == (cycle.model not in loaded)
        loaded.add(cycle.model)
        if plan.strategy is not Strategy.RESIDENT:
            assert loaded == {cycle.model}  # one at a time
        if cycle.release is not Release.RESTART:
            loaded.remove(cycle.model)
    assert not loaded


@given(plans)
def test_what_each_strategy_loads_and_how_it_lets_go(plan: Plan) -> None:
    cycles = make_schedule(plan)
    releases = {cycle.release for cycle in cycles if cycle.iteration < plan.iterations}
    last = {cycle.release for cycle in cycles if cycle.iteration == plan.iterations}
    between, at_last = {
        Strategy.RELOAD: (Release.DESTROY, Release.DESTROY),
        Strategy.ISOLATE: (Release.EXIT, Release.EXIT),
        Strategy.RESTART: (Release.RESTART, Release.DESTROY),
        Strategy.RESIDENT: (Release.RESTART, Release.DESTROY),
    }[plan.strategy]
    assert releases <= {between} and last == {at_last}
    loads = len(cycles) if between is not Release.RESTART else len(plan.models)
    assert sum(cycle.load for cycle in cycles) == loads


@given(plans)
def test_all_but_restart_alternate_in_the_order_asked_for(plan: Plan) -> None:
    models = [cycle.model for cycle in make_schedule(plan)]
    if plan.strategy is Strategy.RESTART:
        stays = [a == b for a, b in itertools.pairwise(models)]
        assert stays.count(False) == len(plan.models) - 1
    elif plan.order is Order.PACKED:
        assert models == [*plan.models, *plan.models[::-1]] * (plan.iterations // 2) + [*plan.models] * (
            plan.iterations % 2
        )
    elif plan.order is not Order.SHUFFLE:
        assert models == list(plan.models) * plan.iterations


def test_shuffled_orders_change_by_iteration_and_seed_and_nothing_else() -> None:
    labels = "abcdef"
    base = msgspec.structs.replace(
        SOME, models=tuple(Model(label, f"/{label}.bin") for label in labels), order=Order.SHUFFLE
    )

    def orders(seed: int) -> list[str]:
        turns = "".join(c.model.label for c in make_schedule(msgspec.structs.replace(base, seed=seed)))
        return [turns[i : i + len(labels)] for i in range(0, len(turns), len(labels))]

    assert orders(1) == orders(1) != orders(2)
    assert len({*orders(1)}) > 1
    assert all(sorted(order) == sorted(labels) for order in orders(1))


@given(plans, st.integers(1, 9))
def test_rounds_are_runs_of_their_own_that_go_on_counting(plan: Plan, n_rounds: int) -> None:
    rounds = make_rounds(msgspec.structs.replace(plan, rounds=n_rounds))
    assert len(rounds) == min(n_rounds, plan.iterations)
    counts = [len(cycles) // len(plan.models) for cycles in rounds]
    assert sum(counts) == plan.iterations and max(counts) - min(counts) <= 1
    cycles = [cycle for stretch in rounds for cycle in stretch]
    assert [cycle.index for cycle in cycles] == list(range(len(cycles)))
    assert {cycle.iteration for cycle in cycles} == set(range(1, plan.iterations + 1))
    for stretch in rounds:
        loaded: set[str] = set()
        for cycle in stretch:
            assert cycle.load == (cycle.model.label not in loaded)
            loaded.add(cycle.model.label)
            if cycle.release is not Release.RESTART:
                loaded.remove(cycle.model.label)
        assert not loaded  # a round's worker can exit


def open_cycles(plan: Plan, wanted: int, start: Cycle | None = None) -> list[Cycle]:
    return list(make_open_schedule(plan, lambda labels, done: done < wanted, start))


@given(plans, st.integers(1, 20))
def test_an_open_schedule_is_a_closed_one_of_as_many_iterations_as_wanted(plan: Plan, wanted: int) -> None:
    keeps = plan.strategy in (Strategy.RESTART, Strategy.RESIDENT)
    iterations = min(wanted + keeps, plan.iterations)  # what stays loaded has one more, to unload
    closed = make_schedule(msgspec.structs.replace(plan, iterations=iterations))
    assert open_cycles(plan, wanted) == closed


@given(plans, st.integers(1, 20), st.data())
def test_an_open_schedule_goes_on_from_any_cycle(plan: Plan, wanted: int, data: st.DataObject) -> None:
    whole = open_cycles(plan, wanted)
    at = data.draw(st.integers(0, len(whole) - 1))

    def what(cycles: list[Cycle]) -> list[tuple[int, int, str]]:
        return [(cycle.index, cycle.iteration, cycle.model.label) for cycle in cycles]

    assert what(open_cycles(plan, wanted, whole[at])) == what(whole[at:])


def test_restart_asks_for_each_model_and_the_others_for_all_together() -> None:
    plan = msgspec.structs.replace(SOME, models=(Model("a", "/a"), Model("b", "/b")))
    for strategy, subjects in ((Strategy.RESTART, [["a"], ["b"]]), (Strategy.RELOAD, [["a", "b"]])):
        asked: list[list[str]] = []

        def wants_more(labels: Sequence[str], done: int, asked: list[list[str]] = asked) -> bool:
            asked.append(list(labels))
            return done < 3

        list(make_open_schedule(msgspec.structs.replace(plan, strategy=strategy), wants_more))
        assert [labels for labels, _ in itertools.groupby(asked)] == subjects
