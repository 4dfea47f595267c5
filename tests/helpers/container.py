"""Reading `.bin` model files back, and rewriting them with weights of another type; for tests only.

The reader is written from the description of the format alone, apart from the writer, so that it can vouch
for it.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asrswitch.convert.quantise import TensorType, encode, stored_type

F32, F16, Q4_0, Q4_1, Q8_0, Q4_0_16X4 = 0, 1, 2, 3, 8, 258
_BLOCKS = {
    F32: (1, 4), F16: (1, 2), Q4_0: (32, 18), Q4_1: (32, 20), Q8_0: (32, 34), Q4_0_16X4: (32, 18)
}  # fmt: skip

CONFIG_FIELDS = [
    "dtype",
    "vocab_size",
    "hidden_size",
    "num_attention_heads",
    "num_hidden_layers",
    "intermediate_size",
    "max_length",
    "bos",
    "eos",
    "pad",
    "sep",
    "num_key_value_heads",
    "head_dim",
    "rope_theta",
    "yarn_factor",
    "yarn_original_length",
    "decoder_sparse_step",
    "moe_intermediate_size",
    "experts_per_token",
    "experts",
    "norm_topk_prob",
    "tie_word_embeddings",
]


@dataclass(frozen=True)
class Tensor:
    """A tensor record: `offset` of its data in the file, and the data as it is stored."""

    shape: tuple[int, ...]
    type: int
    offset: int
    data: bytes

    def values(self) -> NDArray[np.float32]:
        """The weights as float32, in `shape`."""
        if self.type == Q4_0_16X4:
            data, type = separate(self.data, self.shape[1]), Q4_0
        else:
            data, type = self.data, self.type
        return dequantise_blocks(data, type).reshape(self.shape)


@dataclass(frozen=True)
class Container:
    metadata: dict[str, Any]
    model_type: int
    model_version: int
    config: dict[str, Any]
    vocabulary: list[tuple[bytes, int]]
    merges: list[bytes]
    tensors: dict[str, Tensor]
    head: bytes  # everything before the first tensor record


def read_container(path: Path) -> Container:
    """Parse a model file that is known to be sound."""
    data = path.read_bytes()
    magic, version, model_at, vocabulary_at, tensors_at = struct.unpack_from("<4s4I", data)
    assert (magic, version) == (b"ggmm", 1)
    metadata = json.loads(data[20:model_at].rstrip(b"\0"))
    model_type, model_version = struct.unpack_from("<2i", data, model_at)
    assert vocabulary_at - model_at == 8 + 616
    config: dict[str, Any] = dict(
        zip(CONFIG_FIELDS, struct.unpack_from("<13i2f7i", data, model_at + 8), strict=True)
    )
    tables = struct.unpack_from("<132i", data, model_at + 8 + 88)
    config |= {"layer_is_sparse": tables[:128], "mrope_section": tables[128:]}

    vocabulary: list[tuple[bytes, int]] = []
    at = vocabulary_at
    while (length := struct.unpack_from("<i", data, at)[0]) >= 0:
        vocabulary.append((data[at + 4 : at + 4 + length], data[at + 4 + length]))
        at += 4 + length + 1
    at += 4
    merges: list[bytes] = []
    while (length := struct.unpack_from("<i", data, at)[0]) >= 0:
        merges.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    assert at + 4 == tensors_at

    tensors: dict[str, Tensor] = {}
    at = tensors_at
    while at < len(data):
        (length,) = struct.unpack_from("<i", data, at)
        name = data[at + 4 : at + 4 + length].decode()
        at += 4 + length
        (dimensions,) = struct.unpack_from("<i", data, at)
        *shape, type_code = struct.unpack_from(f"<{dimensions + 1}i", data, at + 4)
        at += 4 * (dimensions + 2)
        padding = -at % 16
        assert data[at : at + padding] == bytes(padding)
        at += padding
        elements, block_bytes = _BLOCKS[type_code]
        nbytes = int(np.prod(shape)) // elements * block_bytes
        assert name not in tensors and at + nbytes <= len(data)
        tensors[name] = Tensor(tuple(shape), type_code, at, data[at : at + nbytes])
        at += nbytes
    return Container(
        metadata, model_type, model_version, config, vocabulary, merges, tensors, data[:tensors_at]
    )


def dequantise_blocks(data: bytes, type_code: int) -> NDArray[np.float32]:
    """The values of consecutive blocks, flattened."""
    if type_code == F32:
        return np.frombuffer(data, "<f4")
    if type_code == F16:
        return np.frombuffer(data, "<f2").astype(np.float32)
    blocks = np.frombuffer(data, np.uint8).reshape(-1, _BLOCKS[type_code][1])
    d = _halves(blocks[:, :2])
    if type_code == Q8_0:
        values = blocks[:, 2:].view(np.int8) * d
    else:
        nibbles = blocks[:, -16:]
        q = np.concatenate([nibbles & 15, nibbles >> 4], axis=1).astype(np.int8)
        values = (q - 8) * d if type_code == Q4_0 else q * d + _halves(blocks[:, 2:4])
    return values.reshape(-1)


def separate(data: bytes, columns: int) -> bytes:
    """A matrix of q4_0_16x4 as q4_0, `columns` wide, byte by byte from the description of the format.

    Sixteen rows together have 288 bytes for each 32 columns: scales of 2 bytes by row, then in four pieces of
    64 bytes four bytes by row.
    """
    places = []  # of each byte of row r's block of 18: its scale, and nibble bytes 0 to 15
    for r in range(16):
        places += [2 * r, 2 * r + 1]
        places += [32 + 64 * (byte // 4) + 4 * r + byte % 4 for byte in range(16)]
    blocks = np.frombuffer(data, np.uint8).reshape(-1, columns // 32, 288)[:, :, places]
    return blocks.reshape(-1, columns // 32, 16, 18).swapaxes(1, 2).tobytes()


def _halves(columns: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[n, 2] bytes of half-precision numbers → [n, 1]."""
    return np.asarray(columns.copy().view("<f2"), np.float32)


def rewrite(source: Path, target: Path, type: TensorType) -> None:
    """Write the model file `source` again as `target`, its matrices as `type` of their blocks' values."""
    container = read_container(source)
    model_at = struct.unpack_from("<I", container.head, 8)[0]
    head = bytearray(container.head)
    struct.pack_into("<i", head, model_at + 8, type)
    with target.open("wb") as file:
        file.write(head)
        for name, tensor in container.tensors.items():
            raw = name.encode()
            shape = tensor.shape
            stored = stored_type(name, shape, type)
            file.write(struct.pack("<i", len(raw)) + raw)
            file.write(struct.pack(f"<{len(shape) + 2}i", len(shape), *shape, stored))
            file.write(bytes(-file.tell() % 16))
            file.write(encode(tensor.values().astype(np.float32), stored).tobytes())


def dequantise(source: Path, target: Path) -> None:
    """Rewrite a model file with every tensor as f32."""
    rewrite(source, target, TensorType.F32)
