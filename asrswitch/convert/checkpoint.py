"""A Qwen3-ASR checkpoint in the official Hugging Face layout: what of it goes into a `.bin` file.

The layout: `config.json` (with `thinker_config`), `tokenizer_config.json`, `preprocessor_config.json`,
weights as safetensors, and `vocab.json` with `merges.txt`, or `tokenizer.json` instead of those two.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrswitch.convert.container import (
    ABSENT,
    MAX_LAYERS,
    MROPE_SECTIONS,
    TOKEN_NORMAL,
    TOKEN_USER_DEFINED,
    ModelConfig,
    Token,
)
from asrswitch.convert.quantise import READ_BY_ROW
from asrswitch.convert.reading import read_json_object, read_text
from asrswitch.convert.safetensors import SafetensorsFile, TensorInfo, checkpoint_files
from asrswitch.errors import AsrSwitchError

ARCHITECTURE = "Qwen3ASRForConditionalGeneration"
MODEL_NAME = "Qwen3-ASR"
PREFIX = "thinker."
EMBEDDING = f"{PREFIX}{READ_BY_ROW}"
OUTPUT_MATRIX = f"{PREFIX}lm_head.weight"

# Files whose parsed content becomes the metadata, in this order.
_METADATA_FILES = (
    "config.json",
    "configuration.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)
_REQUIRED_FILES = ("config.json", "tokenizer_config.json", "preprocessor_config.json")

_AUDIO_RENAMES = (
    (".fc1.", ".mlp.fc0."),
    (".fc2.", ".mlp.fc1."),
    (".final_layer_norm.", ".post_attention_layernorm."),
    (".self_attn_layer_norm.", ".input_layernorm."),
    (".out_proj.", ".o_proj."),
)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the output: its name there, and where its values lie."""

    name: str
    source: SafetensorsFile
    info: TensorInfo


@dataclass(frozen=True)
class Checkpoint:
    """What the converter needs; `tensors` can be read while the checkpoint is open."""

    metadata: dict[str, Any]
    config: ModelConfig
    vocabulary: list[Token]
    merges: list[str]
    tensors: list[StoredTensor]


@contextmanager
def open_checkpoint(directory: Path) -> Iterator[Checkpoint]:
    """The checkpoint in `directory`, checked: sizes, names and shapes of all tensors agree with its config.

    Raises AsrSwitchError naming the file at fault.
    """
    if not directory.is_dir():
        raise AsrSwitchError(f"{directory}: no such folder; give the folder of a Hugging Face checkpoint")
    metadata = _metadata(directory)
    sections = CheckpointConfig(directory / "config.json", metadata["config.json"])
    config = sections.model_config()
    vocabulary, merges = _vocabulary(directory, metadata)
    if len(vocabulary) > config.vocab_size:
        raise AsrSwitchError(
            f"{directory}: the vocabulary has {len(vocabulary)} tokens, config.json's vocab_size is"
            f" {config.vocab_size}; the files belong to different models"
        )
    with ExitStack() as stack:
        files = [stack.enter_context(SafetensorsFile(path)) for path in checkpoint_files(directory)]
        tensors = _tensors(directory, files, sections.expected_shapes(config), sections.tied)
        yield Checkpoint(metadata, config, vocabulary, merges, tensors)


def stored_name(name: str) -> str:
    """The name in a `.bin` file of the checkpoint's tensor `name`."""
    name = name.removeprefix(PREFIX)
    if not name.startswith("audio_tower."):
        return name
    if name.startswith(("audio_tower.proj1.", "audio_tower.proj2.")):
        return name.replace("audio_tower.", "multi_modal_projector.", 1)
    name = name.replace("audio_tower.", "audio.", 1)
    for old, new in _AUDIO_RENAMES:
        name = name.replace(old, new)
    return name


class CheckpointConfig:
    """The checked content of config.json."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self._path = path
        if config.get("architectures") != [ARCHITECTURE]:
            raise AsrSwitchError(
                f"{path}: architectures is {config.get('architectures')}; only {ARCHITECTURE} is supported"
            )
        thinker = config.get("thinker_config")
        if not isinstance(thinker, dict):
            raise AsrSwitchError(
                f"{path}: no thinker_config; this looks like the renamed layout of transformers 5 ('-hf'):"
                " convert the original repository, as Qwen/Qwen3-ASR-0.6B"
            )
        if "classify_num" in thinker:
            raise AsrSwitchError(f"{path}: this is a forced aligner; give a speech recognition checkpoint")
        self._text = self._section(thinker, "text_config")
        self._audio = self._section(thinker, "audio_config")
        self.tied = self._text.get("tie_word_embeddings") is True
        if config.get("quantization_config") is not None:
            raise AsrSwitchError(f"{path}: the checkpoint is quantised already; give the original one")
        self._demand(self._text, "hidden_act", "silu")
        self._demand(self._audio, "activation_function", "gelu")
        for key in ("attention_bias", "use_sliding_window", "num_experts"):
            if self._text.get(key):
                raise AsrSwitchError(
                    f"{path}: text_config.{key} is {self._text[key]}, which Qwen3-ASR does not have"
                )

    def model_config(self) -> ModelConfig:
        text = self._text
        layers = self._size(text, "num_hidden_layers")
        if layers > MAX_LAYERS:
            raise AsrSwitchError(f"{self._path}: {layers} layers, the file format holds at most {MAX_LAYERS}")
        theta = text.get("rope_theta")
        if not isinstance(theta, (int, float)) or not 0 < theta < 1e30:
            raise AsrSwitchError(
                f"{self._path}: text_config.rope_theta is {theta}, a positive number is needed"
            )
        return ModelConfig(
            vocab_size=self._size(text, "vocab_size"),
            hidden_size=self._size(text, "hidden_size"),
            num_attention_heads=self._size(text, "num_attention_heads"),
            num_hidden_layers=layers,
            intermediate_size=self._size(text, "intermediate_size"),
            max_length=self._size(text, "max_position_embeddings"),
            bos_token_id=self._token_id("bos_token_id"),
            eos_token_id=self._token_id("eos_token_id"),
            pad_token_id=self._token_id("pad_token_id"),
            sep_token_id=self._token_id("sep_token_id"),
            num_key_value_heads=self._size(text, "num_key_value_heads"),
            head_dim=self._size(text, "head_dim"),
            rope_theta=float(theta),
            mrope_section=self._mrope_section(),
        )

    def expected_shapes(self, config: ModelConfig) -> dict[str, Shape]:
        """Every tensor that the checkpoint must hold, by its name there."""
        shapes = self._decoder_shapes(config) | self._encoder_shapes()
        return {PREFIX + name: shape for name, shape in shapes.items()}

    def _decoder_shapes(self, config: ModelConfig) -> dict[str, Shape]:
        hidden, inner = config.hidden_size, config.intermediate_size
        q_width = config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        shapes: dict[str, Shape] = {
            "model.embed_tokens.weight": (config.vocab_size, hidden),
            "model.norm.weight": (hidden,),
            "lm_head.weight": (config.vocab_size, hidden),
        }
        for index in range(config.num_hidden_layers):
            layer = f"model.layers.{index}"
            shapes |= {
                f"{layer}.input_layernorm.weight": (hidden,),
                f"{layer}.self_attn.q_proj.weight": (q_width, hidden),
                f"{layer}.self_attn.k_proj.weight": (kv_width, hidden),
                f"{layer}.self_attn.v_proj.weight": (kv_width, hidden),
                f"{layer}.self_attn.o_proj.weight": (hidden, q_width),
                f"{layer}.self_attn.q_norm.weight": (config.head_dim,),
                f"{layer}.self_attn.k_norm.weight": (config.head_dim,),
                f"{layer}.post_attention_layernorm.weight": (hidden,),
                f"{layer}.mlp.gate_proj.weight": (inner, hidden),
                f"{layer}.mlp.up_proj.weight": (inner, hidden),
                f"{layer}.mlp.down_proj.weight": (hidden, inner),
            }
        return shapes

    def _encoder_shapes(self) -> dict[str, Shape]:
        width = self._size(self._audio, "d_model")
        inner = self._size(self._audio, "encoder_ffn_dim")
        channels = self._size(self._audio, "downsample_hidden_size")
        bands = self._size(self._audio, "num_mel_bins")
        for _ in range(3):  # each convolution has stride 2 and padding 1
            bands = (bands + 1) // 2
        shapes: dict[str, Shape] = {"conv_out.weight": (width, channels * bands)}
        for index in (1, 2, 3):
            shapes[f"conv2d{index}.weight"] = (channels, 1 if index == 1 else channels, 3, 3)
            shapes[f"conv2d{index}.bias"] = (channels,)
        linears = {"proj1": (width, width), "proj2": (self._size(self._audio, "output_dim"), width)}
        norms = ["ln_post"]
        for index in range(self._size(self._audio, "encoder_layers")):
            layer = f"layers.{index}"
            linears |= {f"{layer}.self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}
            linears |= {f"{layer}.fc1": (inner, width), f"{layer}.fc2": (width, inner)}
            norms += [f"{layer}.self_attn_layer_norm", f"{layer}.final_layer_norm"]
        for name, (rows, columns) in linears.items():
            shapes |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
        for name in norms:
            shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
        return {f"audio_tower.{name}": shape for name, shape in shapes.items()}

    def _section(self, parent: dict[str, Any], key: str) -> dict[str, Any]:
        section = parent.get(key)
        if not isinstance(section, dict):
            raise AsrSwitchError(f"{self._path}: no thinker_config.{key}; download it again")
        return section

    def _demand(self, section: dict[str, Any], key: str, value: str) -> None:
        if section.get(key) != value:
            raise AsrSwitchError(f"{self._path}: {key} is {section.get(key)}, Qwen3-ASR has {value}")

    def _size(self, section: dict[str, Any], key: str) -> int:
        value = section.get(key)
        if type(value) is not int or not 0 < value < 2**31:
            name = "text_config" if section is self._text else "audio_config"
            raise AsrSwitchError(f"{self._path}: {name}.{key} is {value}, a positive number is needed")
        return value

    def _token_id(self, key: str) -> int:
        value = self._text.get(key)
        return value if type(value) is int and 0 <= value < 2**31 else ABSENT

    def _mrope_section(self) -> tuple[int, ...]:
        scaling = self._text.get("rope_scaling")
        section = scaling.get("mrope_section") if isinstance(scaling, dict) else None
        if (
            not isinstance(section, list)
            or len(section) > MROPE_SECTIONS
            or not all(type(item) is int and 0 <= item < 2**31 for item in section)
        ):
            raise AsrSwitchError(
                f"{self._path}: text_config.rope_scaling.mrope_section is {section}, a list of at most"
                f" {MROPE_SECTIONS} numbers is needed"
            )
        return tuple(section)


def _metadata(directory: Path) -> dict[str, Any]:
    wanted = [name for name in _METADATA_FILES if name in _REQUIRED_FILES or (directory / name).exists()]
    metadata: dict[str, Any] = {name: read_json_object(directory / name) for name in wanted}
    metadata["model_name"] = MODEL_NAME
    return metadata


def _vocabulary(directory: Path, metadata: dict[str, Any]) -> tuple[list[Token], list[str]]:
    if (directory / "tokenizer.json").exists():
        return _tokenizer_json(directory / "tokenizer.json")
    if not isinstance(metadata["tokenizer_config.json"].get("added_tokens_decoder"), dict):
        raise AsrSwitchError(
            f"{directory / 'tokenizer_config.json'}: no added_tokens_decoder, which names the special tokens;"
            " download it again"
        )
    path = directory / "vocab.json"
    ids = dict(read_json_object(path))
    if (directory / "added_tokens.json").exists():
        ids |= read_json_object(directory / "added_tokens.json")
    tokens = [Token(text.encode("utf-8"), TOKEN_NORMAL) for text in _in_order(path, ids)]
    return tokens, _merges_txt(directory / "merges.txt")


def _tokenizer_json(path: Path) -> tuple[list[Token], list[str]]:
    """Vocabulary and merges of `tokenizer.json`; its added tokens join the list as user-defined ones."""
    content = read_json_object(path)
    model = content.get("model")
    added = content.get("added_tokens", [])
    if not isinstance(model, dict) or model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        raise AsrSwitchError(f"{path}: not a byte-pair encoding; Qwen3-ASR's tokenizer is one")
    if not isinstance(added, list) or not all(
        isinstance(t, dict) and {"content", "id"} <= t.keys() for t in added
    ):
        raise AsrSwitchError(f"{path}: added_tokens is not a list of tokens; download it again")
    special = {token["content"]: token["id"] for token in added}
    tokens = [
        Token(text.encode("utf-8"), TOKEN_USER_DEFINED if text in special else TOKEN_NORMAL)
        for text in _in_order(path, special | model["vocab"])
    ]
    return tokens, [_merge(path, index, rule) for index, rule in enumerate(model.get("merges", []))]


def _in_order(path: Path, ids: dict[Any, Any]) -> list[str]:
    """The token texts by id; the ids must be 0, 1, 2, … without a gap, since the file stores none."""
    if not all(isinstance(text, str) and type(i) is int for text, i in ids.items()):
        raise AsrSwitchError(f"{path}: a token's text or id is of the wrong kind; download it again")
    texts = sorted(ids, key=lambda text: ids[text])
    for expected, text in enumerate(texts):
        if ids[text] != expected:
            raise AsrSwitchError(
                f"{path}: token {text!r} has id {ids[text]} where {expected} is due;"
                " ids must have no gaps or repeats"
            )
    return texts


def _merges_txt(path: Path) -> list[str]:
    lines = [line.strip() for line in read_text(path).split("\n")]
    if lines[0].startswith("#version"):
        lines = lines[1:]
    return [_merge(path, index, line) for index, line in enumerate(filter(None, lines))]


def _merge(path: Path, index: int, rule: object) -> str:
    """A merge rule as the file stores it, `left right`; newer tokenizer.json files hold it as a pair."""
    if isinstance(rule, list) and len(rule) == 2 and all(isinstance(part, str) and part for part in rule):
        return f"{rule[0]} {rule[1]}"
    if isinstance(rule, str) and len(rule.split(" ")) == 2 and all(rule.split(" ")):
        return rule
    raise AsrSwitchError(f"{path}: merge rule {index} is {rule!r}, two tokens are needed; download it again")


def _tensors(
    directory: Path, files: list[SafetensorsFile], expected: dict[str, Shape], tied: bool
) -> list[StoredTensor]:
    """The tensors in the order of the output: file by file, in each by name (chatllm.cpp's order)."""
    owners: dict[str, SafetensorsFile] = {}
    for file in files:
        for name, info in file.tensors.items():
            if name not in expected:
                raise AsrSwitchError(
                    f"{file.path}: unexpected tensor {name}; config.json describes another model"
                )
            if name in owners:
                raise AsrSwitchError(f"{file.path}: tensor {name} is in {owners[name].path.name} too")
            if info.shape != expected[name]:
                raise AsrSwitchError(
                    f"{file.path}: tensor {name} has shape {list(info.shape)}, config.json asks for"
                    f" {list(expected[name])}; the files belong to different models"
                )
            owners[name] = file
    sources = {name: name for name in owners}
    if tied and OUTPUT_MATRIX not in owners and EMBEDDING in owners:
        # Readers of the format demand the output matrix even where it is the embedding.
        owners[OUTPUT_MATRIX] = owners[EMBEDDING]
        sources[OUTPUT_MATRIX] = EMBEDDING
    missing = sorted(expected.keys() - owners.keys())
    if missing:
        raise AsrSwitchError(
            f"{directory}: {len(missing)} tensors are missing, the first is {missing[0]};"
            " download all weight files"
        )
    order = sorted(owners, key=lambda name: (owners[name].path.name, name))
    return [
        StoredTensor(stored_name(name), owners[name], owners[name].tensors[sources[name]]) for name in order
    ]
