"""Which cycles which run has next, where several take turns or go on after an interruption."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from asrswitch.deciding import Deciding
from asrswitch.plan import Plan
from asrswitch.records import Reading, Record
from asrswitch.resume import position
from asrswitch.schedule import Cycle, make_open_schedule, make_rounds


def take_turns(plans: Sequence[Plan], logs: Sequence[list[Record]]) -> Iterator[tuple[int, Iterable[Cycle]]]:
    """Stretches of cycles, each with the index of its run, in the order that they are to run in.

    In every round each run has its stretch; the run that begins rotates, so that none is always first.

    Args:
        plans: of the runs; of one alone the iterations may be open.
        logs: their records so far. Cycles that are over by them are left out, and the lists are to grow with
            the runs.
    """
    if len(plans) == 1 and plans[0].until_decided:
        yield 0, _open_cycles(plans[0], logs[0])
        return
    firsts = [_first_index(plan, log) for plan, log in zip(plans, logs, strict=True)]
    for number, stretches in enumerate(zip(*(make_rounds(plan) for plan in plans), strict=True)):
        for turn in range(len(plans)):
            run = (number + turn) % len(plans)
            if left := [cycle for cycle in stretches[run] if cycle.index >= firsts[run]]:
                yield run, left


def n_cycles_over(logs: Sequence[Sequence[Record]]) -> int:
    """How many cycles have come to their end, by the records of runs."""
    return sum(
        len(
            {record.cycle for record in log if isinstance(record, Reading) and record.point == "after_unload"}
        )
        for log in logs
    )


def _open_cycles(plan: Plan, log: list[Record]) -> Iterable[Cycle]:
    deciding = Deciding(plan, log)
    came = position(plan, log)
    cycles = make_open_schedule(plan, deciding.wants_more, came.cycle if came else None)
    return itertools.islice(cycles, 1, None) if came and came.over else cycles


def _first_index(plan: Plan, log: Sequence[Record]) -> int:
    came = position(plan, log)
    return came.cycle.index + came.over if came else 0
