"""Which readings a verdict is made from, where servers are restarted and models make room for others."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from asrswitch.judged import judged_readings
from asrswitch.plan import Order, Strategy
from asrswitch.records import Eviction, Record, Renewal, WorkerStarted
from asrswitch.schedule import Release as ReleaseKind
from asrswitch.summary import summarise
from asrswitch.worker.protocol import Capabilities
from helpers.records import cycle, run_of

SERVER: Capabilities = {
    "streams": True,
    "loads": True,
    "restarts": True,
    "forces_language": False,
    "runs_processes": True,
}


def place(index: int) -> dict[str, Any]:
    return {"cycle": index, "iteration": index // 2 + 1, "model": "ab"[index % 2], "worker": 1}


def stamped(records: list[Record], seconds: float = 1.0) -> list[Record]:
    """Each so many seconds after the one before."""
    found = []
    for number, record in enumerate(records):
        second = number * seconds
        at = f"2026-01-01T00:{int(second // 60):02}:{second % 60:06.3f}+00:00"
        found.append(msgspec.structs.replace(record, at=at))
    return found


def test_a_restart_of_the_server_begins_another_process() -> None:
    cycles = [cycle(index, "ab"[index % 2]) for index in range(40)]
    renewal: Record = Renewal(**place(12), reason="failure", ms=1.0)
    before, after = (itertools.chain.from_iterable(those) for those in (cycles[:12], cycles[12:]))
    records = [run_of(20), *before, renewal, *after]
    (judged,) = judged_readings(records).subjects.values()
    assert [reading.iteration for reading in judged] == [*range(7, 21)]


def test_a_server_that_is_restarted_each_time_is_judged_over_its_restarts() -> None:
    records: list[Record] = [run_of(20, restart_above_bytes=0)]
    for index in range(40):
        records += [Renewal(**place(index), reason="large", ms=1.0), *cycle(index, "ab"[index % 2])]
    judged = judged_readings(records)
    assert not judged.one_process
    assert [len(those) for those in judged.subjects.values()] == [20]


def test_readings_without_the_server_are_left_out() -> None:
    records: list[Record] = [run_of(20), WorkerStarted(1, 7, "log", capabilities=SERVER)]
    for index in range(40):
        for record in cycle(index, "ab"[index % 2]):
            seen = 0 if index == 21 else 1
            change = {"processes": seen} if "processes" in record.__struct_fields__ else {}
            records.append(msgspec.structs.replace(record, **change))
    (judged,) = judged_readings(records).subjects.values()
    assert [reading.iteration for reading in judged] == [number for number in range(1, 21) if number != 11]


def packed_records(iterations: int) -> list[Record]:
    """Two models in the place of one, there and back; each time that one loads, the other has left."""
    plan = run_of(iterations, strategy=Strategy.RESIDENT, order=Order.PACKED)
    records: list[Record] = [plan]
    for index in range(2 * iterations):
        iteration = index // 2
        label = "ab"[(index + iteration) % 2]
        load = index % 2 == 1 or index == 0
        if load and index:
            other = "ba"["ab".index(label)]
            where = {**place(index), "model": label}
            records.append(Eviction(**where, evicted=other, release_ms=2000.0))
        records += cycle(index, label, how=ReleaseKind.RESTART, load=load)
    return records


def test_where_models_make_room_readings_with_the_same_models_are_judged() -> None:
    (judged,) = judged_readings(packed_records(30)).subjects.values()
    assert {reading.iteration % 2 for reading in judged} == {judged[0].iteration % 2}
    assert len(judged) == 15


def test_what_making_room_takes_is_in_the_time_of_all_cycles_and_in_a_turn() -> None:
    records = packed_records(3)
    evictions = [record for record in records if isinstance(record, Eviction)]
    with_room = summarise(stamped(records))
    assert with_room.cycles_s is not None
    without = [msgspec.structs.replace(r, release_ms=0.0) if isinstance(r, Eviction) else r for r in records]
    of_none = summarise(stamped(without))
    assert of_none.cycles_s is not None
    assert with_room.cycles_s - of_none.cycles_s == pytest.approx(2.0 * len(evictions))
    assert with_room.packed and (with_room.packed.loads, with_room.packed.turns) == (4, 6)
    b = with_room.models[1]
    assert b.switch_ms and b.switch_ms.median > 2000


def test_renewals_before_large_models_are_in_what_switching_adds() -> None:
    records: list[Record] = [run_of(3, restart_above_bytes=0)]
    for index in range(6):
        records += [Renewal(**place(index), reason="large", ms=500.0), *cycle(index, "ab"[index % 2])]
    for model in summarise(records).models:
        assert model.overhead_ms and model.overhead_ms.minimum > 600
        assert model.answer_ms and model.answer_ms.minimum > 600
