"""The quantisers against a scalar reference in plain Python."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrswitch.convert.quantise import RangeError, TensorType, encode, stored_type
from helpers.container import dequantise_blocks

# Magnitudes whose half-precision scale is neither infinite nor lost in rounding of the reference itself.
VALUES = st.floats(-60000, 60000, width=32)
BLOCK = st.one_of(
    st.lists(VALUES, min_size=32, max_size=32),
    st.lists(st.floats(-0.25, 0.25, width=16), min_size=32, max_size=32),
    # Equal magnitudes, and quants half way between two.
    st.lists(st.integers(-16, 16).map(lambda k: k / 16), min_size=32, max_size=32),
    # Subnormal numbers: the scale is too coarse to keep the quants in range by itself.
    st.lists(st.integers(-300, 300).map(lambda k: k * 2.0**-149), min_size=32, max_size=32),
    VALUES.map(lambda value: [value] * 32),
)
BLOCKS = st.lists(BLOCK, min_size=1, max_size=5)


def f32(value: float) -> float:
    """Round to single precision; exact for one operation on singles done in double precision."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def half(value: float) -> bytes:
    return struct.pack("<e", value)


def quants(values: list[float], d: float, add: float, low: int, high: int) -> list[int]:
    return [min(high, max(low, round(f32(f32(x / d) + add)) if d else round(add))) for x in values]


def nibbles(q: list[int]) -> bytes:
    return bytes(q[j] | q[j + 16] << 4 for j in range(16))


def scalar_q8_0(x: list[float]) -> bytes:
    d = f32(max(abs(v) for v in x) / 127)
    return half(d) + struct.pack("<32b", *quants(x, d, 0, -128, 127))


def scalar_q4_0(x: list[float]) -> bytes:
    largest = max(x, key=abs)  # the first of equals
    d = f32(largest / -8)
    return half(d) + nibbles(quants(x, d, 8, 0, 15))


def scalar_q4_1(x: list[float]) -> bytes:
    low, high = min(x), max(x)
    d = f32(f32(high - low) / 15)
    return half(d) + half(low) + nibbles(quants([f32(v - low) for v in x], d, 0, 0, 15))


SCALAR = {TensorType.Q8_0: scalar_q8_0, TensorType.Q4_0: scalar_q4_0, TensorType.Q4_1: scalar_q4_1}


@pytest.mark.parametrize("type", SCALAR, ids=lambda type: type.name)
@given(blocks=BLOCKS)
def test_blocks_equal_the_scalar_reference(type: TensorType, blocks: list[list[float]]) -> None:
    # Adding zero makes −0 into 0: min() and max() may return either of two equal zeros.
    values = np.array(blocks, np.float32).reshape(-1) + np.float32(0)
    expected = b"".join(SCALAR[type](values[i : i + 32].tolist()) for i in range(0, len(values), 32))
    assert encode(values, type).tobytes() == expected


@pytest.mark.parametrize(
    ("type", "relative_step"),
    [(TensorType.Q8_0, 1 / 127), (TensorType.Q4_0, 1 / 8), (TensorType.Q4_1, 2 / 15)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_dequantised_values_are_within_a_step(type: TensorType, relative_step: float) -> None:
    values = np.random.default_rng(0).standard_normal(64 * 32).astype(np.float32)
    back = dequantise_blocks(encode(values, type).tobytes(), type)
    peaks = np.abs(values).reshape(-1, 32).max(axis=1, keepdims=True)
    # q4_0 clamps +peak when the largest is negative: a whole step; else half, and the scale's own rounding.
    ceiling = peaks * relative_step * (1.0 if type == TensorType.Q4_0 else 0.51) + 16 * peaks * 2.0**-11
    assert (np.abs(values - back).reshape(-1, 32) <= ceiling).all()


def test_float_types_are_exact_encodings() -> None:
    values = np.array([0.0, -1.5, 1 / 3, 65504.0], np.float32)
    assert encode(values, TensorType.F32).tobytes() == struct.pack("<4f", *values)
    assert encode(values, TensorType.F16).tobytes() == struct.pack("<4e", *values)


@pytest.mark.parametrize("type", TensorType, ids=lambda type: type.name)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(type: TensorType, bad: float) -> None:
    values = np.zeros(32, np.float32)
    values[7] = bad
    with pytest.raises(RangeError, match="NaN or an infinity"):
        encode(values, type)


@pytest.mark.parametrize("type", [t for t in TensorType if t != TensorType.F32], ids=lambda type: type.name)
def test_magnitudes_beyond_half_precision_are_refused(type: TensorType) -> None:
    values = np.zeros(32, np.float32)
    values[:2] = -3e38, 3e38
    with pytest.raises(RangeError, match="--type f32"):
        encode(values, type)


def test_rows_that_blocks_do_not_divide_fall_back_to_f16() -> None:
    assert stored_type("a", (100,), TensorType.Q4_0) == TensorType.F32
    assert stored_type("a", (4, 1, 3, 3), TensorType.Q8_0) == TensorType.F16
    assert stored_type("a", (4, 1, 3, 3), TensorType.F32) == TensorType.F32
    assert stored_type("a", (3, 64), TensorType.Q4_1) == TensorType.Q4_1
    assert stored_type("a", (3, 48), TensorType.Q4_1) == TensorType.F16
