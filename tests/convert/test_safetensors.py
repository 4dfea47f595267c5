"""The safetensors reader on sound, odd and damaged files."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asrswitch.convert.safetensors import SafetensorsFile, checkpoint_files
from asrswitch.errors import AsrSwitchError
from helpers.checkpoint import from_bf16, to_bf16, write_safetensors


def read_all(path: Path, piece: int = 1 << 20) -> dict[str, NDArray[np.float32]]:
    with SafetensorsFile(path) as file:
        return {
            name: np.concatenate([*file.blocks(info, piece), np.empty(0, np.float32)]).reshape(info.shape)
            for name, info in file.tensors.items()
        }


def write_raw(path: Path, header: Any, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def entry(dtype: Any, shape: Any, begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("piece", [1, 7, 64, 1 << 20])
def test_all_dtypes_and_piece_sizes(tmp_path: Path, piece: int) -> None:
    values = np.random.default_rng(3).standard_normal((5, 13)).astype(np.float32)
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"bf": to_bf16(values), "h": values.astype(np.float16), "f": values})
    tensors = read_all(path, piece)
    np.testing.assert_array_equal(tensors["f"], values)
    np.testing.assert_array_equal(tensors["h"], values.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(tensors["bf"], from_bf16(to_bf16(values)))


GOOD = entry("F32", [2], 0, 8)
DAMAGED: dict[str, tuple[Any, bytes, str]] = {
    "not JSON": (b"{nonsense", b"", "not JSON"),
    "not UTF-8": (b'{"\xff":1}', b"", "not UTF-8"),
    "NaN in JSON": (b'{"a":NaN}', b"", "not JSON"),
    "half a surrogate": (b'{"\\ud800":1}', b"", "surrogate"),
    "deep nesting": (b"[" * 100_000, b"", "nested"),
    "a list": (b"[]", b"", "object is needed"),
    "no entry": ({"a": 3}, b"", "lacks dtype"),
    "no offsets": ({"a": {"dtype": "F32", "shape": [1]}}, bytes(4), "lacks dtype"),
    "dtype unknown": ({"a": entry("F64", [1], 0, 8)}, bytes(8), "supported are F32, F16, BF16"),
    "dtype a list": ({"a": entry(["F32"], [1], 0, 4)}, bytes(4), "supported are"),
    "negative size": ({"a": entry("F32", [-1, -2], 0, 8)}, bytes(8), "not a list of sizes"),
    "size a fraction": ({"a": entry("F32", [2.0], 0, 8)}, bytes(8), "not a list of sizes"),
    "size a truth value": ({"a": entry("F32", [True], 0, 4)}, bytes(4), "not a list of sizes"),
    "wrapping product": ({"a": entry("F32", [2**32, 2**32], 0, 0)}, b"", "bytes of data, shape"),
    "three offsets": ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}, bytes(8), "not two"),
    "end before begin": ({"a": entry("F32", [1], 8, 4)}, bytes(8), "is not within 8 bytes"),
    "beyond the end": ({"a": entry("F32", [4], 0, 16)}, bytes(8), "is not within 8 bytes"),
    "shape and data differ": (
        {"a": entry("F32", [3], 0, 8)},
        bytes(8),
        "8 bytes of data, shape [3] takes 12",
    ),
    "overlap": ({"a": GOOD, "b": entry("F32", [2], 4, 12)}, bytes(12), "overlaps"),
    "same place twice": ({"a": GOOD, "b": GOOD}, bytes(8), "overlaps"),
    "gap": ({"a": GOOD, "b": entry("F32", [1], 12, 16)}, bytes(16), "gap"),
    "bytes left over": ({"a": GOOD}, bytes(9), "1 bytes after the last tensor"),
}


@pytest.mark.parametrize(("header", "data", "fault"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_one_clear_line(tmp_path: Path, header: Any, data: bytes, fault: str) -> None:
    path = tmp_path / "model.safetensors"
    write_raw(path, header, data)
    with pytest.raises(AsrSwitchError) as caught:
        read_all(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and fault in message and "\n" not in message


@pytest.mark.parametrize("raw", [b"", b"1234567", struct.pack("<Q", 2**63), struct.pack("<Q", 3) + b"{}"])
def test_header_length_beyond_the_file(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw)
    with pytest.raises(AsrSwitchError, match="damaged safetensors file"):
        SafetensorsFile(path)


def test_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": np.ones(1000, np.float32)})
    with SafetensorsFile(path) as file:
        os.truncate(path, 1000)
        with pytest.raises(AsrSwitchError, match="ends inside the data of a"):
            list(file.blocks(file.tensors["a"], 1 << 20))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(
    flips=st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), max_size=6), cut=st.integers(0, 400)
)
def test_random_damage_is_an_error_or_a_sound_reading(
    tmp_path: Path, flips: list[tuple[int, int]], cut: int
) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": np.ones((4, 5), np.float32), "b": np.ones(30, np.float16)})
    data = bytearray(path.read_bytes())
    for position, byte in flips:
        data[position % len(data)] = byte
    path.write_bytes(data[: max(len(data) - cut, 0)] if cut < 100 else data)
    try:
        tensors = read_all(path)
    except AsrSwitchError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
    else:
        assert all(array.dtype == np.float32 for array in tensors.values())


@pytest.mark.parametrize(
    ("index", "fault"),
    [
        ({}, "no weight_map"),
        ({"weight_map": {}}, "no weight_map"),
        ({"weight_map": {"a": "../secret.safetensors"}}, "does not name a shard"),
        ({"weight_map": {"a": "/etc/passwd"}}, "does not name a shard"),
        ({"weight_map": {"a": 5}}, "does not name a shard"),
    ],
)
def test_index_is_not_trusted(tmp_path: Path, index: dict[str, Any], fault: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(AsrSwitchError, match=fault) as caught:
        checkpoint_files(tmp_path)
    assert str(caught.value).startswith(str(path))
