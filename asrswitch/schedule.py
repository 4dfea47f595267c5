"""The order of the cycles of a run: pure functions of the plan and of what is asked on the way."""

from __future__ import annotations

import enum
import itertools
import random
from collections.abc import Callable, Iterator, Sequence

import msgspec

from asrswitch.model import Model
from asrswitch.plan import Order, Plan, Strategy


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
    """List the cycles of all rounds in the order they will run."""
    return [cycle for cycles in make_rounds(plan) for cycle in cycles]


def make_rounds(plan: Plan) -> list[list[Cycle]]:
    """List the cycles in the order they will run, a list for each of the plan's rounds.

    ``reload`` alternates the models: every cycle loads, transcribes and destroys. ``isolate`` does so too,
    with a process for each cycle, whose exit unloads. ``resident`` alternates them as well, but loads each at
    its first turn of a round and destroys it at its last: in between all are there. ``restart`` never holds
    two models at once: each in turn is loaded, transcribes once an iteration with its context cleared after
    each, and is destroyed at its last. Comparing it with ``reload`` tells what loading adds to what
    transcribing costs.
    """
    numbers = itertools.count()
    return [
        [
            Cycle(
                next(numbers),
                iteration,
                model,
                load=_reloads(plan) or iteration == iterations[0],
                release=_release(plan, last=iteration == iterations[-1]),
            )
            for iteration, model in _turns(plan, iterations)
        ]
        for iterations in _rounds(plan)
    ]


def make_open_schedule(
    plan: Plan, wants_more: Callable[[Sequence[str], int], bool], start: Cycle | None = None
) -> Iterator[Cycle]:
    """Cycles as ``make_schedule`` would list them, of as many iterations as turn out to be needed.

    Args:
        plan: its iterations are the most there will be; its rounds are not looked at.
        wants_more: whether there is to be another iteration, given the labels of the models that it is of
            (``restart`` asks for each in turn, others for all together) and the number of iterations done.
        start: the first cycle to run, where earlier ones were run before.
    """
    index = start.index if start else 0
    keeps = not _reloads(plan)
    each = [[model] for model in _order(plan, 1)] if plan.strategy is Strategy.RESTART else [[*plan.models]]
    for models in each:
        labels = [model.label for model in models]
        if start and start.model.label not in labels:
            continue
        first = iteration = start.iteration if start else 1
        last = False
        while not last:
            wanted = iteration <= plan.iterations - keeps and wants_more(labels, iteration - 1)
            if not (wanted or keeps):
                break
            last = not wanted  # what stays loaded needs an iteration more, which unloads
            for model in _from(start, models if len(models) == 1 else _order(plan, iteration), iteration):
                load = not keeps or iteration == first
                yield Cycle(index, iteration, model, load, _release(plan, last))
                index += 1
            iteration += 1
        start = None


def _from(start: Cycle | None, models: list[Model], iteration: int) -> list[Model]:
    """The models of an iteration that still have a turn."""
    if start is None or iteration != start.iteration:
        return models
    return models[[model.label for model in models].index(start.model.label) :]


def _rounds(plan: Plan) -> list[range]:
    """The iterations of each round, from 1 on, as evenly as they go."""
    ends = [plan.iterations * number // plan.rounds for number in range(plan.rounds + 1)]
    return [range(begin + 1, end + 1) for begin, end in itertools.pairwise(ends) if end > begin]


def _turns(plan: Plan, iterations: range) -> list[tuple[int, Model]]:
    if plan.strategy is Strategy.RESTART:
        return [(iteration, model) for model in _order(plan, iterations[0]) for iteration in iterations]
    return [(iteration, model) for iteration in iterations for model in _order(plan, iteration)]


def _order(plan: Plan, iteration: int) -> list[Model]:
    models = list(plan.models)
    if plan.order is Order.PACKED and iteration % 2 == 0:
        # There and back: what was used last is used next, before it must make room.
        models.reverse()
    if plan.order is Order.SHUFFLE:
        random.Random(f"{plan.seed}/{iteration}").shuffle(models)
    return models


def _reloads(plan: Plan) -> bool:
    return plan.strategy in (Strategy.RELOAD, Strategy.ISOLATE)


def _release(plan: Plan, last: bool) -> Release:
    if plan.strategy is Strategy.ISOLATE:
        return Release.EXIT
    return Release.DESTROY if last or plan.strategy is Strategy.RELOAD else Release.RESTART
