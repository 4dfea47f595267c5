"""The order of the cycles of a run: a pure function of the plan."""

from __future__ import annotations

import enum
import random

import msgspec

from asrswitch.plan import Model, Order, Plan, Strategy


class Release(enum.Enum):
    """How a cycle ends."""

    DESTROY = "destroy"
    RESTART = "restart"
    EXIT = "exit"  # of the process


class Cycle(msgspec.Struct, frozen=True):
    """One model's turn. ``index`` counts cycles from 0, ``iteration`` from 1."""

    index: int
    iteration: int
    model: Model
    load: bool
    release: Release


def make_schedule(plan: Plan) -> list[Cycle]:
    """List the cycles in the order they will run.

    ``reload`` alternates the models: every cycle loads, transcribes and destroys. ``isolate`` does so too,
    with a process for each cycle, whose exit unloads. ``resident`` alternates them as well, but loads each at
    its first turn and destroys it at its last: in between all are there. ``restart`` never holds two models
    at once: each in turn is loaded, transcribes once an iteration with its context cleared after each, and is
    destroyed at its last. Comparing it with ``reload`` tells what loading adds to what transcribing costs.
    """
    iterations = range(1, plan.iterations + 1)
    if plan.strategy is Strategy.RESTART:
        turns = [(iteration, model) for model in _order(plan, 0) for iteration in iterations]
    else:
        turns = [(iteration, model) for iteration in iterations for model in _order(plan, iteration)]
    return [
        Cycle(index, iteration, model, _loads(plan, iteration), _release(plan, iteration))
        for index, (iteration, model) in enumerate(turns)
    ]


def _order(plan: Plan, iteration: int) -> list[Model]:
    models = list(plan.models)
    if plan.order is Order.SHUFFLE:
        random.Random(f"{plan.seed}/{iteration}").shuffle(models)
    return models


def _loads(plan: Plan, iteration: int) -> bool:
    return plan.strategy in (Strategy.RELOAD, Strategy.ISOLATE) or iteration == 1


def _release(plan: Plan, iteration: int) -> Release:
    if plan.strategy is Strategy.ISOLATE:
        return Release.EXIT
    if plan.strategy is Strategy.RELOAD or iteration == plan.iterations:
        return Release.DESTROY
    return Release.RESTART
