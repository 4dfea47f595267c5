"""Reading safetensors files: one file, or shards named by `model.safetensors.index.json`.

Layout: u64 header length, a JSON header {name: {dtype, shape, data_offsets}}, then the data, which the
tensors cover without a gap or an overlap (https://huggingface.co/docs/safetensors). Data is read in bounded
pieces with plain reads: pages of a mapping count as this process's memory, the page cache does not.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asrswitch.convert.reading import parse_json_object, read_error, read_json_object
from asrswitch.errors import AsrSwitchError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# The format's own ceiling for the header.
MAX_HEADER_BYTES = 100_000_000

_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # the upper half of an F32
}


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: `offset` is absolute, in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


class SafetensorsFile:
    """One open safetensors file; its header is checked in full when it is opened.

    Raises AsrSwitchError, naming the file, for anything that the format does not allow.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise read_error(path, error) from None
        try:
            self.tensors = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def blocks(self, info: TensorInfo, max_elements: int) -> Iterator[NDArray[np.float32]]:
        """The tensor's values in order, flattened, as float32 arrays of at most `max_elements`.

        An array is valid until the next one is asked for.
        """
        dtype = _DTYPES[info.dtype]
        for start in range(0, info.elements, max_elements):
            count = min(max_elements, info.elements - start)
            raw = np.empty(count, dtype)
            self._read_into(raw.view(np.uint8), info.offset + start * dtype.itemsize, f"data of {info.name}")
            if info.dtype == "BF16":
                wide = raw.astype(np.uint32)
                wide <<= 16
                yield wide.view(np.float32)
            else:
                yield raw.astype(np.float32, copy=False)

    def _read_into(self, target: NDArray[np.uint8], offset: int, what: str) -> None:
        view = target.data
        done = 0
        try:
            self._file.seek(offset)
            while done < len(view):
                read = self._file.readinto(view[done:])
                if not read:
                    raise self._error(f"ends inside the {what} (at byte {offset + done})")
                done += read
        except OSError as error:
            raise read_error(self.path, error) from None

    def _read_header(self) -> dict[str, TensorInfo]:
        size = os.fstat(self._file.fileno()).st_size
        if size < 8:
            raise self._error(f"{size} bytes are too few for a header")
        prefix = np.empty(8, np.uint8)
        self._read_into(prefix, 0, "header length")
        (length,) = struct.unpack("<Q", prefix.tobytes())
        if length > MAX_HEADER_BYTES or length > size - 8:
            raise self._error(f"header length {length} does not fit a file of {size} bytes")
        text = np.empty(length, np.uint8)
        self._read_into(text, 8, "header")
        try:
            header = parse_json_object(text.tobytes().decode("utf-8"), self.path)
        except UnicodeDecodeError as error:
            raise self._error(f"header not UTF-8 at byte {8 + error.start}") from None
        data_start = 8 + int(length)
        data_bytes = size - data_start
        header.pop("__metadata__", None)
        tensors = {name: self._tensor(name, entry, data_start, data_bytes) for name, entry in header.items()}
        self._check_coverage(tensors, data_start, data_bytes)
        return tensors

    def _tensor(self, name: str, entry: object, data_start: int, data_bytes: int) -> TensorInfo:
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
            raise self._error(f"tensor {name}: the header entry lacks dtype, shape or data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise AsrSwitchError(
                f"{self.path}: tensor {name} has dtype {dtype}; supported are {', '.join(_DTYPES)}:"
                " convert the original, unquantised checkpoint"
            )
        if not _is_list_of_sizes(shape):
            raise self._error(f"tensor {name}: shape {shape} is not a list of sizes")
        if not _is_list_of_sizes(offsets) or len(offsets) != 2:
            raise self._error(f"tensor {name}: data_offsets {offsets} are not two positions")
        begin, end = offsets
        if not begin <= end <= data_bytes:
            raise self._error(f"tensor {name}: data {begin} to {end} is not within {data_bytes} bytes")
        needed = math.prod(shape) * _DTYPES[dtype].itemsize
        if end - begin != needed:
            raise self._error(f"tensor {name}: {end - begin} bytes of data, shape {shape} takes {needed}")
        return TensorInfo(name, dtype, tuple(shape), data_start + begin)

    def _check_coverage(self, tensors: dict[str, TensorInfo], data_start: int, data_bytes: int) -> None:
        position = data_start
        for info in sorted(tensors.values(), key=lambda info: (info.offset, info.elements)):
            if info.offset != position:
                kind = "overlaps the tensor before it" if info.offset < position else "leaves a gap before it"
                raise self._error(f"tensor {info.name}: data at byte {info.offset} {kind}")
            position += info.elements * _DTYPES[info.dtype].itemsize
        if position != data_start + data_bytes:
            raise self._error(f"{data_start + data_bytes - position} bytes after the last tensor")

    def _error(self, fault: str) -> AsrSwitchError:
        return AsrSwitchError(f"{self.path}: damaged safetensors file: {fault}; download it again")


def checkpoint_files(directory: Path) -> list[Path]:
    """The weight files of a checkpoint, in the order of their names; a present index decides which.

    Raises AsrSwitchError when there is none, or when the index is not to be trusted.
    """
    index_path = directory / INDEX_FILE
    if not index_path.exists():
        if not (directory / SINGLE_FILE).exists():
            raise AsrSwitchError(
                f"{directory}: neither {SINGLE_FILE} nor {INDEX_FILE} is there;"
                " give the folder of a checkpoint in safetensors format"
            )
        return [directory / SINGLE_FILE]
    weight_map = read_json_object(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise AsrSwitchError(f"{index_path}: no weight_map; download the file again")
    names = set()
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise AsrSwitchError(f"{index_path}: tensor {tensor}: {name!r} does not name a shard beside it")
        names.add(name)
    return [directory / name for name in sorted(names)]


def _is_list_of_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)
