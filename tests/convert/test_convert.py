"""Whole conversions: the bytes of the file, its sources, its faults, its memory, its atomicity."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asrswitch.convert import TYPES, convert
from asrswitch.convert.quantise import TensorType, stored_type
from asrswitch.errors import AsrSwitchError, UsageError
from helpers.checkpoint import (
    ADDED_TOKENS,
    Sizes,
    config,
    from_bf16,
    make_vocabulary,
    read_safetensors,
    shapes,
    tokenizer_config,
    write_checkpoint,
    write_safetensors,
)
from helpers.container import Q8_0, dequantise, read_container

SIZES = Sizes()
GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "tiny-v2"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A fresh small checkpoint that the test may damage."""
    folder = tmp_path / "checkpoint"
    write_checkpoint(folder, SIZES, seed=11)
    return folder


@pytest.mark.parametrize("type", ["f16", "q8_0", "q4_0", "q4_1"])
def test_same_bytes_as_chatllm_cpp(tmp_path: Path, type: str) -> None:
    if not GOLDEN.is_dir():
        pytest.skip(f"no reference files in {GOLDEN}")
    convert(GOLDEN / "checkpoint", tmp_path / "out.bin", type)
    assert (tmp_path / "out.bin").read_bytes() == (GOLDEN / "bin" / f"tiny-v2-{type}.bin").read_bytes()


def test_header_by_hand(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.bin"
    convert(checkpoint, output, "q8_0")
    data = output.read_bytes()
    magic, version, model_at, vocabulary_at, _ = struct.unpack_from("<4s4I", data)
    assert (magic, version, model_at % 4, vocabulary_at) == (b"ggmm", 1, 0, model_at + 8 + 616)
    assert struct.unpack_from("<2i", data, model_at) == (0x1000010F, 1)
    fields = struct.unpack_from("<13if", data, model_at + 8)
    assert fields[:7] == (Q8_0, 1024, 64, 2, 1, 128, 65536)
    assert fields[7:11] == (-1, -1, -1, -1)
    assert fields[11:] == (1, 64, 1e6)
    # Bytes 88 to 600 are the layers' table, then come the sections of the rotary embedding.
    assert struct.unpack_from("<4i", data, model_at + 8 + 600) == (16, 8, 8, 0)
    first = make_vocabulary(1024 - len(ADDED_TOKENS))[0][0].encode()
    assert data[vocabulary_at:].startswith(struct.pack("<i", len(first)) + first + b"\x01")


@pytest.mark.parametrize("type", TYPES)
def test_read_back(checkpoint: Path, tmp_path: Path, type: str) -> None:
    output = tmp_path / "out.bin"
    convert(checkpoint, output, type)
    container = read_container(output)
    wanted = TYPES[type]
    assert container.config["dtype"] == wanted
    assert list(container.metadata) == [
        "config.json",
        "tokenizer_config.json",
        "preprocessor_config.json",
        "model_name",
    ]
    assert container.metadata["config.json"] == config(SIZES)
    assert container.metadata["model_name"] == "Qwen3-ASR"
    vocabulary, merges = make_vocabulary(1024 - len(ADDED_TOKENS))
    assert container.vocabulary == [(token.encode(), 1) for token in vocabulary]
    assert container.merges == [f"{left} {right}".encode() for left, right in merges]

    weights = read_safetensors(checkpoint / "model.safetensors")
    assert len(container.tensors) == len(weights)
    # The order is the checkpoint names', so the records pair up with the sorted names.
    for (name, tensor), source in zip(container.tensors.items(), sorted(weights), strict=True):
        values = from_bf16(weights[source])
        assert tensor.shape == values.shape, name
        assert tensor.type == stored_type(name, values.shape, wanted), name
        assert tensor.offset % 16 == 0, name
        if tensor.type == TensorType.F32:
            np.testing.assert_array_equal(tensor.values(), values, err_msg=name)
        else:
            step = {TensorType.F16: 2**-11, TensorType.Q8_0: 1 / 254 + 2**-10}.get(
                TensorType(tensor.type), 1 / 7
            )
            assert np.abs(tensor.values() - values).max() <= np.abs(values).max() * step, name


def test_names_follow_the_format(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "out.bin", "f16")
    names = set(read_container(tmp_path / "out.bin").tensors)
    assert {
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.layers.0.mlp.down_proj.weight",
        "audio.conv2d3.bias",
        "audio.conv_out.weight",
        "audio.layers.0.input_layernorm.bias",
        "audio.layers.0.post_attention_layernorm.weight",
        "audio.layers.0.self_attn.o_proj.bias",
        "audio.layers.0.mlp.fc0.weight",
        "audio.layers.0.mlp.fc1.weight",
        "audio.ln_post.weight",
        "multi_modal_projector.proj1.weight",
        "multi_modal_projector.proj2.bias",
    } <= names
    assert not any("thinker" in name or "audio_tower" in name for name in names)


def test_tied_output_matrix_is_stored_beside_the_embedding(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tied", Sizes(tied=True), seed=11)
    convert(tmp_path / "tied", tmp_path / "out.bin", "q4_0")
    container = read_container(tmp_path / "out.bin")
    assert container.tensors["lm_head.weight"].data == container.tensors["model.embed_tokens.weight"].data
    assert container.config["tie_word_embeddings"] == 0


def test_shards_hold_the_same_tensors(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "whole.bin", "q4_1")
    path = checkpoint / "model.safetensors"
    weights = read_safetensors(path)
    path.unlink()
    names = sorted(weights, reverse=True)
    shards = {
        f"model-0000{number}-of-00003.safetensors": dict.fromkeys(names[number - 1 :: 3])
        for number in (1, 2, 3)
    }
    for shard, members in shards.items():
        write_safetensors(checkpoint / shard, {name: weights[name] for name in members})
    weight_map = {name: shard for shard, members in shards.items() for name in members}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    convert(checkpoint, tmp_path / "sharded.bin", "q4_1")
    whole, sharded = read_container(tmp_path / "whole.bin"), read_container(tmp_path / "sharded.bin")
    assert whole.head == sharded.head
    assert {n: t.data for n, t in whole.tensors.items()} == {n: t.data for n, t in sharded.tensors.items()}


@pytest.mark.parametrize("pairs", [True, False], ids=["merges as pairs", "merges as text"])
def test_tokenizer_json_instead_of_vocab_and_merges(checkpoint: Path, tmp_path: Path, pairs: bool) -> None:
    vocabulary, merges = make_vocabulary(1024 - len(ADDED_TOKENS))
    (checkpoint / "vocab.json").unlink()
    (checkpoint / "merges.txt").unlink()
    added = [{"id": len(vocabulary) + i, "content": token} for i, token in enumerate(ADDED_TOKENS)]
    model = {
        "type": "BPE",
        "vocab": {token: i for i, token in enumerate(vocabulary)},
        "merges": [list(rule) for rule in merges] if pairs else [" ".join(rule) for rule in merges],
    }
    (checkpoint / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": added}))
    convert(checkpoint, tmp_path / "out.bin", "q8_0")
    container = read_container(tmp_path / "out.bin")
    assert container.vocabulary == [
        *((token.encode(), 1) for token in vocabulary),
        *((token.encode(), 4) for token in ADDED_TOKENS),
    ]
    assert container.merges == [" ".join(rule).encode() for rule in merges]


def test_dequantised_file_is_an_f32_file_of_the_same_values(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "q.bin", "q4_0")
    dequantise(tmp_path / "q.bin", tmp_path / "d.bin")
    quantised, back = read_container(tmp_path / "q.bin"), read_container(tmp_path / "d.bin")
    assert back.config == quantised.config | {"dtype": TensorType.F32}
    for name, tensor in quantised.tensors.items():
        assert back.tensors[name].type == TensorType.F32
        np.testing.assert_array_equal(back.tensors[name].values(), tensor.values(), err_msg=name)


def test_progress_ends_at_its_total(checkpoint: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    convert(checkpoint, tmp_path / "out.bin", "q4_0", lambda *call: calls.append(call))
    done, totals, names = zip(*calls, strict=True)
    assert list(done) == sorted(done) and set(totals) == {done[-1]}
    stored = read_container(tmp_path / "out.bin").tensors
    assert list(names) == list(stored)
    assert done[-1] == sum(len(tensor.data) for tensor in stored.values())


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", change)


def edit_text(**values: Any) -> Callable[[Path], None]:
    return edit_config(lambda content: content["thinker_config"]["text_config"].update(values))


def edit_audio(**values: Any) -> Callable[[Path], None]:
    return edit_config(lambda content: content["thinker_config"]["audio_config"].update(values))


def edit_weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        weights = read_safetensors(folder / "model.safetensors")
        change(weights)
        write_safetensors(folder / "model.safetensors", weights)

    return edit


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def put(name: str, text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(text)


NORM = "thinker.model.norm.weight"
FAULTS: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "no folder": (shutil.rmtree, "", "no such folder"),
    "no config": (remove("config.json"), "config.json", "no such file"),
    "no tokenizer config": (remove("tokenizer_config.json"), "tokenizer_config.json", "no such file"),
    "no preprocessor config": (
        remove("preprocessor_config.json"),
        "preprocessor_config.json",
        "no such file",
    ),
    "no vocabulary": (remove("vocab.json"), "vocab.json", "no such file"),
    "no merges": (remove("merges.txt"), "merges.txt", "no such file"),
    "no weights": (remove("model.safetensors"), "", "neither model.safetensors"),
    "config not JSON": (put("config.json", "{"), "config.json", "not JSON at line 1"),
    "config with NaN": (put("config.json", '{"a": NaN}'), "config.json", "not a JSON number"),
    "other architecture": (
        edit_config(lambda c: c.update(architectures=["LlamaForCausalLM"])),
        "config.json",
        "only Qwen3ASRForConditionalGeneration is supported",
    ),
    "renamed layout": (edit_config(lambda c: c.pop("thinker_config")), "config.json", "'-hf'"),
    "forced aligner": (
        edit_config(lambda c: c["thinker_config"].update(classify_num=5000)),
        "config.json",
        "forced aligner",
    ),
    "no audio config": (
        edit_config(lambda c: c["thinker_config"].pop("audio_config")),
        "config.json",
        "no thinker_config.audio_config",
    ),
    "quantised": (
        edit_config(lambda c: c.update(quantization_config={})),
        "config.json",
        "quantised already",
    ),
    "other activation": (edit_text(hidden_act="relu"), "config.json", "hidden_act is relu"),
    "experts": (edit_text(num_experts=8), "config.json", "num_experts is 8"),
    "size missing": (edit_text(hidden_size=None), "config.json", "text_config.hidden_size is None"),
    "size zero": (edit_audio(d_model=0), "config.json", "audio_config.d_model is 0"),
    "size a text": (edit_text(head_dim="64"), "config.json", "text_config.head_dim is 64"),
    "size too large": (edit_text(vocab_size=2**31), "config.json", "text_config.vocab_size"),
    "too many layers": (edit_text(num_hidden_layers=129), "config.json", "at most 128"),
    "rope theta": (edit_text(rope_theta=None), "config.json", "rope_theta is None"),
    "rope sections": (edit_text(rope_scaling={}), "config.json", "mrope_section is None"),
    "no added tokens": (put("tokenizer_config.json", "{}"), "tokenizer_config.json", "added_tokens_decoder"),
    "gap in ids": (put("vocab.json", '{"a": 0, "b": 2}'), "vocab.json", "has id 2 where 1 is due"),
    "same id twice": (put("vocab.json", '{"a": 0, "b": 0}'), "vocab.json", "has id 0 where 1 is due"),
    "id a text": (put("vocab.json", '{"a": "0"}'), "vocab.json", "wrong kind"),
    "half a surrogate": (put("vocab.json", '{"\\ud800": 0}'), "vocab.json", "surrogate"),
    "broken merge": (put("merges.txt", "#version: 0.2\na b\nabc\n"), "merges.txt", "merge rule 1 is 'abc'"),
    "vocabulary too long": (edit_text(vocab_size=900), "", "vocab_size is 900"),
    "missing tensor": (
        edit_weights(lambda w: w.pop(NORM)),
        "",
        f"1 tensors are missing, the first is {NORM}",
    ),
    "unexpected tensor": (
        edit_weights(lambda w: w.update({"thinker.extra.weight": w[NORM]})),
        "model.safetensors",
        "unexpected tensor thinker.extra.weight",
    ),
    "wrong shape": (
        edit_weights(lambda w: w.update({NORM: w[NORM][:-1]})),
        "model.safetensors",
        "has shape [63], config.json asks for [64]",
    ),
    "truncated weights": (
        lambda folder: os.truncate(folder / "model.safetensors", 50_000),
        "model.safetensors",
        "damaged safetensors file",
    ),
    "a NaN": (
        edit_weights(lambda w: w.update({NORM: np.full(64, np.nan, np.float32)})),
        "model.safetensors",
        f"{NORM} cannot be stored as f32: it holds a NaN",
    ),
    "tokenizer.json of another kind": (
        put("tokenizer.json", '{"model": {"type": "Unigram"}}'),
        "tokenizer.json",
        "not a byte-pair encoding",
    ),
}


@pytest.mark.parametrize(("damage", "culprit", "fault"), FAULTS.values(), ids=FAULTS)
def test_fault_in_the_checkpoint(
    checkpoint: Path, tmp_path: Path, damage: Callable[[Path], Any], culprit: str, fault: str
) -> None:
    damage(checkpoint)
    with pytest.raises(AsrSwitchError) as caught:
        convert(checkpoint, tmp_path / "out.bin", "q4_0")
    message = str(caught.value)
    assert message.startswith(f"{checkpoint / culprit if culprit else checkpoint}: "), message
    assert fault in message and "\n" not in message
    assert list(tmp_path.iterdir()) == ([checkpoint] if checkpoint.exists() else [])


def test_unknown_type_is_wrong_use(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose one of f32, f16, q8_0, q4_0, q4_1, q4_0_16x4"):
        convert(checkpoint, tmp_path / "out.bin", "q2_k")


@pytest.mark.parametrize(
    ("name", "fault"), [("missing/out.bin", "does not exist"), ("checkpoint", "is a folder")]
)
def test_output_that_cannot_be(checkpoint: Path, tmp_path: Path, name: str, fault: str) -> None:
    with pytest.raises(AsrSwitchError, match=fault) as caught:
        convert(checkpoint, tmp_path / name, "q4_0")
    assert str(caught.value).startswith(str(tmp_path / name))


def run_python(source: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """A Python process that sees this one's import path."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", source, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


FILE_SIZE_LIMITED = """
import resource, sys
from pathlib import Path
from asrswitch.convert import convert
from asrswitch.errors import AsrSwitchError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    convert(Path(sys.argv[1]), Path(sys.argv[2]), "f32")
except AsrSwitchError as error:
    print(error)
"""


def test_no_room_for_the_output(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.bin"
    stdout, stderr = run_python(FILE_SIZE_LIMITED, checkpoint, output).communicate(timeout=60)
    assert stderr == ""
    assert stdout == f"{output}: cannot be written: File too large; make room or choose another place\n"
    assert list(tmp_path.iterdir()) == [checkpoint]


HALTING = """
import sys, time
from pathlib import Path
from asrswitch.convert import convert
def halt(done, total, name):
    print("halted", flush=True)
    time.sleep(60)
convert(Path(sys.argv[1]), Path(sys.argv[2]), "f32", halt)
"""


@pytest.mark.parametrize(
    ("number", "left"), [(signal.SIGINT, 0), (signal.SIGKILL, 1)], ids=["Ctrl-C", "kill"]
)
def test_interrupted_conversion_leaves_the_old_file(
    checkpoint: Path, tmp_path: Path, number: signal.Signals, left: int
) -> None:
    output = tmp_path / "out.bin"
    output.write_bytes(b"the old file")
    with run_python(HALTING, checkpoint, output) as process:
        assert process.stdout is not None and process.stdout.readline() == "halted\n"
        process.send_signal(number)
        process.communicate(timeout=60)
    assert output.read_bytes() == b"the old file"
    assert len(list(tmp_path.glob(".out.bin.*.partial"))) == left


MEASURED = """
import sys
from pathlib import Path
from asrswitch.convert import convert
def peak_kib():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before = peak_kib()
convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
print(peak_kib() - before)
"""


def test_memory_is_bounded_by_the_piece_and_not_the_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    write_checkpoint(folder, Sizes(), seed=1)
    sizes = Sizes(hidden_size=1024, vocab_size=36_000)
    (folder / "config.json").write_text(json.dumps(config(sizes)))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(1024)))
    pattern = np.arange(0x3C00, 0x3C80, dtype=np.uint16)
    weights = {name: np.resize(pattern, shape) for name, shape in shapes(sizes).items()}
    write_safetensors(folder / "model.safetensors", weights)
    size_kib = (folder / "model.safetensors").stat().st_size // 1024
    del weights
    assert size_kib > 140 * 1024
    for type in ("q8_0", "q4_0_16x4"):
        process = run_python(MEASURED, folder, tmp_path / "out.bin", type)
        stdout, stderr = process.communicate(timeout=120)
        assert int(stdout or stderr) < 48 * 1024, type
        (tmp_path / "out.bin").unlink()
    shutil.rmtree(folder)
