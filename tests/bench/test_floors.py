"""The least time that stages could take."""

from __future__ import annotations

import pytest
from hypothesis import given

from asrswitch.bench.floors import floor_ms, total_floor_ms
from asrswitch.stages import Account, Stage
from helpers.accounts import accounts

CEILINGS = {"read": 40e9, "int8": 1000e9, "bf16": 500e9, "f32": 250e9}


def test_the_floor_is_the_longer_of_computing_and_reading() -> None:
    # 100 G at 1000 G/s and 25 G at 250 G/s: 100 ms + 100 ms; 4 GB at 40 GB/s: 100 ms
    operations = {"int8": 100_000_000_000, "f32": 25_000_000_000}
    assert floor_ms(Stage("encoder", 1, operations, 4_000_000_000), CEILINGS) == pytest.approx(200)
    assert floor_ms(Stage("encoder", 1, {"bf16": 1}, 4_000_000_000), CEILINGS) == pytest.approx(100)


def test_there_is_no_floor_without_counts_or_without_a_ceiling() -> None:
    assert floor_ms(Stage("mel", 1), CEILINGS) is None
    assert floor_ms(Stage("mel", 1, {"f32": 0}), CEILINGS) is None
    assert floor_ms(Stage("mel", 1, {"f32": 1}), {"read": 1.0}) is None
    assert floor_ms(Stage("mel", 1, {}, 1), {"f32": 1.0}) is None


def test_the_whole_floor_adds_up_and_is_not_given_in_part() -> None:
    reading = Stage("first_token", 1, {}, 4_000_000_000)
    computing = Stage("prefill", 1, {"bf16": 500_000_000})
    assert total_floor_ms([Stage("mel", 5), computing, reading], CEILINGS) == pytest.approx(101)
    assert total_floor_ms([computing, reading], {"read": 40e9}) is None
    assert total_floor_ms([Stage("mel", 5)], CEILINGS) is None
    assert total_floor_ms([], CEILINGS) is None


@given(accounts)
def test_a_machine_twice_as_fast_needs_half_the_time(account: Account) -> None:
    slow = total_floor_ms(account.stages, CEILINGS)
    fast = total_floor_ms(account.stages, {kind: 2 * rate for kind, rate in CEILINGS.items()})
    assert fast == (None if slow is None else pytest.approx(slow / 2))
