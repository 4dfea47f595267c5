"""Model files that are wrong in one place each, made by patching a sound one; for tests only.

The sound file comes from this project's own converter; where its fields lie is found by walking over it here,
apart from the converter and from the engine.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from asrswitch.convert import convert
from helpers.checkpoint import Sizes, write_checkpoint
from helpers.container import CONFIG_FIELDS

MATRIX = "model.layers.0.mlp.gate_proj.weight"  # [128, 64], q8_0
TWIN = "model.layers.0.mlp.down_proj.weight"  # a name of the same length
EMBEDDING = "model.embed_tokens.weight"  # [400, 64], q8_0
VECTOR = "model.norm.weight"  # [64], f32


@dataclass(frozen=True)
class Record:
    """Where the parts of a tensor's record lie."""

    start: int
    dims: int
    type: int
    data: int
    end: int

    @property
    def padding(self) -> int:
        return self.type + 4


class SoundFile:
    """A sound model file and the offsets of its fields."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.model_type, self.vocabulary, self.tensors = struct.unpack_from("<3I", data, 8)
        self.config = {name: self.model_type + 8 + 4 * index for index, name in enumerate(CONFIG_FIELDS)}
        at = self.vocabulary
        while (length := self.i32(at)) >= 0:
            at += 4 + length + 1
        self.vocabulary_end, at = at, at + 4
        self.merges = at
        while (length := self.i32(at)) >= 0:
            at += 4 + length
        self.merges_end = at
        self.records: dict[str, Record] = {}
        at += 4
        while at < len(data):
            start, length = at, self.i32(at)
            name = data[at + 4 : at + 4 + length].decode()
            dims = at + 4 + length + 4
            rank = self.i32(dims - 4)
            type_at = dims + 4 * rank
            data_at = (type_at + 4 + 15) // 16 * 16
            elements, size = {0: (1, 4), 1: (1, 2), 8: (32, 34)}[self.i32(type_at)]
            total = 1
            for index in range(rank):
                total *= self.i32(dims + 4 * index)
            at = data_at + total // elements * size
            self.records[name] = Record(start, dims, type_at, data_at, at)

    def i32(self, at: int) -> int:
        value: int = struct.unpack_from("<i", self.data, at)[0]
        return value

    def patched(self, at: int, *values: int) -> bytes:
        """With 32-bit integers written over what is at `at`."""
        return self.overlaid(at, struct.pack(f"<{len(values)}I", *(value & 0xFFFFFFFF for value in values)))

    def overlaid(self, at: int, data: bytes) -> bytes:
        return self.data[:at] + data + self.data[at + len(data) :]

    def with_metadata(self, old: bytes, new: bytes) -> bytes:
        """With a piece of the metadata replaced and every offset behind it moved."""
        metadata = self.data[20 : self.model_type].rstrip(b"\0")
        if metadata.count(old) == 0:
            raise ValueError(f"no {old!r} in the metadata")
        return self.with_whole_metadata(metadata.replace(old, new, 1))

    def with_whole_metadata(self, metadata: bytes) -> bytes:
        padded = metadata + bytes(-len(metadata) % 4)
        # Tensors are aligned within the file, so it is moved by whole steps of the alignment.
        padded += bytes((self.model_type - 20 - len(padded)) % 16)
        shift = 20 + len(padded) - self.model_type
        offsets = struct.pack("<3I", *(at + shift for at in (self.model_type, self.vocabulary, self.tensors)))
        return self.data[:8] + offsets + padded + self.data[self.model_type :]

    def without(self, name: str) -> bytes:
        """Without a tensor; those behind it are moved to where their alignment stays."""
        record = self.records[name]
        following = [other for other in self.records.values() if other.start >= record.end]
        result = self.data[: record.start]
        for other in following:
            result += self.data[other.start : other.type + 4]
            result += bytes(-len(result) % 16) + self.data[other.data : other.end]
        return result


def sound_file(folder: Path) -> SoundFile:
    """A model of one small layer each, its matrices in q8_0, written under `folder`."""
    write_checkpoint(folder / "checkpoint", Sizes(vocab_size=400), seed=5)
    convert(folder / "checkpoint", folder / "sound.bin", "q8_0")
    return SoundFile((folder / "sound.bin").read_bytes())


@dataclass(frozen=True)
class BadFile:
    """A bad file's name, how to make it, and words that the message must contain."""

    name: str
    make: Callable[[Path], None]
    says: tuple[str, ...]


def bad_models(sound: SoundFile) -> list[BadFile]:
    """Every bad model file; names are unique."""
    s = sound
    data = s.data
    matrix, vector = s.records[MATRIX], s.records[VECTOR]
    conv, twin = s.records["audio.conv2d1.weight"], s.records[TWIN]
    embedding = s.records[EMBEDDING]
    first = min(s.records.values(), key=lambda record: record.start)
    last = max(s.records.values(), key=lambda record: record.start)
    files: list[BadFile] = []

    def add(name: str, content: bytes, *says: str) -> None:
        def make(path: Path) -> None:
            path.write_bytes(content)

        files.append(BadFile(name, make, says))

    def at(offset: int) -> str:
        return f"at offset {offset}:"

    # Truncations, at and beside each edge.
    edges = {
        "in the magic": 3,
        "behind the magic": 4,
        "in the version": 7,
        "in the header's offsets": 12,
        "behind the header": 20,
        "in the metadata": 20 + (s.model_type - 20) // 2,
        "behind the metadata": s.model_type,
        "behind the model type": s.model_type + 4,
        "behind the model version": s.model_type + 8,
        "in the config": s.model_type + 8 + 300,
        "before the vocabulary": s.vocabulary,
        "in a token": s.vocabulary + 5,
        "before the vocabulary's end": s.vocabulary_end,
        "before the merges": s.merges,
        "in a merge": s.merges + 6,
        "before the merges' end": s.merges_end,
        "before the tensors": s.tensors,
        "in a tensor's name length": first.start + 2,
        "in a tensor's name": first.start + 10,
        "in a tensor's shape": first.dims + 2,
        "in a tensor's type": first.type + 2,
        "before a tensor's padding": matrix.type + 4,
        "before a tensor's data": first.data,
        "in a tensor's data": first.data + 1,
        "between two tensors": matrix.start,
        "before the last tensor": last.start,
        "in the last tensor's data": last.end - 1,
    }
    for edge, length in edges.items():
        add(f"cut {edge}", data[:length])

    # The header.
    add("of another kind: GGUF", b"GGUF" + data[4:], "magic at offset 0:", "'GGUF'")
    add("of another kind: zip", b"PK\x03\x04" + bytes(1000), "magic", "PK\\x03\\x04")
    add("of another kind: ELF", b"\x7fELF" + bytes(1000), "magic", "\\x7fELF")
    add("of another kind: text", b"model weights go here\n" * 20, "magic", "'mode'")
    add("of another kind: one byte", b"g", "magic at offset 0: is 'g'")
    add("of another container version", s.patched(4, 2), "container version at offset 4: is 2")
    add(
        "with an offset into the header", s.patched(8, 4), "offset of the model type at offset 8: points back"
    )
    beyond = s.patched(8, len(data) + 4, len(data) + 628, len(data) + 700)
    add("with offsets beyond the file", beyond, "at offset")
    add(
        "with an offset of 4 GiB",
        s.patched(8, 0xFFFFFFFF),
        "offset of the model type at offset 8: leaves over 16 MiB",
    )
    add("with a vocabulary that points back", s.patched(12, 20), "offset of the vocabulary at offset 12:")
    add(
        "with a vocabulary further on",
        s.patched(12, s.vocabulary + 16),
        "offset of the vocabulary at offset 12:",
    )
    add(
        "with tensors that point back",
        s.patched(16, s.model_type),
        "offset of the tensors at offset 16: points back",
    )
    add(
        "with tensors further on",
        s.patched(16, s.tensors + 64),
        "offset of the tensors at offset 16:",
        str(s.tensors),
    )
    add(
        "of another model",
        s.patched(s.model_type, 0x1000010E),
        f"model type {at(s.model_type)}",
        "not Qwen3-ASR",
    )
    add(
        "of another model version",
        s.patched(s.model_type + 4, 7),
        f"model-file version {at(s.model_type + 4)} is 7",
    )

    # The config.
    def config(name: str, field: str, value: int, *says: str) -> None:
        offset = s.config[field]
        add(name, s.patched(offset, value), *(says or (f"config {field} {at(offset)}", f"is {value}")))

    config("with no attention heads", "num_attention_heads", 0)
    config("with a negative width", "hidden_size", -64)
    config("with two billion layers", "num_hidden_layers", 2**31 - 1)
    config("with one layer too many", "num_hidden_layers", 2, "tensor model.layers.1.", "is missing")
    config(
        "with three heads for two keys", "num_key_value_heads", 3, "num_key_value_heads", "does not divide"
    )
    config("with an odd head", "head_dim", 63, "config head_dim", "is odd")
    config("with too small a vocabulary size", "vocab_size", 300, "vocabulary", "300")
    config(
        "with too large a vocabulary size",
        "vocab_size",
        401,
        "model.embed_tokens.weight",
        "[400, 64]",
        "[401, 64]",
    )
    config("with a context of nothing", "max_length", 0)
    for label, bits in {"not a number": 0x7FC00000, "infinite": 0x7F800000, "negative": 0xBF800000}.items():
        config(
            f"with a rope theta that is {label}",
            "rope_theta",
            bits,
            f"config rope_theta {at(s.config['rope_theta'])}",
        )
    config("with YaRN", "yarn_factor", 0x40800000, "config yarn factor", "YaRN")

    # The metadata.
    def metadata(name: str, old: bytes, new: bytes, *says: str) -> None:
        add(name, s.with_metadata(old, new), "metadata at offset", *says)

    add("without metadata", s.with_whole_metadata(b""), "metadata at offset 20: is empty")
    add(
        "with metadata that is no JSON",
        s.with_whole_metadata(b"config: yes"),
        "metadata at offset 20: expected a JSON",
    )
    add(
        "with metadata that is a list",
        s.with_whole_metadata(b"[1, 2]"),
        "metadata at offset 20: is no object",
    )
    add(
        "with metadata in depth",
        s.with_whole_metadata(b'{"a": ' + b"[" * 100_000),
        "metadata",
        "nested deeper than 64",
    )
    add(
        "with metadata after the metadata",
        s.with_whole_metadata(b"{} {}"),
        "metadata at offset 23: text after the end",
    )
    metadata("with a broken string", b'"model_name"', b'"model\nname"', "control character")
    metadata("with metadata that is no UTF-8", b'"model_name"', b'"model\xff_name"', "not UTF-8")
    metadata("without an audio config", b'"audio_config"', b'"video_config"', "audio_config is missing")
    metadata(
        "with a huge encoder",
        b'"d_model": 64',
        b'"d_model": 9223372036854775807',
        "d_model is 9223372036854775807",
    )
    metadata("with a number beyond 64 bits", b'"d_model": 64', b'"d_model": 92233720368547758079', "64 bits")
    metadata(
        "with a word for a number",
        b'"encoder_layers": 1',
        b'"encoder_layers": "1"',
        "encoder_layers",
        "no number",
    )
    metadata("with a window that divides nothing", b'"n_window": 50', b'"n_window": 0', "n_window is 0")
    metadata("with other mel bands", b'"feature_size": 128', b'"feature_size": 80', "feature_size is 80")
    metadata(
        "with another sample rate",
        b'"sampling_rate": 16000',
        b'"sampling_rate": 8000',
        "sampling_rate is 8000",
    )
    metadata("with a token id beyond the vocabulary", b'"399": {', b'"400": {', 'added token id "400"')
    metadata("with a token id that is a word", b'"399": {', b'"last": {', 'added token id "last"')
    metadata("with a hostile token", b'"content": "<think>"', b'"content": 7', "expected a string")
    add(
        "without the audio pad",
        s.with_metadata(b"<|audio_pad|>", b"<|radio_pad|>"),
        "token <|audio_pad|> is missing",
    )
    add(
        "without the turn's end", s.with_metadata(b"<|im_end|>", b"<|em_ind|>"), "token <|im_end|> is missing"
    )

    # Vocabulary and merges.
    for label, length in {"of no bytes": 0, "of a gigabyte": 2**30, "of all 31 bits": 2**31 - 1}.items():
        says = (f"vocabulary entry's length {at(s.vocabulary)}", str(length))
        add(f"with a token {label}", s.patched(s.vocabulary, length), *says)
    add("with no vocabulary", s.patched(s.vocabulary, -1), "vocabulary", "is empty")
    add(
        "with a token of another type",
        s.overlaid(s.vocabulary + 4 + s.i32(s.vocabulary), b"\x09"),
        "type",
        "is 9",
    )
    add(
        "with a token beyond the alphabet",
        s.overlaid(s.vocabulary + 4, b"\n"),
        "vocabulary entry's text",
        "\\x0a",
    )
    add("with a vocabulary that does not end", s.patched(s.vocabulary_end, 1), "vocabulary")
    add(
        "with a merge of a gigabyte", s.patched(s.merges, 2**30), f"merge's length {at(s.merges)}", str(2**30)
    )
    add(
        "with a merge of one word",
        s.overlaid(s.merges + 4, b"x" * s.i32(s.merges)),
        f"merge's text {at(s.merges + 4)}",
    )

    # Tensors.
    for label, length in {"nothing": 0, "minus one": -1, "two billion": 2**31 - 1, "257": 257}.items():
        says = (f"tensor name length {at(first.start)}", f"is {length}")
        add(f"with a tensor's name of length {label}", s.patched(first.start, length), *says)
    for label, rank in {"no": 0, "five": 5, "minus one": -1}.items():
        says = (f"tensor audio.conv2d1.weight number of dimensions {at(conv.dims - 4)}", f"is {rank}")
        add(f"with {label} dimensions", s.patched(conv.dims - 4, rank), *says)
    add("with a dimension of zero", s.patched(conv.dims, 0), f"shape {at(conv.dims)} has the dimension 0")
    add("with a negative dimension", s.patched(conv.dims, -4), f"shape {at(conv.dims)} has the dimension -4")
    wrapped = s.patched(conv.dims, 65536, 65536, 65536, 65536)
    add(
        "with a shape that wraps to zero",
        wrapped,
        f"shape {at(conv.dims + 4)} has more elements than the file",
    )
    narrow = s.patched(conv.dims, 2, 2**31 - 1, 2**31 - 1, 2)
    add("with a shape that wraps to little", narrow, "shape", "has more elements than the file could hold")
    add("with a shape larger than its data", s.patched(last.dims, 2**16), "tensor ", "needs 262144 bytes")
    add(
        "with rows and columns exchanged",
        s.patched(matrix.dims, 64, 128),
        f"tensor {MATRIX} at offset",
        "[64, 128]",
    )
    add("with a flat matrix", s.patched(matrix.dims, 1, 128 * 64), f"tensor {MATRIX} at offset", "[1, 8192]")
    add(
        "with an unknown type",
        s.patched(matrix.type, 14),
        f"tensor {MATRIX} type {at(matrix.type)} is unknown: 14",
    )
    add("with a negative type", s.patched(matrix.type, -1), "is unknown: -1")
    add("with blocks that no row holds", s.patched(conv.type, 8), "audio.conv2d1.weight type", "blocks of 32")
    add(
        "with super-blocks that no row holds",
        s.patched(matrix.type, 12),
        f"tensor {MATRIX} type",
        "blocks of 256",
    )
    add("with a matrix of a shorter type", s.patched(matrix.type, 2), "tensor ")
    add("with a matrix of a longer type", s.patched(matrix.type, 0), "tensor ")
    for label, record, shape in (
        ("seven and a half groups of rows", matrix, (120, 64)),
        ("a single dimension", vector, (64,)),
        ("three dimensions", matrix, (16, 1, 64)),
    ):
        interleaved = s.patched(record.dims - 4, len(shape), *shape, 258)
        says = f"is q4_0_16x4 with 16 rows stored together, but the shape is {list(shape)}"
        type_at = record.dims + 4 * len(shape)
        add(f"with interleaved rows of {label}", interleaved, f" type {at(type_at)} {says}")
    rows = s.patched(embedding.type, 258)
    add(
        "with interleaved rows of the embedding",
        rows[: embedding.data + 400 * 64 // 32 * 18] + data[embedding.end :],
        f"tensor {EMBEDDING} at offset {embedding.data}: is q4_0_16x4, whose rows cannot be read one by one",
    )
    half = s.patched(vector.type, 1)[: vector.data + 128] + data[vector.end :]
    add("with a vector of halves", half, f"tensor {VECTOR} at offset {vector.data}: is f16")
    padded = next(record for record in s.records.values() if record.padding < record.data)
    add(
        "with a misaligned tensor",
        s.overlaid(padded.padding, b"\x01"),
        f"padding {at(padded.padding)} is not zero",
    )
    shifted = data[: first.start] + bytes(4) + data[first.start :]
    add("with all tensors four bytes on", shifted, "tensor name length")
    overlap = data[: matrix.end - 34] + data[matrix.end :]
    add("with tensors that overlap", overlap, "tensor ")
    twins = s.overlaid(twin.start + 4, MATRIX.encode())
    add("with a tensor twice", twins, f"tensor {MATRIX} at offset", "is there twice")
    add("without a tensor", s.without(MATRIX), f"tensor {MATRIX} is missing")
    add(
        "without an encoder's tensor",
        s.without("audio.conv_out.weight"),
        "tensor audio.conv_out.weight is missing",
    )
    add("without the output matrix", s.without("lm_head.weight"), "tensor lm_head.weight is missing")
    hostile = (
        s.overlaid(conv.start + 4, b"\x1b[2J\n\xff%n%s\0")[: conv.type]
        + struct.pack("<i", 99)
        + data[conv.type + 4 :]
    )
    add("with a hostile name", hostile, "tensor \\x1b[2J\\x0a\\xff%n%s\\x00")
    add("with a tail", data + b"left over", "tensor name length")
    add(
        "of zeros behind the header", data[:20] + bytes(len(data) - 20), f"model type {at(s.model_type)} is 0"
    )
    add("of ones", b"ggmm\x01\0\0\0" + b"\xff" * 10_000, "offset of the model type")

    # What is no file to read.
    files.append(BadFile("empty", lambda path: path.touch(), ("is empty",)))
    files.append(BadFile("a directory", lambda path: path.mkdir(), ("is not a regular file",)))
    files.append(BadFile("missing", lambda path: None, ("cannot open", "No such file")))
    files.append(BadFile("a link to itself", lambda path: path.symlink_to(path), ("cannot open",)))
    files.append(BadFile("a FIFO", _make_fifo, ("is not a regular file",)))
    return files


def _make_fifo(path: Path) -> None:
    os.mkfifo(path)
