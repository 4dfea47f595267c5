"""Make the golden references: transformers' own Qwen3-ASR, in float32, on a small random checkpoint.

    python tests/golden/make.py                    write tests/golden/reference/*.npz
    python tests/golden/make.py --verify FOLDER    hold this method to other references (see README.md)

Needs torch and transformers; the tests that use what it writes need neither.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import AutoTokenizer
from transformers.models.qwen3_asr import (
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
)

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from helpers.checkpoint import from_bf16, read_safetensors, write_checkpoint  # noqa: E402
from helpers.golden import CLIPS, SEED, SIZES, mel_frames  # noqa: E402

STEPS = 32
Array = NDArray[Any]


class Reference:
    """Qwen3-ASR of transformers, with the weights of a checkpoint in the official layout.

    transformers 5 reads a renamed config and renamed tensors; given the official layout its automatic classes
    silently build a model of default sizes. So both are mapped here, and every tensor must find its place.
    """

    def __init__(self, folder: Path) -> None:
        thinker = json.loads((folder / "config.json").read_text())["thinker_config"]
        text, audio = thinker["text_config"], thinker["audio_config"]
        config = Qwen3ASRConfig(
            audio_config={key: audio[key] for key in _AUDIO_KEYS} | {"model_type": "qwen3_asr_encoder"},
            text_config={key: text[key] for key in _TEXT_KEYS}
            | {
                "model_type": "qwen3",
                "rope_parameters": {"rope_type": "default", "rope_theta": float(text["rope_theta"])},
            },
            audio_token_id=thinker["audio_token_id"],
            tie_word_embeddings=text["tie_word_embeddings"],
        )
        for key in _AUDIO_KEYS:
            assert getattr(config.audio_config, key) == audio[key], key
        for key in _TEXT_KEYS:
            assert getattr(config.text_config, key) == text[key], key
        config._attn_implementation = "eager"
        self.model: Any = Qwen3ASRForConditionalGeneration(config)  # dropout rates are 0
        half_width = text["head_dim"] // 2
        frequencies = float(text["rope_theta"]) ** (-torch.arange(half_width) / half_width)
        torch.testing.assert_close(self.model.model.language_model.rotary_emb.inv_freq, frequencies)
        weights = {
            _renamed(name): torch.from_numpy(from_bf16(value))
            for name, value in read_safetensors(folder / "model.safetensors").items()
        }
        # Strict: a tensor too many or too few is an error.
        self.model.load_state_dict(weights, strict=True)
        self.extractor = Qwen3ASRFeatureExtractor(n_window=audio["n_window"])  # type: ignore[no-untyped-call]
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.audio_token_id = thinker["audio_token_id"]

    @torch.inference_mode()
    def run(self, samples: NDArray[np.float32], languages: dict[str, str | None]) -> dict[str, Array]:
        """Everything the references hold for one clip, with windows (`_win`) and without (`_full`).

        `languages` maps the keys' middle part to a language to force, or to None.
        """
        features = self.extractor(samples, sampling_rate=16000, padding="longest", return_attention_mask=True)
        mel, mask = features["input_features"], features["attention_mask"]
        frames = int(mask.sum())
        result: dict[str, Array] = {"n_samples": np.array(len(samples)), "mel": mel[0, :, :frames].numpy()}
        encoded: dict[str, torch.Tensor] = {}
        first_layer_inputs: list[torch.Tensor] = []
        tower = self.model.model.audio_tower
        hook = tower.layers[0].register_forward_pre_hook(
            lambda _, inputs: first_layer_inputs.append(inputs[0])
        )
        try:
            encoded["win"] = self._encode(mel, mask, {})
            rows = len(encoded["win"])
            # One window over the whole clip instead of the windows the class computes.
            encoded["full"] = self._encode(
                mel, mask, {"cu_seqlens": torch.tensor([0, rows], dtype=torch.int32)}
            )
        finally:
            hook.remove()
        result["enc_in"] = first_layer_inputs[0].numpy()
        for windows, rows_out in encoded.items():
            result[f"enc_{windows}"] = rows_out.numpy()
        for key, language in languages.items():
            ids = self.prompt_ids(rows, language)
            result[f"prompt_ids_{key}"] = np.array(ids)
            for windows, rows_out in encoded.items():
                logits, greedy, gaps = self._generate(ids, rows_out)
                result[f"logits0_{key}_{windows}"] = logits
                result[f"greedy_{key}_{windows}"] = greedy
                result[f"gap_{key}_{windows}"] = gaps
        return result

    def prompt_ids(self, audio_rows: int, language: str | None) -> list[int]:
        """The ids of the prompt, without context, for a clip of `audio_rows` audio tokens."""
        text = (
            "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|audio_start|>"
            + "<|audio_pad|>" * audio_rows
            + "<|audio_end|><|im_end|>\n<|im_start|>assistant\n"
        )
        if language is not None:
            text += f"language {language}<asr_text>"
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids.count(self.audio_token_id) == audio_rows
        return ids

    def _encode(self, mel: torch.Tensor, mask: torch.Tensor, more: dict[str, Any]) -> torch.Tensor:
        """Projected encoder output [N, hidden]."""
        output: torch.Tensor = self.model.get_audio_features(mel, mask, **more).pooler_output
        return output

    def _generate(self, ids: list[int], audio: torch.Tensor) -> tuple[Array, Array, Array]:
        """First-step logits [vocabulary], greedy ids [STEPS] past any stop token, and their gaps [STEPS]."""
        input_ids = torch.tensor([ids])
        embeddings = self.model.get_input_embeddings()(input_ids)
        embeddings[input_ids == self.audio_token_id] = audio
        step: dict[str, Any] = {"inputs_embeds": embeddings}
        cache = None
        first, greedy, gaps = None, [], []
        for _ in range(STEPS):
            output = self.model(**step, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            logits = output.logits[0, -1]
            first = logits.numpy() if first is None else first
            best, second = torch.topk(logits, 2).values.tolist()
            greedy.append(int(logits.argmax()))
            gaps.append(best - second)
            step = {"input_ids": torch.tensor([[greedy[-1]]])}
        assert first is not None
        return first, np.array(greedy), np.array(gaps, np.float32)


_AUDIO_KEYS = (
    "d_model",
    "downsample_hidden_size",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "encoder_layers",
    "n_window",
    "n_window_infer",
    "num_mel_bins",
    "output_dim",
    "activation_function",
    "scale_embedding",
)
_TEXT_KEYS = (
    "attention_bias",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "tie_word_embeddings",
    "vocab_size",
)


def _renamed(name: str) -> str:
    """transformers 5's name of the official checkpoint's tensor `name`."""
    name = name.removeprefix("thinker.")
    for old, new in (
        ("audio_tower.proj1.", "model.multi_modal_projector.linear_1."),
        ("audio_tower.proj2.", "model.multi_modal_projector.linear_2."),
        ("audio_tower.", "model.audio_tower."),
        ("model.", "model.language_model."),
    ):
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


LANGUAGES: dict[str, str | None] = {"auto": None, "en": "English"}


def make(target: Path) -> None:
    """Write a reference for every clip, and `about.json`."""
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), SIZES, SEED)
        weights_sha256 = hashlib.sha256((Path(folder) / "model.safetensors").read_bytes()).hexdigest()
        reference = Reference(Path(folder))
    for name, clip in CLIPS.items():
        samples = clip()
        result = reference.run(samples / np.float32(32768), LANGUAGES)
        frames = mel_frames(result["mel"].shape[1])
        result["mel"] = result["mel"][:, frames]
        if np.array_equal(result["enc_win"], result["enc_full"]):
            # One window holds the clip: the two ways are one.
            result = {key: value for key, value in result.items() if not key.endswith("_full")}
        np.savez_compressed(target / f"{name}.npz", allow_pickle=False, **result)
        print(f"{name}: {len(samples)} samples, {len(result['enc_win'])} audio tokens")
    about = {
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "weights_sha256": weights_sha256,
    }
    (target / "about.json").write_text(json.dumps(about, indent=2) + "\n")


def verify(folder: Path) -> None:
    """Compare this method's outputs with the references in `folder`, made by other means.

    `folder` holds `tiny-v2/checkpoint`, `tiny-v2/reference/CLIP.npz` and `wav/CLIP.wav`.
    """
    reference = Reference(folder / "tiny-v2" / "checkpoint")
    worst: dict[str, float] = {}
    for path in sorted((folder / "tiny-v2" / "reference").glob("*.npz")):
        with wave.open(str(folder / "wav" / f"{path.stem}.wav")) as file:
            raw = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        ours = reference.run(raw / np.float32(32768), LANGUAGES)
        theirs = dict(np.load(path))
        for key in sorted(ours):
            error = _error(key, ours, theirs)
            kind = key.split("_")[0]
            worst[kind] = max(worst.get(kind, 0.0), error)
            if error > 1e-5:
                print(f"{path.stem}: {key}: {error:.2e}")
    print("largest error over all clips:")
    for kind, error in worst.items():
        print(f"  {kind}: {error:.2e}")


def _error(key: str, ours: dict[str, Array], theirs: dict[str, Array]) -> float:
    """Largest difference of mel and gaps, relative error of other floats, number of differing ids."""
    a, b = ours[key], theirs[key]
    if a.shape != b.shape:
        raise SystemExit(f"{key}: shape {a.shape} here, {b.shape} there")
    if a.dtype.kind in "iu":
        return float((a != b).sum())
    if key.startswith(("mel", "gap")):
        return float(np.abs(a - b).max())
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--verify", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.verify:
        verify(arguments.verify)
    else:
        make(HERE / "reference")
