"""Tensor types of the `.bin` file and the encoding of float32 values into them.

Block layouts and rounding are ggml's, as chatllm.cpp's converter (commit 4a4310e) writes them: files are the
same byte for byte, but for q4_0 blocks of zeros (see `_encode_q4_0`). q4_0_16x4 is this engine's own.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# The embedding, as a file calls it: it is read one row at a time.
READ_BY_ROW = "model.embed_tokens.weight"


class TensorType(IntEnum):
    """Type codes as ggml numbers them; from 256 on they are this engine's own."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q8_0 = 8
    Q4_0_16X4 = 258

    @property
    def block_elements(self) -> int:
        return 1 if self in (TensorType.F32, TensorType.F16) else 32

    @property
    def block_bytes(self) -> int:
        return {
            TensorType.F32: 4,
            TensorType.F16: 2,
            TensorType.Q4_0: 18,
            TensorType.Q4_1: 20,
            TensorType.Q8_0: 34,
            TensorType.Q4_0_16X4: 18,
        }[self]

    @property
    def rows_together(self) -> int:
        """Rows that are stored together."""
        return 16 if self is TensorType.Q4_0_16X4 else 1

    def nbytes(self, elements: int) -> int:
        """Bytes that `elements` values take; `elements` is a multiple of the block's."""
        return elements // self.block_elements * self.block_bytes


class RangeError(ValueError):
    """A value that the tensor type cannot hold."""


def stored_type(name: str, shape: tuple[int, ...], wanted: TensorType) -> TensorType:
    """The type in which the tensor `name` (as the file calls it) is stored in a file of type `wanted`.

    Vectors stay f32; rows that blocks do not divide are f16, those that cannot be stored together q4_0.
    """
    if len(shape) == 1:
        return TensorType.F32
    if shape[-1] % wanted.block_elements:
        return TensorType.F16
    if wanted is TensorType.Q4_0_16X4 and (
        len(shape) != 2 or shape[0] % wanted.rows_together or name == READ_BY_ROW
    ):
        return TensorType.Q4_0
    return wanted


def encode(values: Floats, type: TensorType) -> Bytes:
    """The bytes [n] of `values` [..., columns] in `type`.

    Columns are a multiple of the type's block, and rows one of those that it stores together.

    Raises RangeError for a NaN, an infinity, or a magnitude that a half-precision value or scale cannot hold.
    """
    if not np.isfinite(values).all():
        raise RangeError("it holds a NaN or an infinity")
    if type == TensorType.F32:
        return values.astype("<f4", copy=False).reshape(-1).view(np.uint8)
    if type == TensorType.F16:
        return _half(values).reshape(-1).view(np.uint8)
    blocks = values.reshape(-1, type.block_elements)
    if type == TensorType.Q8_0:
        return _encode_q8_0(blocks).reshape(-1)
    if type == TensorType.Q4_0:
        return _encode_q4_0(blocks).reshape(-1)
    if type == TensorType.Q4_0_16X4:
        return interleave_rows(_encode_q4_0(blocks), values.shape[-1])
    return _encode_q4_1(blocks).reshape(-1)


def interleave_rows(blocks: Bytes, columns: int) -> Bytes:
    """The bytes of rows in q4_0, each of `columns` values, in the order of q4_0_16x4.

    Sixteen rows make a group. It has, for each 32 columns, the scales of its rows, then their nibbles four
    bytes at a time: the first four of every row, the next four of every row, and so on.
    """
    rows, block_bytes = TensorType.Q4_0_16X4.rows_together, TensorType.Q4_0_16X4.block_bytes
    by_column = blocks.reshape(-1, rows, columns // 32, block_bytes).swapaxes(1, 2)
    n_groups, n_blocks = by_column.shape[:2]
    scales = by_column[..., :2].reshape(n_groups, n_blocks, -1)
    words = by_column[..., 2:].reshape(n_groups, n_blocks, rows, 4, 4).swapaxes(2, 3)
    return np.concatenate([scales, words.reshape(n_groups, n_blocks, -1)], axis=2).reshape(-1)


def _encode_q8_0(x: Floats) -> Bytes:
    """[n, 32] → [n, 34]: f16 d, 32 × i8."""
    d = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    q = _ratio(x, d)
    np.rint(q, out=q)
    np.clip(q, -128, 127, out=q)  # only a subnormal d is coarse enough to leave the range
    return np.concatenate([_half(d).view(np.uint8), q.astype(np.int8).view(np.uint8)], axis=1)


def _encode_q4_0(x: Floats) -> Bytes:
    """[n, 32] → [n, 18]: f16 d, nibbles of q with value (q − 8) · d.

    A block of zeros is d = −0 with every q = 8, as ggml has it; chatllm.cpp's converter, dividing zero by
    zero, writes q = 0 there. The values are the same.
    """
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    d = largest / np.float32(-8)
    q = _ratio(x, d)
    q += 8
    return np.concatenate([_half(d).view(np.uint8), _nibbles(q)], axis=1)


def _encode_q4_1(x: Floats) -> Bytes:
    """[n, 32] → [n, 20]: f16 d, f16 m, nibbles of q with value q · d + m."""
    m = x.min(axis=1, keepdims=True)
    with np.errstate(over="ignore"):  # an infinite scale is refused by _half
        d = (x.max(axis=1, keepdims=True) - m) / np.float32(15)
        halves = _half(np.concatenate([d, m], axis=1))
    return np.concatenate([halves.view(np.uint8), _nibbles(_ratio(x - m, d))], axis=1)


def _ratio(x: Floats, d: Floats) -> Floats:
    """x / d for [n, 32] over [n, 1], and 0 where d is 0."""
    return np.divide(x, d, out=np.zeros_like(x), where=d != 0)


def _nibbles(q: Floats) -> Bytes:
    """[n, 32] of quants, not yet rounded → [n, 16]: element j low, element j + 16 high."""
    np.rint(q, out=q)
    np.clip(q, 0, 15, out=q)
    small = q.astype(np.uint8)
    return small[:, :16] + 16 * small[:, 16:]


def _half(values: Floats) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        halves = values.astype("<f2")
    if not np.isfinite(halves).all():
        raise RangeError(f"a magnitude of {np.abs(values).max():g} is beyond half precision; use --type f32")
    return halves
