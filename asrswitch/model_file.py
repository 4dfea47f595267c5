"""Reading `.bin` model files, whoever wrote them: headers and counts only, never the weights themselves.

Nothing is believed before it is checked: sizes against what remains of the file, and texts against a limit
before they are read, so that a small or hostile file costs little memory.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import msgspec

from asrswitch.convert.container import (
    CONTAINER_VERSION,
    HEADER_BYTES,
    MAGIC,
    MAX_LAYERS,
    MODEL_TYPE_QWEN3_ASR,
    MODEL_VERSION,
    MROPE_SECTIONS,
    SYNTHETIC_KEY,
    TENSOR_ALIGNMENT,
    TOKEN_NORMAL,
)
from asrswitch.convert.quantise import TensorType
from asrswitch.errors import AsrSwitchError, printable

# The engine's limits. Official files have 30 KB of metadata, 612 or 708 tensors and 62 added tokens.
_MOST_METADATA_BYTES = 16 << 20
_MOST_NAME_BYTES = 256
_MOST_DIMENSIONS = 4
_MOST_TENSORS = 1 << 16
_MOST_TOKEN_BYTES = 1024
_MOST_MERGE_BYTES = 2 * _MOST_TOKEN_BYTES + 1
_MOST_ADDED_TOKENS = 1 << 16

ANEW = "copy it again, or make it anew by `models convert`"  # what to do about a file at fault

_CONFIG = struct.Struct(f"<13i2f7i{MAX_LAYERS}i{MROPE_SECTIONS}i")
_I32 = struct.Struct("<i")
_BUFFER_BYTES = 1 << 16


class StoredType(msgspec.Struct, frozen=True):
    """How a tensor's values are stored: so many of a row in so many bytes, several rows at once."""

    name: str
    block_elements: int
    block_bytes: int
    rows_together: int = 1
    this_engine_only: bool = False


_FIRST_OWN_TYPE = 256  # below are ggml's
# q4_K is in published files, and the engine reads it; the converter does not write it.
STORED_TYPES = {12: StoredType("q4_K", 256, 144)} | {
    int(type): StoredType(
        type.name.lower(), type.block_elements, type.block_bytes, type.rows_together, type >= _FIRST_OWN_TYPE
    )
    for type in TensorType
}


class Tensor(msgspec.Struct, frozen=True):
    """A tensor's record. ``shape`` has the slowest dimension first, ``bytes`` are those of its data."""

    name: str
    shape: tuple[int, ...]
    type: StoredType
    bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


class DecoderConfig(msgspec.Struct, frozen=True):
    """The decoder's sizes, as the config block has them."""

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    inner_width: int
    max_length: int
    rope_theta: float


class Vocabulary(msgspec.Struct, frozen=True):
    """Counts of the vocabulary's records, and the ids of those that are no normal tokens, by their text."""

    normal_tokens: int
    added_ids: dict[str, int]
    merges: int


class ModelFile(msgspec.Struct, frozen=True):
    """What a model file holds. Four byte counts add up to the file's size."""

    file_bytes: int
    metadata: dict[str, Any]
    decoder: DecoderConfig
    vocabulary: Vocabulary
    tensors: tuple[Tensor, ...]
    metadata_bytes: int  # with the header and the config
    vocabulary_bytes: int
    record_bytes: int  # names, shapes and padding of the tensors
    data_bytes: int


def read_model_file(path: Path) -> ModelFile:
    """Walk over the whole file, past the tensors' data.

    Raises:
        AsrSwitchError: it cannot be read or is at fault; one line that names the file, the field and its
            offset.
    """
    with _open(path) as reader:
        metadata_at, vocabulary_at, tensors_at = _read_header(reader)
        metadata = _parse_metadata(reader, _read_metadata(reader, metadata_at))
        decoder = _read_config(reader, vocabulary_at)
        vocabulary = _read_vocabulary(reader, tensors_at)
        if reader.position != tensors_at:
            reader.fail(
                "offset of the tensors", 16, f"is {tensors_at}, but the merges end at {reader.position}"
            )
        tensors = tuple(_read_tensors(reader))
        data_bytes = sum(tensor.bytes for tensor in tensors)
        return ModelFile(
            file_bytes=reader.size,
            metadata=metadata,
            decoder=decoder,
            vocabulary=vocabulary,
            tensors=tensors,
            metadata_bytes=vocabulary_at,
            vocabulary_bytes=tensors_at - vocabulary_at,
            record_bytes=reader.size - tensors_at - data_bytes,
            data_bytes=data_bytes,
        )


def is_synthetic(path: Path) -> bool:
    """Whether a file's metadata says that its weights are random.

    Anything but a readable file that says so is not: what is wrong with a file, its loading will tell.
    """
    try:
        with _open(path) as reader:
            text = _read_metadata(reader, _read_header(reader)[0])
            # Most files end here: their metadata need not be parsed to start a run.
            return f'"{SYNTHETIC_KEY}"'.encode() in text and bool(
                _parse_metadata(reader, text).get(SYNTHETIC_KEY)
            )
    except AsrSwitchError:
        return False


class _Reader:
    """Reads forward through a file that is not trusted; every failure names file, field and offset."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        self.position = 0

    def take(self, count: int, field: str) -> bytes:
        self._demand(count, field)
        data = self._file.read(count)
        if len(data) != count:
            self.fail(field, self.position, "is cut off: the file is being changed")
        self.position += count
        return data

    def skip(self, count: int, field: str) -> None:
        self._demand(count, field)
        self.position = self._file.seek(self.position + count)

    def i32(self, field: str) -> int:
        value: int = _I32.unpack(self.take(4, field))[0]
        return value

    def fail(self, field: str, offset: int, reason: str, remedy: str = ANEW) -> NoReturn:
        raise AsrSwitchError(f"{self._path}: {field} at offset {offset}: {reason}; {remedy}")

    def _demand(self, count: int, field: str) -> None:
        remaining = self.size - self.position
        if count > remaining:
            self.fail(field, self.position, f"takes {count} bytes, the file has {remaining} more")


@contextlib.contextmanager
def _open(path: Path) -> Iterator[_Reader]:
    try:
        if not path.is_file():
            problem = "not a file" if path.exists() else "there is no such file"
            raise AsrSwitchError(f"{path}: {problem}; give the name of a model file")
        with path.open("rb", buffering=_BUFFER_BYTES) as file:
            reader = _Reader(path, file)
            if not reader.size:
                raise AsrSwitchError(f"{path}: is empty; {ANEW}")
            yield reader
    except OSError as error:
        remedy = "check its permissions" if isinstance(error, PermissionError) else "check its disk"
        raise AsrSwitchError(f"{path}: cannot be read: {error.strerror}; {remedy}") from None


def _read_header(reader: _Reader) -> tuple[int, int, int]:
    """The offsets of the model type (where the metadata end), of the vocabulary and of the tensors."""
    magic = reader.take(min(4, reader.size), "magic")
    if magic != MAGIC:
        said = printable(magic.decode("latin-1"))
        reason = f"is '{said}', not '{MAGIC.decode()}': this is no chatllm.cpp model file"
        reader.fail("magic", 0, reason, "`models convert` makes one from a checkpoint")
    version, model_at, vocabulary_at, tensors_at = struct.unpack(
        "<4I", reader.take(HEADER_BYTES - 4, "header")
    )
    if version != CONTAINER_VERSION:
        reader.fail("container version", 4, f"is {version}, only {CONTAINER_VERSION} is known")
    if not 0 <= model_at - HEADER_BYTES <= _MOST_METADATA_BYTES:
        reader.fail(
            "offset of the model type", 8, f"is {model_at}, with the metadata before it of at most 16 MiB"
        )
    if vocabulary_at - model_at != 8 + _CONFIG.size:
        reader.fail(
            "offset of the vocabulary",
            12,
            f"is {vocabulary_at}, {8 + _CONFIG.size} behind the model type is due",
        )
    if tensors_at < vocabulary_at:
        reader.fail("offset of the tensors", 16, f"is {tensors_at}, before the vocabulary")
    return model_at, vocabulary_at, tensors_at


def _read_metadata(reader: _Reader, end: int) -> bytes:
    return reader.take(end - HEADER_BYTES, "metadata").rstrip(b"\0")


def _parse_metadata(reader: _Reader, text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text.decode("utf-8"))
    except json.JSONDecodeError as error:
        reader.fail("metadata", HEADER_BYTES, f"not JSON at its character {error.pos}: {error.msg}")
    except UnicodeDecodeError as error:
        reader.fail("metadata", HEADER_BYTES, f"not UTF-8 at its byte {error.start}")
    except RecursionError:
        reader.fail("metadata", HEADER_BYTES, "JSON nested too deep")
    except ValueError:
        reader.fail("metadata", HEADER_BYTES, "not JSON: an integer of thousands of digits")
    if not isinstance(value, dict):
        reader.fail("metadata", HEADER_BYTES, f"is a JSON {type(value).__name__}, an object is due")
    return value


def _read_config(reader: _Reader, end: int) -> DecoderConfig:
    """Read model type, version and config block, which end at ``end``."""
    for field, due in (("model type", MODEL_TYPE_QWEN3_ASR), ("model-file version", MODEL_VERSION)):
        at = reader.position
        found = reader.i32(field)
        if found != due:
            reason = f"is {found}, that of Qwen3-ASR is {due}"
            reader.fail(field, at, reason, "measure other models with their own library, by --library")
    values = _CONFIG.unpack(reader.take(_CONFIG.size, "config"))
    _, vocab_size, width, heads, layers, inner, longest = values[:7]
    kv_heads, head_width, theta = values[11:14]
    if not math.isfinite(theta):
        reader.fail("config rope_theta", end - _CONFIG.size + 4 * 13, "is not a finite number")
    return DecoderConfig(
        vocab_size=vocab_size,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        inner_width=inner,
        max_length=longest,
        rope_theta=theta,
    )


def _read_vocabulary(reader: _Reader, end: int) -> Vocabulary:
    """Read tokens and merges, none of which goes beyond ``end``."""
    count = 0
    added: dict[str, int] = {}
    while (length := _read_length(reader, "token", 1, _MOST_TOKEN_BYTES, end)) is not None:
        at = reader.position
        record = reader.take(length + 1, "token")
        if record[-1] != TOKEN_NORMAL:
            if len(added) == _MOST_ADDED_TOKENS:
                reader.fail("vocabulary", at, f"has more than {_MOST_ADDED_TOKENS} added tokens")
            added[printable(record[:-1].decode("utf-8", "replace"))] = count
        count += 1
    merges = 0
    while (length := _read_length(reader, "merge", 3, _MOST_MERGE_BYTES, end)) is not None:
        reader.skip(length, "merge")
        merges += 1
    return Vocabulary(count - len(added), added, merges)


def _read_length(reader: _Reader, field: str, least: int, most: int, end: int) -> int | None:
    """The length of the text that follows, which ends before ``end``; None at the end of the list."""
    at = reader.position
    length = reader.i32(f"{field}'s length")
    if length < 0:
        return None
    if not least <= length <= most:
        reader.fail(f"{field}'s length", at, f"is {length}, must be {least} to {most}")
    if reader.position + length > end:
        reader.fail(field, at, f"goes beyond the offset of the tensors, {end}")
    return length


def _read_tensors(reader: _Reader) -> Iterator[Tensor]:
    names: set[str] = set()
    while reader.position < reader.size:
        at = reader.position
        if len(names) == _MOST_TENSORS:
            reader.fail("tensor", at, f"is one more than the {_MOST_TENSORS} that a file can have")
        tensor = _read_tensor(reader)
        if tensor.name in names:
            reader.fail(f"tensor {tensor.name}", at, "is there twice")
        names.add(tensor.name)
        yield tensor


def _read_tensor(reader: _Reader) -> Tensor:
    at = reader.position
    length = reader.i32("tensor name's length")
    if not 1 <= length <= _MOST_NAME_BYTES:
        reader.fail("tensor name's length", at, f"is {length}, must be 1 to {_MOST_NAME_BYTES}")
    name = printable(reader.take(length, "tensor name").decode("utf-8", "replace"))
    field = f"tensor {name}"
    at = reader.position
    rank = reader.i32(f"{field} number of dimensions")
    if not 1 <= rank <= _MOST_DIMENSIONS:
        reader.fail(f"{field} number of dimensions", at, f"is {rank}, must be 1 to {_MOST_DIMENSIONS}")
    at = reader.position
    shape = struct.unpack(f"<{rank}i", reader.take(4 * rank, f"{field} shape"))
    if min(shape) < 1:
        reader.fail(f"{field} shape", at, f"is {list(shape)}, every dimension must be at least 1")
    at = reader.position
    code = reader.i32(f"{field} type")
    stored = STORED_TYPES.get(code)
    if stored is None:
        reader.fail(f"{field} type", at, f"is unknown: {code}")
    if shape[-1] % stored.block_elements:
        reader.fail(
            f"{field} type",
            at,
            f"is {stored.name} with blocks of {stored.block_elements}, but rows have {shape[-1]} elements",
        )
    together = stored.rows_together
    if together > 1 and (rank != 2 or shape[0] % together):
        reader.fail(
            f"{field} type",
            at,
            f"is {stored.name} with {together} rows stored together, but the shape is {list(shape)}",
        )
    reader.skip(-reader.position % TENSOR_ALIGNMENT, f"{field} padding")
    count = math.prod(shape) // stored.block_elements * stored.block_bytes
    reader.skip(count, f"{field} data")
    return Tensor(name, shape, stored, count)
