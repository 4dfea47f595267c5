"""Small Qwen3-ASR checkpoints of seeded random weights, in the official Hugging Face layout. numpy only.

The same seed gives the same bytes everywhere: weights come from the raw stream of PCG64, which numpy keeps
stable across versions (NEP 19; its distributions it does not), and from exact integer arithmetic.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The 62 added tokens of the official vocabulary, in the official order (there 151643 to 151704).
ADDED_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
    "<|audio_start|>",
    "<|audio_end|>",
    "<tts_pad>",
    "<tts_text_bos>",
    "<tts_text_eod>",
    "<tts_text_bos_single>",
    "<non_speech>",
    "<|audio_pad|>",
    *(f"<blank{index}>" for index in range(1, 28)),
    "<asr_text>",
]

LANGUAGES = [
    "Chinese",
    "English",
    "Cantonese",
    "Arabic",
    "German",
    "French",
    "Spanish",
    "Portuguese",
    "Indonesian",
    "Italian",
    "Korean",
    "Russian",
    "Thai",
    "Vietnamese",
    "Japanese",
    "Turkish",
    "Hindi",
    "Malay",
    "Dutch",
    "Swedish",
    "Danish",
    "Finnish",
    "Polish",
    "Czech",
    "Filipino",
    "Persian",
    "Greek",
    "Romanian",
    "Hungarian",
    "Macedonian",
]


@dataclass(frozen=True)
class Sizes:
    """The sizes of a checkpoint; widths are multiples of 64, so that every block type divides the rows."""

    hidden_size: int = 64
    heads: int = 2
    kv_heads: int = 1
    head_dim: int = 64
    layers: int = 1
    intermediate_size: int = 128
    vocab_size: int = 1024
    audio_width: int = 64
    audio_heads: int = 1
    audio_layers: int = 1
    audio_intermediate_size: int = 128
    conv_channels: int = 4
    tied: bool = False


def write_checkpoint(folder: Path, sizes: Sizes, seed: int) -> None:
    """Write a whole checkpoint into the empty or missing `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = make_vocabulary(sizes.vocab_size - len(ADDED_TOKENS))
    _write_json(folder / "config.json", config(sizes))
    _write_json(folder / "preprocessor_config.json", _PREPROCESSOR)
    _write_json(folder / "tokenizer_config.json", tokenizer_config(len(vocabulary)))
    _write_json(folder / "vocab.json", {token: index for index, token in enumerate(vocabulary)})
    merges_text = "".join(f"{left} {right}\n" for left, right in merges)
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges_text, encoding="utf-8")
    weights = {name: to_bf16(random_weights(name, shape, seed)) for name, shape in shapes(sizes).items()}
    write_safetensors(folder / "model.safetensors", weights)


def config(sizes: Sizes) -> dict[str, Any]:
    """`config.json` in the official (not the renamed) layout."""
    first_added = sizes.vocab_size - len(ADDED_TOKENS)
    quarter = sizes.head_dim // 8
    return {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "model_type": "qwen3_asr",
        "support_languages": LANGUAGES,
        "thinker_config": {
            "audio_config": {
                "model_type": "qwen3_asr_audio_encoder",
                "activation_function": "gelu",
                "conv_chunksize": 500,
                "d_model": sizes.audio_width,
                "downsample_hidden_size": sizes.conv_channels,
                "encoder_attention_heads": sizes.audio_heads,
                "encoder_ffn_dim": sizes.audio_intermediate_size,
                "encoder_layers": sizes.audio_layers,
                "max_source_positions": 1500,
                "n_window": 50,
                "n_window_infer": 800,
                "num_hidden_layers": sizes.audio_layers,
                "num_mel_bins": 128,
                "output_dim": sizes.hidden_size,
                "scale_embedding": False,
            },
            "audio_start_token_id": first_added + ADDED_TOKENS.index("<|audio_start|>"),
            "audio_end_token_id": first_added + ADDED_TOKENS.index("<|audio_end|>"),
            "audio_token_id": first_added + ADDED_TOKENS.index("<|audio_pad|>"),
            "model_type": "qwen3_asr",
            "text_config": {
                "model_type": "qwen3",
                "attention_bias": False,
                "head_dim": sizes.head_dim,
                "hidden_act": "silu",
                "hidden_size": sizes.hidden_size,
                "intermediate_size": sizes.intermediate_size,
                "max_position_embeddings": 65536,
                "num_attention_heads": sizes.heads,
                "num_hidden_layers": sizes.layers,
                "num_key_value_heads": sizes.kv_heads,
                "rms_norm_eps": 1e-06,
                "rope_scaling": {
                    "interleaved": True,
                    "mrope_interleaved": True,
                    "mrope_section": [sizes.head_dim // 2 - 2 * quarter, quarter, quarter],
                    "rope_type": "default",
                    "type": "default",
                },
                "rope_theta": 1000000,
                "tie_word_embeddings": sizes.tied,
                "vocab_size": sizes.vocab_size,
            },
        },
    }


_PREPROCESSOR: dict[str, Any] = {
    "chunk_length": 30,
    "dither": 0.0,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 128,
    "hop_length": 160,
    "n_fft": 400,
    "n_samples": 480000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "Qwen3ASRProcessor",
    "return_attention_mask": True,
    "sampling_rate": 16000,
}


def tokenizer_config(first_added: int) -> dict[str, Any]:
    """`tokenizer_config.json` whose added tokens begin at id `first_added`."""
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(first_added + index): {"content": token, **flags, "special": token.startswith("<|")}
            for index, token in enumerate(ADDED_TOKENS)
        },
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def make_vocabulary(size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """`size` tokens in the GPT-2 byte alphabet: the 256 bytes, then one for each merge rule.

    The rules build the prompt's words, the languages' names and made-up words letter by letter.
    """
    vocabulary = sorted(byte_alphabet())
    known = set(vocabulary)
    merges: list[tuple[str, str]] = []
    consonants, vowels = "kstnhmyrwgzdbp", "aeiou"
    made_up = (f"Ġ{a}{b}{c}{d}" for a in consonants for b in vowels for c in consonants for d in vowels)
    prompt_words = ["system", "user", "assistant", "language", *(f"Ġ{name}" for name in LANGUAGES)]
    for word in [*prompt_words, *made_up]:
        for end in range(2, len(word) + 1):
            if word[:end] not in known and len(vocabulary) < size:
                merges.append((word[: end - 1], word[end - 1]))
                vocabulary.append(word[:end])
                known.add(word[:end])
    if len(vocabulary) != size:
        raise ValueError(f"a vocabulary of {size} tokens cannot be made of {len(vocabulary)}")
    return vocabulary, merges


def byte_alphabet() -> list[str]:
    """The character that stands for each byte 0 to 255 in GPT-2's vocabularies.

    Printable bytes stand for themselves, the others for the characters from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Every tensor of the checkpoint, by its official name."""
    s, width = sizes, sizes.audio_width
    result: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (s.vocab_size, s.hidden_size),
        "model.norm.weight": (s.hidden_size,),
        "lm_head.weight": (s.vocab_size, s.hidden_size),
        "audio_tower.conv2d1.weight": (s.conv_channels, 1, 3, 3),
        "audio_tower.conv2d1.bias": (s.conv_channels,),
        "audio_tower.conv2d2.weight": (s.conv_channels, s.conv_channels, 3, 3),
        "audio_tower.conv2d2.bias": (s.conv_channels,),
        "audio_tower.conv2d3.weight": (s.conv_channels, s.conv_channels, 3, 3),
        "audio_tower.conv2d3.bias": (s.conv_channels,),
        "audio_tower.conv_out.weight": (width, s.conv_channels * 16),
        "audio_tower.ln_post.weight": (width,),
        "audio_tower.ln_post.bias": (width,),
        "audio_tower.proj1.weight": (width, width),
        "audio_tower.proj1.bias": (width,),
        "audio_tower.proj2.weight": (s.hidden_size, width),
        "audio_tower.proj2.bias": (s.hidden_size,),
    }
    if s.tied:
        del result["lm_head.weight"]
    for index in range(s.layers):
        layer = f"model.layers.{index}"
        result |= {
            f"{layer}.input_layernorm.weight": (s.hidden_size,),
            f"{layer}.self_attn.q_proj.weight": (s.heads * s.head_dim, s.hidden_size),
            f"{layer}.self_attn.k_proj.weight": (s.kv_heads * s.head_dim, s.hidden_size),
            f"{layer}.self_attn.v_proj.weight": (s.kv_heads * s.head_dim, s.hidden_size),
            f"{layer}.self_attn.o_proj.weight": (s.hidden_size, s.heads * s.head_dim),
            f"{layer}.self_attn.q_norm.weight": (s.head_dim,),
            f"{layer}.self_attn.k_norm.weight": (s.head_dim,),
            f"{layer}.post_attention_layernorm.weight": (s.hidden_size,),
            f"{layer}.mlp.gate_proj.weight": (s.intermediate_size, s.hidden_size),
            f"{layer}.mlp.up_proj.weight": (s.intermediate_size, s.hidden_size),
            f"{layer}.mlp.down_proj.weight": (s.hidden_size, s.intermediate_size),
        }
    for index in range(s.audio_layers):
        layer = f"audio_tower.layers.{index}"
        for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"):
            result |= {f"{layer}.{part}.weight": (width, width), f"{layer}.{part}.bias": (width,)}
        for part in ("self_attn_layer_norm", "final_layer_norm"):
            result |= {f"{layer}.{part}.weight": (width,), f"{layer}.{part}.bias": (width,)}
        inner = s.audio_intermediate_size
        result |= {f"{layer}.fc1.weight": (inner, width), f"{layer}.fc1.bias": (inner,)}
        result |= {f"{layer}.fc2.weight": (width, inner), f"{layer}.fc2.bias": (width,)}
    return {f"thinker.{name}": shape for name, shape in sorted(result.items())}


def random_weights(name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float64]:
    """Bell-shaped values of the scale that keeps a signal alive through the layer `name`."""
    count = int(np.prod(shape))
    raw = np.random.PCG64([seed, zlib.crc32(name.encode())]).random_raw(count)
    parts = raw.view(np.uint16).reshape(count, 4).astype(np.int64)
    # The sum of four uniform 16-bit numbers; variance 4 · 2^32 / 12.
    unit = (parts.sum(axis=1) - 2 * 65535) * (3.0**0.5 / 65536)
    is_norm = "norm" in name or ".ln_post." in name
    if is_norm and name.endswith("weight"):
        # Sharper attention than ones would give, so that the logits depend on single audio rows.
        values = (1.5 if "q_norm" in name or "k_norm" in name else 1.0) + 0.05 * unit
    elif name.endswith("bias"):
        values = 0.05 * unit
    elif "embed_tokens" in name:
        values = 0.5 * unit
    else:
        gain = 1.4 if "conv2d" in name else 1.0
        values = unit * (gain / float(np.prod(shape[1:])) ** 0.5)
    return np.asarray(values.reshape(shape), np.float64)


def to_bf16(values: NDArray[Any]) -> NDArray[np.uint16]:
    """The upper halves of `values` as float32, rounded to nearest, ties to even."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(halves: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (halves.astype(np.uint32) << 16).view(np.float32)


_DTYPE_NAMES: dict[np.dtype[Any], str] = {
    np.dtype(np.uint16): "BF16",
    np.dtype(np.float16): "F16",
    np.dtype(np.float32): "F32",
}


def write_safetensors(path: Path, tensors: dict[str, NDArray[Any]]) -> None:
    """Write a safetensors file; uint16 arrays are taken as bf16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, array in tensors.items():
        span = [offset, offset + array.nbytes]
        header[name] = {"dtype": _DTYPE_NAMES[array.dtype], "shape": list(array.shape), "data_offsets": span}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).data)


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Read what `write_safetensors` wrote."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    dtypes = {name: dtype for dtype, name in _DTYPE_NAMES.items()}
    return {
        name: np.frombuffer(
            data[8 + length :][slice(*entry["data_offsets"])], dtypes[entry["dtype"]]
        ).reshape(entry["shape"])
        for name, entry in header.items()
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
