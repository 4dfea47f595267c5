"""Writing the `.bin` model file: header, metadata, config, vocabulary, merges, tensors.

Little-endian throughout. Offsets 8, 12 and 16 hold the positions of the model type, the first vocabulary
record and the first tensor record.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from asrswitch.convert.quantise import Bytes, TensorType

MAGIC = b"ggmm"
CONTAINER_VERSION = 1
MODEL_TYPE_QWEN3_ASR = 0x1000010F
MODEL_VERSION = 1
HEADER_BYTES = 20
TENSOR_ALIGNMENT = 16
ABSENT = -1

# The metadata of a model with random weights has this key; its value tells how to make the file again.
SYNTHETIC_KEY = "synthetic"

# Entries of the config's per-layer table; a model cannot have more layers.
MAX_LAYERS = 128
MROPE_SECTIONS = 4

TOKEN_NORMAL = 1
TOKEN_USER_DEFINED = 4


@dataclass(frozen=True)
class ModelConfig:
    """What the file's config block holds of a model: the decoder's sizes. Absent ids are −1."""

    vocab_size: int
    hidden_size: int
    num_attention_heads: int
    num_hidden_layers: int
    intermediate_size: int
    max_length: int
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int
    sep_token_id: int
    num_key_value_heads: int
    head_dim: int
    rope_theta: float
    mrope_section: tuple[int, ...]

    def pack(self, type: TensorType) -> bytes:
        """The 616 bytes of the config block in a file whose matrices have `type`."""
        sections = self.mrope_section + (0,) * (MROPE_SECTIONS - len(self.mrope_section))
        return struct.pack(
            f"<11i2i2f7i{MAX_LAYERS}i{MROPE_SECTIONS}i",
            # Never q4_0 for q4_0_16x4: a reader that goes by this field is to refuse such a file.
            type,
            self.vocab_size,
            self.hidden_size,
            self.num_attention_heads,
            self.num_hidden_layers,
            self.intermediate_size,
            self.max_length,
            self.bos_token_id,
            self.eos_token_id,
            self.pad_token_id,
            self.sep_token_id,
            self.num_key_value_heads,
            self.head_dim,
            self.rope_theta,
            -1.0,  # yarn factor: no scaling
            ABSENT,  # yarn original length
            1,  # decoder_sparse_step
            ABSENT,  # moe_intermediate_size
            ABSENT,  # experts per token
            ABSENT,  # experts
            0,  # norm_topk_prob
            0,  # tie_word_embeddings: the output matrix is always stored
            *(0,) * MAX_LAYERS,  # layer_is_sparse
            *sections,
        )


@dataclass(frozen=True)
class Token:
    """An entry of the vocabulary; its id is its position."""

    text: bytes
    kind: int  # TOKEN_NORMAL or TOKEN_USER_DEFINED


def write_head(
    file: BinaryIO,
    metadata: dict[str, Any],
    config: ModelConfig,
    type: TensorType,
    vocabulary: Sequence[Token],
    merges: Sequence[str],
) -> None:
    """Write everything that comes before the first tensor record."""
    meta = json.dumps(metadata, ensure_ascii=False).encode("utf-8")
    meta += bytes(-len(meta) % 4)
    body = struct.pack("<2i", MODEL_TYPE_QWEN3_ASR, MODEL_VERSION) + config.pack(type)
    tokens = b"".join(struct.pack("<i", len(t.text)) + t.text + struct.pack("<B", t.kind) for t in vocabulary)
    rules = b"".join(struct.pack("<i", len(raw)) + raw for raw in (rule.encode("utf-8") for rule in merges))
    end = struct.pack("<i", -1)
    words = tokens + end + rules + end
    model_at = HEADER_BYTES + len(meta)
    vocabulary_at = model_at + len(body)
    tensors_at = vocabulary_at + len(words)
    file.write(MAGIC + struct.pack("<4I", CONTAINER_VERSION, model_at, vocabulary_at, tensors_at))
    file.write(meta + body + words)


def write_tensor(
    file: BinaryIO, name: str, shape: tuple[int, ...], type: TensorType, pieces: Iterable[Bytes]
) -> None:
    """Append a tensor record; `pieces` together are the encoded data."""
    raw_name = name.encode("utf-8")
    head = struct.pack("<i", len(raw_name)) + raw_name
    head += struct.pack(f"<i{len(shape)}ii", len(shape), *shape, type)
    file.write(head + bytes(-(file.tell() + len(head)) % TENSOR_ALIGNMENT))
    for piece in pieces:
        file.write(piece.data)
