"""What `models show` tells of a model file, as a value and as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from asrswitch.convert.container import HEADER_BYTES, SYNTHETIC_KEY
from asrswitch.errors import AsrSwitchError, printable
from asrswitch.memory_prediction import MemoryPrediction, NoPrediction
from asrswitch.model_file import ANEW, DecoderConfig, ModelFile, Tensor, read_model_file

# Where the parts of a model begin in the names of its tensors; the first that fits counts.
_PARTS = {
    "embedding": "model.embed_tokens.",
    "decoder layers": "model.",
    "output matrix": "lm_head.",
    "convolutions": "audio.conv",
    "encoder layers": "audio.",
    "projector": "multi_modal_projector.",
    "other tensors": "",
}
_STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")
_SPECIAL_TOKENS = (
    "<|im_start|>", *_STOP_TOKENS, "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>", "<asr_text>",
)  # fmt: skip
_AUDIO_TOKENS_PER_S = 13
_LARGEST_SIZE = 2**31 - 1
_MIB = 1024 * 1024


class Synthetic(msgspec.Struct, frozen=True):
    """What `models synth` was asked for to make the file; None where the file does not tell."""

    preset: str | None
    seed: int | None


class EncoderConfig(msgspec.Struct, frozen=True):
    """The encoder's sizes, as the metadata have them."""

    mel_bands: int
    conv_channels: int
    width: int
    layers: int
    heads: int
    inner_width: int
    window_frames: int  # of mel, which attend to one another


class TypeCount(msgspec.Struct, frozen=True):
    """The tensors that are stored in one type."""

    type: str
    tensors: int
    parameters: int
    bytes: int
    this_engine_only: bool


class Part(msgspec.Struct, frozen=True):
    """A part of the file."""

    name: str
    bytes: int


class TokenizerFacts(msgspec.Struct, frozen=True):
    """Counts, and the ids of the tokens that prompts and outputs are built of."""

    normal_tokens: int
    added_tokens: int
    merges: int
    special_ids: dict[str, int]


class ModelFacts(msgspec.Struct, frozen=True):
    """What is in a model file. The parts' bytes add up to the file's."""

    path: str
    name: str | None
    synthetic: Synthetic | None
    file_bytes: int
    tensors: int
    parameters: int
    encoder: EncoderConfig
    decoder: DecoderConfig
    types: list[TypeCount]
    parts: list[Part]
    tokenizer: TokenizerFacts
    stop_tokens: dict[str, int]
    languages: list[str]


Section = tuple[str, list[tuple[str, str]]]  # a heading; names and values


def model_facts(path: Path) -> ModelFacts:
    """The facts about a model file.

    Raises:
        AsrSwitchError: it cannot be read or is at fault; one line that names the file, the field and its
            offset.
    """
    file = read_model_file(path)
    metadata = _Metadata(path, file.metadata)
    added = file.vocabulary.added_ids | metadata.added_ids()
    ids = {token: added[token] for token in _SPECIAL_TOKENS if token in added}
    return ModelFacts(
        path=str(path),
        name=metadata.name(),
        synthetic=metadata.synthetic(),
        file_bytes=file.file_bytes,
        tensors=len(file.tensors),
        parameters=sum(tensor.elements for tensor in file.tensors),
        encoder=metadata.encoder(),
        decoder=file.decoder,
        types=_types(file.tensors),
        parts=_parts(file),
        tokenizer=TokenizerFacts(file.vocabulary.normal_tokens, len(added), file.vocabulary.merges, ids),
        stop_tokens={token: ids[token] for token in _STOP_TOKENS if token in ids},
        languages=metadata.languages(),
    )


def describe(facts: ModelFacts) -> list[Section]:
    """The facts as sections of text."""
    encoder, decoder, tokenizer = facts.encoder, facts.decoder, facts.tokenizer
    return [
        (
            printable(facts.path),
            [
                ("name", facts.name or "none"),
                ("weights", _weights(facts.synthetic)),
                *(
                    ("readers", f"this engine only, because of {count.type}; others read q4_0")
                    for count in facts.types
                    if count.this_engine_only
                ),
                ("size", f"{facts.file_bytes:,} bytes"),
                ("tensors", f"{facts.tensors:,}"),
                ("parameters", f"{facts.parameters:,}"),
            ],
        ),
        (
            "encoder",
            [
                ("mel bands", f"{encoder.mel_bands}"),
                ("convolution channels", f"{encoder.conv_channels}"),
                ("width", f"{encoder.width:,}"),
                ("layers", f"{encoder.layers}"),
                ("heads", f"{encoder.heads}"),
                ("feed-forward width", f"{encoder.inner_width:,}"),
                ("attention window", f"{encoder.window_frames / 100:g} s"),
            ],
        ),
        (
            "decoder",
            [
                ("vocabulary", f"{decoder.vocab_size:,}"),
                ("width", f"{decoder.width:,}"),
                ("layers", f"{decoder.layers}"),
                ("heads", f"{decoder.heads} of {decoder.head_width}"),
                ("key and value heads", f"{decoder.kv_heads}"),
                ("feed-forward width", f"{decoder.inner_width:,}"),
                ("longest context", f"{decoder.max_length:,} tokens"),
                ("rope theta", f"{decoder.rope_theta:,.0f}"),
            ],
        ),
        (
            "types",
            [
                (count.type, f"{count.tensors} tensors, {count.parameters:,} parameters, {_mib(count.bytes)}")
                for count in facts.types
            ],
        ),
        ("bytes by part", [(part.name, _mib(part.bytes)) for part in facts.parts]),
        (
            "tokenizer",
            [
                ("normal tokens", f"{tokenizer.normal_tokens:,}"),
                ("added tokens", f"{tokenizer.added_tokens:,}"),
                ("merges", f"{tokenizer.merges:,}"),
                ("special ids", _ids(tokenizer.special_ids)),
                ("stop tokens", _ids(facts.stop_tokens)),
                ("languages", f"{len(facts.languages)}: {', '.join(facts.languages)}"),
            ],
        ),
    ]


def describe_memory(prediction: MemoryPrediction | NoPrediction, longest_context: int) -> Section:
    """The prediction as a section of text; ``longest_context`` is the model's own, in tokens."""
    if isinstance(prediction, NoPrediction):
        return f"predicted memory: not known ({printable(prediction.reason)})", []
    asked = prediction.question
    threads = f"{asked.threads} thread{'s' * (asked.threads > 1)}"
    context = min(asked.context or longest_context, longest_context)
    audio_tokens = _AUDIO_TOKENS_PER_S * int(asked.clip_s)
    remedy = "cut the clip" if context == longest_context else "raise --context, or cut the clip"
    too_long = ("does not fit", f"the clip alone takes {audio_tokens:,} tokens: {remedy}")
    return "predicted memory", [
        (
            "for",
            f"a clip of {asked.clip_s:g} s, {asked.max_new_tokens:,} new tokens, {threads}, "
            f"a context of {context:,} tokens",
        ),
        *([too_long] if audio_tokens >= context else []),
        ("weights", f"{_mib(prediction.weights_bytes)}, file-backed and shared between processes"),
        ("anonymous, at most", f"{_mib(prediction.anonymous_bytes)}, of these parts, not all at one time:"),
        ("  loaded", _mib(prediction.loaded_bytes)),
        ("  clip", _mib(prediction.clip_bytes)),
        ("  encoder workspace", _mib(prediction.encoder_workspace_bytes)),
        ("  decoder workspace", _mib(prediction.decoder_workspace_bytes)),
        ("  KV cache", _mib(prediction.kv_cache_bytes)),
    ]


class _Metadata:
    """The metadata's fields, each checked when it is asked for; texts come back printable."""

    def __init__(self, path: Path, fields: dict[str, Any]) -> None:
        self._path = path
        self._fields = fields

    def name(self) -> str | None:
        name = self._fields.get("model_name")
        return printable(name) if isinstance(name, str) else None

    def synthetic(self) -> Synthetic | None:
        value = self._fields.get(SYNTHETIC_KEY)
        if not value:
            return None
        recipe = value if isinstance(value, dict) else {}
        preset, seed = recipe.get("preset"), recipe.get("seed")
        return Synthetic(
            printable(preset) if isinstance(preset, str) else None,
            seed if type(seed) is int and 0 <= seed < 2**63 else None,
        )

    def encoder(self) -> EncoderConfig:
        def size(key: str) -> int:
            value = audio.get(key)
            if type(value) is not int or not 1 <= value <= _LARGEST_SIZE:
                raise self._fault(f"config.json.thinker_config.audio_config.{key}", "no number above 0")
            return value

        audio = self._object("config.json", "thinker_config", "audio_config")
        return EncoderConfig(
            mel_bands=size("num_mel_bins"),
            conv_channels=size("downsample_hidden_size"),
            width=size("d_model"),
            layers=size("encoder_layers"),
            heads=size("encoder_attention_heads"),
            inner_width=size("encoder_ffn_dim"),
            window_frames=size("n_window_infer"),
        )

    def languages(self) -> list[str]:
        names = self._object("config.json").get("support_languages", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self._fault("config.json.support_languages", "no list of names")
        return [printable(name) for name in names]

    def added_ids(self) -> dict[str, int]:
        config = self._fields.get("tokenizer_config.json")
        decoder = config.get("added_tokens_decoder") if isinstance(config, dict) else None
        ids: dict[str, int] = {}
        for key, token in decoder.items() if isinstance(decoder, dict) else ():
            content = token.get("content") if isinstance(token, dict) else None
            if not isinstance(content, str) or not (key.isascii() and key.isdigit() and len(key) < 10):
                raise self._fault(
                    "tokenizer_config.json.added_tokens_decoder", f"at fault at {printable(key)!r}"
                )
            ids[printable(content)] = int(key)
        return ids

    def _object(self, *keys: str) -> dict[str, Any]:
        value: Any = self._fields
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, dict):
            raise self._fault(".".join(keys), "missing or no object")
        return value

    def _fault(self, field: str, what: str) -> AsrSwitchError:
        return AsrSwitchError(f"{self._path}: metadata at offset {HEADER_BYTES}: {field} is {what}; {ANEW}")


def _types(tensors: tuple[Tensor, ...]) -> list[TypeCount]:
    """One count for each type, the type with most bytes first."""
    counts = []
    for type in {tensor.type for tensor in tensors}:
        those = [tensor for tensor in tensors if tensor.type == type]
        elements, nbytes = sum(tensor.elements for tensor in those), sum(tensor.bytes for tensor in those)
        counts.append(TypeCount(type.name, len(those), elements, nbytes, type.this_engine_only))
    return sorted(counts, key=lambda count: (-count.bytes, count.type))


def _parts(file: ModelFile) -> list[Part]:
    sums = dict.fromkeys(_PARTS, 0)
    for tensor in file.tensors:
        part = next(part for part, start in _PARTS.items() if tensor.name.startswith(start))
        sums[part] += tensor.bytes
    parts = [Part(name, count) for name, count in sums.items() if count or name != "other tensors"]
    return [
        *parts,
        Part("vocabulary", file.vocabulary_bytes),
        Part("metadata", file.metadata_bytes),
        Part("tensor headers", file.record_bytes),
    ]


def _weights(synthetic: Synthetic | None) -> str:
    if synthetic is None:
        return "not marked as synthetic"
    made = f"preset {synthetic.preset}, seed {synthetic.seed}; " if synthetic.preset else ""
    return f"synthetic: {made}speed and memory are true, text is not"


def _ids(ids: dict[str, int]) -> str:
    return ", ".join(f"{token} {id}" for token, id in ids.items()) or "none"


def _mib(count: int) -> str:
    return f"{count / _MIB:,.2f} MiB"
