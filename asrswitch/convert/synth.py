"""Model files of the official shapes with seeded random weights: speed and memory are true, text is not."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from asrswitch.convert.atomic import atomic_output
from asrswitch.convert.checkpoint import (
    ARCHITECTURE,
    EMBEDDING,
    MODEL_NAME,
    OUTPUT_MATRIX,
    CheckpointConfig,
    Shape,
    stored_name,
)
from asrswitch.convert.container import (
    SYNTHETIC_KEY,
    TOKEN_NORMAL,
    ModelConfig,
    Token,
    write_head,
    write_tensor,
)
from asrswitch.convert.quantise import Bytes, TensorType, interleave_rows, stored_type
from asrswitch.errors import UsageError
from asrswitch.plan import LANGUAGES

# The added tokens of the official vocabulary in their order; there they are 151643 to 151704.
_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_VISION = tuple(
    f"<|{name}|>"
    for name in (
        "object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start", "quad_end",
        "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad",
    )
)  # fmt: skip
_TOOLS = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
_AUDIO_START, _AUDIO_END, _AUDIO_PAD = "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>"
_SPEECH = ("<tts_pad>", "<tts_text_bos>", "<tts_text_eod>", "<tts_text_bos_single>", "<non_speech>")
_BLANKS = tuple(f"<blank{number}>" for number in range(1, 28))
_SPECIAL = {*_CHATML, *_VISION, _AUDIO_START, _AUDIO_END, _AUDIO_PAD}
ADDED_TOKENS = (
    *_CHATML, *_VISION, *_TOOLS, _AUDIO_START, _AUDIO_END, *_SPEECH, _AUDIO_PAD, *_BLANKS, "<asr_text>",
)  # fmt: skip

LARGEST_SEED = 2**63 - 1
_BYTES = 256  # tokens of one byte, with which every vocabulary begins
_PIECE_ELEMENTS = 1 << 20  # values in work at a time; where rows that are stored together have more, those


@dataclass(frozen=True)
class Preset:
    """The sizes of a model. Attention heads of the encoder are 64 wide."""

    name: str  # in the file's metadata
    audio_width: int
    audio_layers: int
    audio_inner: int
    conv_channels: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    normal_tokens: int
    vocab_size: int


_OFFICIAL = {"layers": 28, "heads": 16, "kv_heads": 8, "head_dim": 128}
_OFFICIAL |= {"normal_tokens": 151_643, "vocab_size": 151_936, "conv_channels": 480}
PRESETS: dict[str, Preset] = {
    "0.6b": Preset(
        "0.6B", audio_width=896, audio_layers=18, audio_inner=3584, width=1024, inner=3072, **_OFFICIAL
    ),
    "1.7b": Preset(
        "1.7B", audio_width=1024, audio_layers=24, audio_inner=4096, width=2048, inner=6144, **_OFFICIAL
    ),
    "tiny": Preset(
        "tiny", audio_width=128, audio_layers=3, audio_inner=256, conv_channels=32, width=128, layers=3,
        heads=4, kv_heads=2, head_dim=64, inner=256, normal_tokens=4000, vocab_size=4096,
    ),
}  # fmt: skip


def synthesise(
    output: Path,
    preset: str,
    type: TensorType,
    seed: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> None:
    """Write a model file with the shapes of `preset`, a key of PRESETS, and random weights.

    The same preset, type and seed give the same bytes. The metadata names preset and seed under
    SYNTHETIC_KEY. Weights are uniform with mean 0 and the variance that keeps activations at their magnitude
    from layer to layer; quantised blocks are drawn in the layout in which they are stored, those of
    q4_0_16x4 in that of q4_0, so that files of both have the same weights. The rows of the output matrix for
    tokens of a single byte, added tokens and unused ids are 0: greedy decoding therefore never ends by
    itself, and every token that it gives is text.

    `output` appears whole or not at all; `progress` is called as by `convert`. Raises UsageError for a seed
    out of range, AsrSwitchError for an output that cannot be written.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"--seed is {seed}: give a number from 0 to {LARGEST_SEED}")
    sizes = PRESETS[preset]
    metadata = _metadata(preset, sizes, seed)
    sections = CheckpointConfig(output, metadata["config.json"])
    config = sections.model_config()
    shapes = sections.expected_shapes(config)
    never_written = (range(_BYTES), range(sizes.normal_tokens, sizes.vocab_size))
    stored = {name: stored_type(stored_name(name), shape, type) for name, shape in shapes.items()}
    total = sum(stored[name].nbytes(math.prod(shape)) for name, shape in shapes.items())
    done = 0

    def observed(name: str, pieces: Iterator[Bytes]) -> Iterator[Bytes]:
        nonlocal done
        for piece in pieces:
            yield piece
            done += piece.nbytes
            if progress is not None:
                progress(done, total, name)

    with atomic_output(output) as file:
        _write_head(file, metadata, config, type, sizes)
        for name in sorted(shapes):  # the order of an official file
            silent = never_written if name == OUTPUT_MATRIX else ()
            pieces = _weights(name, shapes[name], stored[name], seed, silent)
            final = stored_name(name)
            write_tensor(file, final, shapes[name], stored[name], observed(final, pieces))


def _write_head(
    file: BinaryIO, metadata: dict[str, Any], config: ModelConfig, type: TensorType, sizes: Preset
) -> None:
    vocabulary, merges = _vocabulary(sizes.normal_tokens)
    tokens = [Token(text.encode("utf-8"), TOKEN_NORMAL) for text in vocabulary]
    write_head(file, metadata, config, type, tokens, merges)


def _weights(
    name: str, shape: Shape, type: TensorType, seed: int, silent: tuple[range, ...]
) -> Iterator[Bytes]:
    """The stored bytes of a tensor, some rows at a time; rows in `silent` are 0."""
    if len(shape) == 1:
        yield np.full(shape, name.endswith(".weight"), "<f4").view(np.uint8)  # norms of 1, biases of 0
        return
    # Raw output, not a distribution: numpy keeps it the same in all versions (NEP 19).
    source = np.random.PCG64([seed, zlib.crc32(name.encode())])
    columns = math.prod(shape[1:])
    deviation = 1.0 if name == EMBEDDING else 1 / math.sqrt(columns)
    drawn = TensorType.Q4_0 if type is TensorType.Q4_0_16X4 else type
    # Quantised rows are whole draws of 8 bytes in every preset: where pieces end, the numbers are the same.
    step = max(1, _PIECE_ELEMENTS // (type.rows_together * columns)) * type.rows_together
    for first in range(0, shape[0], step):
        rows = min(step, shape[0] - first)
        piece = _draw(source, rows * columns, drawn, deviation)
        by_row = piece.reshape(rows, -1)
        for span in silent:
            by_row[max(span.start - first, 0) : max(span.stop - first, 0)] = 0
        yield interleave_rows(piece, columns) if type is TensorType.Q4_0_16X4 else piece


def _draw(source: np.random.PCG64, elements: int, type: TensorType, deviation: float) -> Bytes:
    """`elements` random values of standard deviation `deviation`, as `type` stores them."""
    if type in (TensorType.F32, TensorType.F16):
        values = _random_bytes(source, 2 * elements).view("<u2").astype(np.float32)
        values -= 32767.5
        values *= deviation * math.sqrt(12) / 65536
        return values.astype("<f4" if type is TensorType.F32 else "<f2").view(np.uint8)
    count = elements // type.block_elements
    blocks = _random_bytes(source, count * type.block_bytes).reshape(count, type.block_bytes)
    if type is TensorType.Q8_0:  # values q · d; quantising gives no q of −128
        _put_half(blocks, 0, np.full(count, deviation / math.sqrt(127 * 255 / 6)))
        quants = blocks[:, 2:].view(np.int8)
        quants[quants == -128] = 0
    elif type is TensorType.Q4_0:  # values (q − 8) · d, whose mean is −d/2: d has either sign to cancel it
        sign = 1 - 2.0 * (blocks[:, 0] & 1)
        _put_half(blocks, 0, sign * (deviation / math.sqrt(255 / 12 + 1 / 4)))
    else:  # values q · d + m
        d = deviation / math.sqrt(255 / 12)
        _put_half(blocks, 0, np.full(count, d))
        _put_half(blocks, 2, np.full(count, -7.5 * d))
    return blocks.reshape(-1)


def _put_half(blocks: Bytes, at: int, values: NDArray[np.floating[Any]]) -> None:
    blocks[:, at : at + 2] = values.astype("<f2").view(np.uint8).reshape(-1, 2)


def _random_bytes(source: np.random.PCG64, count: int) -> Bytes:
    raw: NDArray[np.uint64] = source.random_raw(-(-count // 8))
    return raw.astype("<u8", copy=False).view(np.uint8)[:count]


def _vocabulary(size: int) -> tuple[list[str], list[str]]:
    """`size` tokens in the GPT-2 byte alphabet and their merge rules: the bytes, then one token a rule.

    The prompt's words and the languages' names come first, so that prompts have as many tokens as with the
    official vocabulary; then words of consonants and vowels in turn, shortest first, each after a space.
    """
    vocabulary = _byte_alphabet()
    known = set(vocabulary)
    merges: list[str] = []

    def add(token: str) -> None:
        if token not in known:
            merges.append(f"{token[:-1]} {token[-1]}")
            vocabulary.append(token)
            known.add(token)

    for word in ["system", "user", "assistant", "language", *(f"Ġ{name}" for name in LANGUAGES.values())]:
        for end in range(2, len(word) + 1):
            add(word[:end])
    vowels, consonants = "aeiouy", "bcdfghjklmnpqrstvwxz"
    stems = ["Ġ"]
    while len(vocabulary) < size:
        stems = [
            stem + letter for stem in stems for letter in (vowels if stem[-1] in consonants else consonants)
        ]
        for stem in stems[: size - len(vocabulary)]:
            add(stem)
    return vocabulary, merges


def _byte_alphabet() -> list[str]:
    """The characters that stand for the 256 bytes, those that stand for themselves first."""
    themselves = [chr(byte) for byte in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))]
    return themselves + [chr(code) for code in range(0x100, 0x100 + _BYTES - len(themselves))]


def _metadata(preset: str, sizes: Preset, seed: int) -> dict[str, Any]:
    """What an official checkpoint's files say, for these sizes, and that these weights are not official."""
    first_added = sizes.normal_tokens
    ids = {token: first_added + index for index, token in enumerate(ADDED_TOKENS)}
    return {
        "config.json": _config(sizes, ids),
        "tokenizer_config.json": _tokenizer_config(ids),
        "preprocessor_config.json": {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "feature_size": 128,
            "hop_length": 160,
            "n_fft": 400,
            "sampling_rate": 16000,
        },
        "model_name": f"{MODEL_NAME} {sizes.name} (synthetic weights)",
        SYNTHETIC_KEY: {"preset": preset, "seed": seed},
    }


def _config(sizes: Preset, ids: dict[str, int]) -> dict[str, Any]:
    half = sizes.head_dim // 2
    side = half * 5 // 16  # height and width of the rotary sections; the official ones are 24, 20, 20 of 64
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "qwen3_asr",
        "support_languages": list(LANGUAGES.values()),
        "thinker_config": {
            "audio_config": {
                "activation_function": "gelu",
                "conv_chunksize": 500,
                "d_model": sizes.audio_width,
                "downsample_hidden_size": sizes.conv_channels,
                "encoder_attention_heads": sizes.audio_width // 64,
                "encoder_ffn_dim": sizes.audio_inner,
                "encoder_layers": sizes.audio_layers,
                "max_source_positions": 1500,
                "n_window": 50,
                "n_window_infer": 800,
                "num_mel_bins": 128,
                "output_dim": sizes.width,
            },
            "audio_start_token_id": ids[_AUDIO_START],
            "audio_end_token_id": ids[_AUDIO_END],
            "audio_token_id": ids[_AUDIO_PAD],
            "text_config": {
                "head_dim": sizes.head_dim,
                "hidden_act": "silu",
                "hidden_size": sizes.width,
                "intermediate_size": sizes.inner,
                "max_position_embeddings": 65536,
                "num_attention_heads": sizes.heads,
                "num_hidden_layers": sizes.layers,
                "num_key_value_heads": sizes.kv_heads,
                "rms_norm_eps": 1e-06,
                "rope_scaling": {"mrope_section": [half - 2 * side, side, side], "rope_type": "default"},
                "rope_theta": 1000000,
                "tie_word_embeddings": False,
                "vocab_size": sizes.vocab_size,
            },
        },
    }


def _tokenizer_config(ids: dict[str, int]) -> dict[str, Any]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(id): {"content": token, **flags, "special": token in _SPECIAL} for token, id in ids.items()
        },
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
    }
