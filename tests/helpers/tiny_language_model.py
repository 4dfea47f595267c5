"""A text-generation model with random weights, as Hugging Face has them: what it writes means nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

EOS = "<|end|>"
_CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


def write_tiny_language_model(directory: Path, seed: int, hidden: int = 128, chat: bool = False) -> Path:
    """Two layers of the architecture of Llama, and a token for each byte; a megabyte with 128 columns."""
    directory.mkdir(parents=True)
    _write_tokenizer(directory, chat)
    vocabulary = 257
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32",
        "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
        "bos_token_id": None, "eos_token_id": 256,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(_weights(seed, vocabulary, hidden), directory / "model.safetensors", {"format": "pt"})
    return directory


def _write_tokenizer(directory: Path, chat: bool) -> None:
    letters = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([EOS])
    tokenizer.save(str(directory / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOS}
    if chat:
        told["chat_template"] = _CHAT
    (directory / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")


def _weights(seed: int, vocabulary: int, hidden: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (generator.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    ones = np.ones(hidden, np.float32)
    weights = {
        "model.embed_tokens.weight": matrix(vocabulary, hidden),
        "model.norm.weight": ones,
        "lm_head.weight": matrix(vocabulary, hidden),
    }
    for layer in range(2):
        name = f"model.layers.{layer}"
        for part in "qkvo":
            weights[f"{name}.self_attn.{part}_proj.weight"] = matrix(hidden, hidden)
        weights[f"{name}.mlp.gate_proj.weight"] = matrix(2 * hidden, hidden)
        weights[f"{name}.mlp.up_proj.weight"] = matrix(2 * hidden, hidden)
        weights[f"{name}.mlp.down_proj.weight"] = matrix(hidden, 2 * hidden)
        weights[f"{name}.input_layernorm.weight"] = ones
        weights[f"{name}.post_attention_layernorm.weight"] = ones
    return weights
