from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
import pytest

from asrswitch.advice import advise
from asrswitch.cache_states import compare_caches
from asrswitch.plan import CacheState
from asrswitch.records import Cache, Load, Reading, Record
from helpers.records import MIB, cycle, run_of

replace = msgspec.structs.replace


def records_of(
    state: CacheState, load_ms: float, read_mib: int, unproven: Collection[int] = (), **plan: Any
) -> list[Record]:
    """Eight cycles of models a and b; what loads cost of those that are not proven must not count."""
    found: list[Record] = [run_of(4, cache=state, **plan)]
    for index in range(8):
        proven = index not in unproven
        for record in cycle(index, "ab"[index % 2]):
            if isinstance(record, Load):
                place = {name: getattr(record, name) for name in ("cycle", "iteration", "model", "worker")}
                resident = MIB if (state is CacheState.WARM) == proven else 0
                reason = None if proven else "process 7 (x) has it mapped: end it"
                found.append(
                    Cache(
                        **place, wanted=state, bytes=MIB, resident_before_bytes=0, resident_bytes=resident,
                        proven=proven, ms=1.0, reason=reason,
                    )
                )  # fmt: skip
                record = replace(record, load_ms=load_ms if proven else 1e6)
            if isinstance(record, Reading) and record.point == "after_load":
                record = replace(record, memory=replace(record.memory, read_bytes=read_mib * MIB))
            found.append(record)
    return found


COLD, WARM, AS_IS = CacheState.COLD, CacheState.WARM, CacheState.AS_IS


def test_cold_stands_against_warm_by_model() -> None:
    runs = [("cold", records_of(COLD, 300.0, 5, unproven=(0, 1, 2))), ("warm", records_of(WARM, 100.0, 0))]
    of_a, of_b = compare_caches(runs)
    assert (of_a.model, of_a.cold_run, of_a.warm_run) == ("a", "cold", "warm")
    assert (of_a.cold.turns, of_b.cold.turns, of_b.warm.turns) == (2, 3, 4)
    assert (of_a.cold.load_ms, of_a.warm.load_ms) == (300.0, 100.0)
    assert (of_a.cold.ttft_ms, of_a.cold.answer_ms) == (5.0, 305.0)
    assert of_b.line == (
        "b, cold against warm: load 300.0 against 100.0 ms (3.00 times), TTFT 5.0 against 5.0 ms "
        "(1.00 times), both 305.0 against 105.0 ms (2.90 times), 5.0 against 0.0 MiB read from disk; "
        "3 and 4 turns"
    )


def test_a_model_without_proof_is_not_compared() -> None:
    runs = [("cold", records_of(COLD, 300.0, 5, unproven=(0, 2, 4, 6))), ("warm", records_of(WARM, 1.0, 0))]
    assert [item.model for item in compare_caches(runs)] == ["b"]


def test_only_runs_that_are_alike_in_all_else_are_compared() -> None:
    runs = [
        (f"{state.value}-{threads}", records_of(state, 10.0 * threads, 0, threads=threads))
        for state in (COLD, WARM, AS_IS)
        for threads in (1, 2)
    ]
    found = compare_caches(runs)
    pairs = [(item.cold_run, item.warm_run) for item in found]
    assert pairs == [("cold-1", "warm-1")] * 2 + [("cold-2", "warm-2")] * 2
    assert [item.cold.load_ms for item in found] == [10.0, 10.0, 20.0, 20.0]
    assert compare_caches([runs[0], runs[3]]) == []


@pytest.mark.parametrize(
    ("unproven", "invalid", "says"),
    [
        ((), None, ""),
        ((0,), False, "1 of 4"),
        ((0, 2), False, "2 of 4"),
        ((0, 2, 4), True, "3 of 4"),
        ((0, 2, 4, 6), True, "4 of 4"),
    ],
)
def test_what_is_not_proven_is_warned_of_and_makes_most_of_it_a_run_invalid(
    unproven: tuple[int, ...], invalid: bool | None, says: str
) -> None:
    found = [item for item in advise(records_of(COLD, 1.0, 0, unproven)) if "not proven" in item.text]
    assert [item.invalid for item in found] == ([] if invalid is None else [invalid])
    for item in found:
        assert item.line == (
            f"a's file was not proven cold before {says} loads; process 7 (x) has it mapped: end it"
        )


def test_reading_from_the_disk_is_no_surprise_where_files_are_made_cold() -> None:
    def waits(state: CacheState) -> bool:
        records = [
            replace(r, memory=replace(r.memory, major_faults=50)) if isinstance(r, Reading) else r
            for r in records_of(state, 1.0, 1)
        ]
        return any("waited for a disk" in item.text for item in advise(records))

    assert waits(WARM) and waits(AS_IS) and not waits(COLD)
