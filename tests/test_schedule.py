from __future__ import annotations

import itertools

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from asrswitch.plan import Clip, Model, Order, Plan, Strategy
from asrswitch.schedule import Release, make_schedule

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
