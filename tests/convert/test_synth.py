"""Model files of random weights: their bytes, their tokenizer, their place in the engine, their cost."""

from __future__ import annotations

import hashlib
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from asrswitch.convert import TYPES
from asrswitch.convert.quantise import stored_type
from asrswitch.convert.synth import LARGEST_SEED, synthesise
from asrswitch.errors import AsrSwitchError, UsageError
from asrswitch.model_file import is_synthetic, read_model_file
from helpers.checkpoint import ADDED_TOKENS, LANGUAGES, Sizes, byte_alphabet, shapes
from helpers.container import Container, read_container
from helpers.engine import Engine
from support import ROOT

NORMAL, VOCAB = 4000, 4096
TINY = Sizes(
    hidden_size=128,
    heads=4,
    kv_heads=2,
    layers=3,
    intermediate_size=256,
    vocab_size=VOCAB,
    audio_width=128,
    audio_heads=2,
    audio_layers=3,
    audio_intermediate_size=256,
    conv_channels=32,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model in every type."""
    folder = tmp_path_factory.mktemp("synthetic")
    for name, type in TYPES.items():
        synthesise(folder / f"{name}.bin", "tiny", type, 1)
    return {name: folder / f"{name}.bin" for name in TYPES}


@pytest.fixture(scope="module")
def containers(files: dict[str, Path]) -> dict[str, Container]:
    """The same, read by the tests' own reader."""
    return {name: read_container(path) for name, path in files.items()}


@pytest.mark.parametrize("type", TYPES)
def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(
    type: str, files: dict[str, Path], tmp_path: Path
) -> None:
    def digest(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    synthesise(tmp_path / "again.bin", "tiny", TYPES[type], 1)
    synthesise(tmp_path / "other.bin", "tiny", TYPES[type], 2)
    assert digest(tmp_path / "again.bin") == digest(files[type])
    again, other = read_container(tmp_path / "again.bin"), read_container(tmp_path / "other.bin")
    for name, tensor in again.tensors.items():
        assert (tensor.data == other.tensors[name].data) == (len(tensor.shape) == 1), name


@pytest.mark.parametrize("type", TYPES)
def test_tensors_are_those_of_a_checkpoint_of_these_sizes(
    type: str, containers: dict[str, Container]
) -> None:
    container = containers[type]
    due = sorted(shape for shape in shapes(TINY).values())
    assert sorted(tensor.shape for tensor in container.tensors.values()) == due
    assert container.config["dtype"] == TYPES[type]
    for name, tensor in container.tensors.items():
        assert tensor.type == stored_type(name, tensor.shape, TYPES[type]), name
        assert tensor.offset % 16 == 0, name


@pytest.mark.parametrize("type", TYPES)
def test_weights_keep_the_magnitude_of_what_goes_through_them(
    type: str, containers: dict[str, Container]
) -> None:
    for name, tensor in containers[type].tensors.items():
        values = tensor.values().astype(np.float64)
        if len(tensor.shape) == 1:
            assert np.all(values == name.endswith(".weight")), name
            continue
        rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
        values = values.reshape(rows, columns)
        if name == "lm_head.weight":
            assert not values[:256].any() and not values[NORMAL:].any()
            values = values[256:NORMAL]
        deviation = 1.0 if name == "model.embed_tokens.weight" else columns**-0.5
        # Blocks of q4_0 have means of their own, so that their mean counts as one value a block.
        count = values.size / (32 if type.startswith("q4_0") else 1)
        assert values.std() == pytest.approx(deviation, rel=0.02 + 2 / count**0.5), name
        assert abs(values.mean()) < 5 * deviation / count**0.5, name
        assert len({row.tobytes() for row in values}) == len(values), name


def test_every_merge_makes_a_token_of_two_tokens(containers: dict[str, Container]) -> None:
    container = containers["q4_0"]
    texts = [text.decode() for text, kind in container.vocabulary if kind == 1]
    assert len(texts) == len(container.vocabulary) == len(set(texts)) == NORMAL
    assert sorted(texts[:256]) == sorted(byte_alphabet())
    merges = [tuple(rule.decode().split(" ")) for rule in container.merges]
    ids = {text: id for id, text in enumerate(texts)}
    assert [left + right for left, right in merges] == texts[256:]
    assert all(ids[left] < ids[left + right] and ids[right] < 256 for left, right in merges)


def test_the_metadata_are_an_official_models_and_say_what_they_are(
    containers: dict[str, Container], files: dict[str, Path]
) -> None:
    metadata = containers["q4_0"].metadata
    assert metadata["synthetic"] == {"preset": "tiny", "seed": 1}
    assert metadata["model_name"] == "Qwen3-ASR tiny (synthetic weights)"
    assert is_synthetic(files["q4_0"])
    added = metadata["tokenizer_config.json"]["added_tokens_decoder"]
    assert [(int(id), token["content"]) for id, token in added.items()] == list(
        enumerate(ADDED_TOKENS, NORMAL)
    )
    thinker = metadata["config.json"]["thinker_config"]
    keys = ("audio_start_token_id", "audio_end_token_id", "audio_token_id")
    contents = [added[str(thinker[key])]["content"] for key in keys]
    assert contents == ["<|audio_start|>", "<|audio_end|>", "<|audio_pad|>"]
    assert metadata["config.json"]["support_languages"] == LANGUAGES


@pytest.mark.parametrize("type", TYPES)
def test_the_engine_decodes_text_to_the_limit_and_prompts_are_of_true_length(
    type: str, files: dict[str, Path], clip: Path
) -> None:
    with Engine(files[type], "-n", "1", "--max_new_tokens", "40") as engine:
        result = engine.run(clip)
    assert len(result.ids) == 40
    assert all(256 <= id < NORMAL for id in result.ids)
    # 9 tokens, 13 of the clip's one second, 6 tokens: as with the official vocabulary.
    assert len(result.prompt_ids) == 9 + 13 + 6
    assert re.fullmatch(r"( ?[A-Za-z]+)+", result.text)
    assert len(set(result.ids)) > 1
    assert all(np.isfinite(logits).all() and logits.std() > 0.1 for logits in result.traces["logits"])


COMMAND = """
import sys
from pathlib import Path
from asrswitch.cli import main
code = main(sys.argv[1:])
print(code, Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
def test_a_model_of_true_size_is_made_in_little_memory(tmp_path: Path) -> None:
    output = tmp_path / "0.6b.bin"
    words = ("models", "synth", "--preset", "0.6b", "--type", "q4_0", str(output))
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout, done.stderr
    code, peak_kib = map(int, done.stdout.split())
    assert (code, list(tmp_path.iterdir())) == (0, [output])
    assert peak_kib < 300 * 1024
    file = read_model_file(output)
    assert len(file.tensors) == 612
    assert (file.vocabulary.normal_tokens, file.vocabulary.merges) == (151_643, 151_643 - 256)
    assert file.decoder.vocab_size == 151_936
    added = file.metadata["tokenizer_config.json"]["added_tokens_decoder"]
    assert list(added) == [str(id) for id in range(151_643, 151_705)]
    assert 530_000_000 < file.file_bytes < 540_000_000
    output.unlink()


def test_a_seed_out_of_range_and_an_output_that_cannot_be(tmp_path: Path) -> None:
    for seed in (-1, LARGEST_SEED + 1):
        with pytest.raises(UsageError, match="--seed"):
            synthesise(tmp_path / "out.bin", "tiny", TYPES["q4_0"], seed)
    with pytest.raises(AsrSwitchError, match="does not exist"):
        synthesise(tmp_path / "missing" / "out.bin", "tiny", TYPES["q4_0"], 0)
    assert list(tmp_path.iterdir()) == []


def test_progress_ends_at_its_total(tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    synthesise(tmp_path / "out.bin", "tiny", TYPES["q8_0"], 0, lambda *call: calls.append(call))
    done, totals, names = zip(*calls, strict=True)
    tensors = read_container(tmp_path / "out.bin").tensors
    assert list(done) == sorted(done) and set(totals) == {done[-1]}
    assert list(dict.fromkeys(names)) == list(tensors)
    assert done[-1] == sum(len(tensor.data) for tensor in tensors.values())
