"""From a training state to a checkpoint in the official Hugging Face layout, and to a `.bin` file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tokenizer
from asrswitch.convert import convert
from model import PRESETS, Qwen3Asr, Sizes

_LANGUAGES = (
    "Chinese English Cantonese Arabic German French Spanish Portuguese Indonesian Italian Korean Russian "
    "Thai Vietnamese Japanese Turkish Hindi Malay Dutch Swedish Danish Finnish Polish Czech Filipino Persian "
    "Greek Romanian Hungarian Macedonian"
)
LANGUAGES = _LANGUAGES.split()


def configuration(sizes: Sizes) -> dict[str, Any]:
    """The content of config.json."""
    ids = tokenizer.added_ids()
    audio = {
        "model_type": "qwen3_asr_audio_encoder",
        "activation_dropout": 0,
        "activation_function": "gelu",
        "attention_dropout": 0,
        "conv_chunksize": 500,
        "d_model": sizes.encoder_width,
        "downsample_hidden_size": sizes.channels,
        "dropout": 0,
        "dtype": "bfloat16",
        "encoder_attention_heads": sizes.encoder_heads,
        "encoder_ffn_dim": sizes.encoder_ffn,
        "encoder_layers": sizes.encoder_layers,
        "initializer_range": 0.02,
        "max_source_positions": 1500,
        "n_window": 50,
        "n_window_infer": 800,
        "num_hidden_layers": sizes.encoder_layers,
        "num_mel_bins": 128,
        "output_dim": sizes.width,
        "scale_embedding": False,
    }
    # The three position sections share head_dim / 2 as in the published models (24, 20, 20 of 64).
    section = round(sizes.head_dim * 5 / 32)
    text = {
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "dtype": "bfloat16",
        "head_dim": sizes.head_dim,
        "hidden_act": "silu",
        "hidden_size": sizes.width,
        "initializer_range": 0.02,
        "intermediate_size": sizes.ffn,
        "max_position_embeddings": 65536,
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers,
        "num_key_value_heads": sizes.kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_scaling": {
            "interleaved": True,
            "mrope_interleaved": True,
            "mrope_section": [sizes.head_dim // 2 - 2 * section, section, section],
            "rope_type": "default",
            "type": "default",
        },
        "rope_theta": 1_000_000,
        "tie_word_embeddings": sizes.tied,
        "use_cache": True,
        "vocab_size": sizes.vocabulary,
    }
    return {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "model_type": "qwen3_asr",
        "support_languages": LANGUAGES,
        "thinker_config": {
            "audio_config": audio,
            "audio_end_token_id": ids["<|audio_end|>"],
            "audio_start_token_id": ids["<|audio_start|>"],
            "audio_token_id": ids["<|audio_pad|>"],
            "dtype": "bfloat16",
            "initializer_range": 0.02,
            "model_type": "qwen3_asr",
            "text_config": text,
        },
    }


GENERATION = {
    "do_sample": False,
    "eos_token_id": [tokenizer.added_ids()["<|endoftext|>"], tokenizer.added_ids()["<|im_end|>"]],
    "pad_token_id": tokenizer.added_ids()["<|endoftext|>"],
}
PREPROCESSOR = {
    "chunk_length": 30,
    "dither": 0.0,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 128,
    "hop_length": 160,
    "n_fft": 400,
    "n_samples": 480_000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "Qwen3ASRProcessor",
    "return_attention_mask": True,
    "sampling_rate": 16_000,
}
# One system turn (always there), one user turn with the audio, the assistant's header.
CHAT_TEMPLATE = (
    "<|im_start|>system\n"
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}"
    "<|im_end|>\n<|im_start|>user\n<|audio_start|><|audio_pad|><|audio_end|><|im_end|>\n"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def rounded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights as a checkpoint holds them: bfloat16, each with its own storage, `thinker.` in front."""
    return {f"thinker.{name}": values.to(torch.bfloat16).clone() for name, values in sorted(state.items())}


def export_checkpoint(name: str, state_path: Path, out: Path) -> None:
    """Write the checkpoint of the preset `name` from a state of train.py."""
    out.mkdir(parents=True, exist_ok=True)
    state = torch.load(state_path, weights_only=True)
    save_file(rounded(state["model"]), out / "model.safetensors", metadata={"format": "pt"})
    contents = {
        "config.json": configuration(PRESETS[name]),
        "generation_config.json": GENERATION,
        "preprocessor_config.json": PREPROCESSOR,
        "chat_template.json": {"chat_template": CHAT_TEMPLATE},
    }
    for file, content in contents.items():
        (out / file).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    for file, text in tokenizer.tokenizer_files().items():
        (out / file).write_text(text, encoding="utf-8")


def load_checkpoint(name: str, directory: Path) -> Qwen3Asr:
    """The preset `name` with the rounded weights of a checkpoint, in float32."""
    model = Qwen3Asr(PRESETS[name])
    stored = load_file(directory / "model.safetensors")
    model.load_state_dict({key.removeprefix("thinker."): values.float() for key, values in stored.items()})
    return model.eval()


def main() -> None:
    """Export one training state as a checkpoint and, if asked, as a `.bin` file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--bin", type=Path)
    parser.add_argument("--type", default="q8_0")
    arguments = parser.parse_args()
    export_checkpoint(arguments.preset, arguments.state, arguments.checkpoint)
    if arguments.bin:
        convert(arguments.checkpoint, arguments.bin, arguments.type)


if __name__ == "__main__":
    main()
