"""The order of the cycles of a run: a pure function of the plan."""

from __future__ import annotations

import enum

import msgspec

from asrswitch.plan import Model, Plan, Strategy


class Release(enum.Enum):
    """How a cycle ends."""

    DESTROY = "destroy"
    RESTART = "restart"


class Cycle(msgspec.Struct, frozen=True):
    """One model's turn. ``index`` counts cycles from 0, ``iteration`` from 1."""

    index: int
    iteration: int
    model: Model
    load: bool
    release: Release


def make_schedule(plan: Plan) -> list[Cycle]:
    """List the cycles in the order they will run.

    ``reload`` alternates the models: every cycle loads, transcribes and destroys. ``restart`` never holds two
    models at once either: each model in turn is loaded, transcribes once an iteration with its context
    cleared after each, and is destroyed at its last. Comparing the two tells what loading adds to what
    transcribing costs.
    """
    iterations = range(1, plan.iterations + 1)
    if plan.strategy is Strategy.RELOAD:
        turns = (
            (iteration, model, True, Release.DESTROY) for iteration in iterations for model in plan.models
        )
    else:
        turns = (
            (
                iteration,
                model,
                iteration == 1,
                Release.DESTROY if iteration == plan.iterations else Release.RESTART,
            )
            for model in plan.models
            for iteration in iterations
        )
    return [Cycle(index, *turn) for index, turn in enumerate(turns)]
