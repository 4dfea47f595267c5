from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asrswitch.plan import Clip, Model, Plan, Strategy
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
)


@given(plans)
def test_every_model_has_one_turn_an_iteration_and_one_model_is_loaded_at_a_time(plan: Plan) -> None:
    cycles = make_schedule(plan)
    assert [cycle.index for cycle in cycles] == list(range(len(plan.models) * plan.iterations))
    turns = {(cycle.iteration, cycle.model.label) for cycle in cycles}
    assert turns == {(i, m.label) for i in range(1, plan.iterations + 1) for m in plan.models}
    loaded = None
    for cycle in cycles:
        assert cycle.load == (loaded is None)
        assert loaded in (None, cycle.model)
        loaded = None if cycle.release is Release.DESTROY else cycle.model
    assert loaded is None


@given(plans)
def test_reload_alternates_and_restart_loads_once(plan: Plan) -> None:
    cycles = make_schedule(plan)
    if plan.strategy is Strategy.RELOAD:
        assert [cycle.model for cycle in cycles[: len(plan.models)]] == list(plan.models)
        assert all(cycle.load for cycle in cycles)
    else:
        assert sum(cycle.load for cycle in cycles) == len(plan.models)
