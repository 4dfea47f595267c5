"""q4_0_16x4: the numbers of q4_0 with the bytes of sixteen rows interleaved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asrswitch
import asrswitch.convert
import asrswitch.convert.synth
from asrswitch.convert import TYPES, convert
from asrswitch.convert.quantise import TensorType, encode, interleave_rows, stored_type
from asrswitch.convert.synth import PRESETS, Preset, synthesise
from asrswitch.figures import split_output
from asrswitch.model_file import read_model_file
from helpers.checkpoint import Sizes, write_checkpoint
from helpers.container import Q4_0, Q4_0_16X4, Container, read_container, rewrite, separate
from helpers.engine import Engine, Result

PACKAGE = Path(asrswitch.__file__).parent
EMBEDDING = "model.embed_tokens.weight"
# 1000 rows are no whole groups of 16.
SIZES = Sizes(vocab_size=1000)


@st.composite
def rows_of_q4_0(draw: st.DrawFn) -> tuple[bytes, int, int]:
    """Whole groups of rows of any blocks; how many rows, and their columns."""
    rows, columns = 16 * draw(st.integers(1, 4)), 32 * draw(st.integers(1, 5))
    seed = draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed).bytes(rows * columns // 32 * 18), rows, columns


@given(rows_of_q4_0())
def test_every_byte_has_its_place(matrix: tuple[bytes, int, int]) -> None:
    data, rows, columns = matrix
    n_blocks = columns // 32
    interleaved = interleave_rows(np.frombuffer(data, np.uint8), columns).tobytes()
    assert len(interleaved) == len(data)
    for row in range(rows):
        group, r = divmod(row, 16)
        for block in range(n_blocks):
            plain = data[(row * n_blocks + block) * 18 :][:18]
            together = interleaved[(group * n_blocks + block) * 288 :][:288]
            assert together[2 * r : 2 * r + 2] == plain[:2]
            for g in range(4):
                for i in range(4):
                    assert together[32 + 64 * g + 4 * r + i] == plain[2 + 4 * g + i]


@given(rows_of_q4_0())
def test_rows_can_be_separated_again(matrix: tuple[bytes, int, int]) -> None:
    data, _, columns = matrix
    assert separate(interleave_rows(np.frombuffer(data, np.uint8), columns).tobytes(), columns) == data


def test_a_small_matrix_by_hand() -> None:
    """Row r has the scale 2^-r and, in the low nibbles, numbers that count from r."""
    rows = [
        [-8 * 2.0**-r] + [((r + j) % 16 - 8) * 2.0**-r for j in range(1, 16)] + [0.0] * 16 for r in range(16)
    ]
    data = encode(np.array(rows, np.float32), TensorType.Q4_0_16X4).tobytes()
    assert np.frombuffer(data[:32], "<f2").tolist() == [2.0**-r for r in range(16)]
    nibbles = [[0] + [(r + j) % 16 for j in range(1, 16)] for r in range(16)]
    expected = [8 << 4 | nibbles[r][4 * g + i] for g in range(4) for r in range(16) for i in range(4)]
    assert list(data[32:]) == expected


@pytest.mark.parametrize(
    ("name", "shape", "type"),
    [
        ("lm_head.weight", (1024, 64), TensorType.Q4_0_16X4),
        ("audio.conv_out.weight", (16, 32), TensorType.Q4_0_16X4),
        (EMBEDDING, (1024, 64), TensorType.Q4_0),
        ("lm_head.weight", (1000, 64), TensorType.Q4_0),
        ("a", (16, 2, 1, 32), TensorType.Q4_0),
        ("a", (16, 1, 32), TensorType.Q4_0),
        ("a", (16, 48), TensorType.F16),
        ("a", (16, 1, 3, 3), TensorType.F16),
        ("a", (32,), TensorType.F32),
    ],
)
def test_which_tensors_are_interleaved(name: str, shape: tuple[int, ...], type: TensorType) -> None:
    assert stored_type(name, shape, TensorType.Q4_0_16X4) is type


def check_same_numbers(plain: Container, interleaved: Container) -> set[str]:
    """Both hold the same; the names of the tensors that are interleaved."""
    names = set()
    for (name, due), (found_name, found) in zip(
        plain.tensors.items(), interleaved.tensors.items(), strict=True
    ):
        assert (found_name, found.shape, len(found.data)) == (name, due.shape, len(due.data))
        if found.type == Q4_0_16X4:
            names.add(name)
            assert (due.type, separate(found.data, found.shape[1])) == (Q4_0, due.data), name
        else:
            assert (found.type, found.data) == (due.type, due.data), name
        np.testing.assert_array_equal(found.values(), due.values(), err_msg=name)
    return names


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interleaved") / "checkpoint"
    write_checkpoint(folder, SIZES, seed=11)
    return folder


def test_a_checkpoint_gives_the_numbers_of_q4_0(checkpoint: Path, tmp_path: Path) -> None:
    containers = {}
    for type in ("q4_0", "q4_0_16x4"):
        convert(checkpoint, tmp_path / f"{type}.bin", type)
        containers[type] = read_container(tmp_path / f"{type}.bin")
    plain, interleaved = containers["q4_0"], containers["q4_0_16x4"]
    assert interleaved.config == plain.config | {"dtype": 258}
    assert interleaved.metadata == plain.metadata
    assert check_same_numbers(plain, interleaved) == {
        "audio.conv_out.weight",
        "audio.layers.0.mlp.fc0.weight",
        "audio.layers.0.mlp.fc1.weight",
        *(f"audio.layers.0.self_attn.{part}_proj.weight" for part in "qkvo"),
        *(f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkvo"),
        *(f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
        "multi_modal_projector.proj1.weight",
        "multi_modal_projector.proj2.weight",
    }
    # The output matrix has 1000 rows.
    for name in ("lm_head.weight", EMBEDDING):
        assert interleaved.tensors[name].type == Q4_0
    stored = {tensor.name: tensor.type.name for tensor in read_model_file(tmp_path / "q4_0_16x4.bin").tensors}
    assert {stored[name] for name in stored if interleaved.tensors[name].type == Q4_0_16X4} == {"q4_0_16x4"}


def test_of_tied_matrices_the_output_alone_is_interleaved(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tied", Sizes(tied=True), seed=11)
    convert(tmp_path / "tied", tmp_path / "out.bin", "q4_0_16x4")
    tensors = read_container(tmp_path / "out.bin").tensors
    output, embedding = tensors["lm_head.weight"], tensors[EMBEDDING]
    assert (output.type, embedding.type) == (Q4_0_16X4, Q4_0)
    assert separate(output.data, output.shape[1]) == embedding.data


# With pieces of one value, each row, or group of rows, is a piece of its own.
@pytest.mark.parametrize("elements", [1, 1000, 16 * 64, 16 * 64 + 32, 5 * 16 * 64 - 1])
@pytest.mark.parametrize("type", ["q4_0", "q4_0_16x4"])
def test_pieces_end_where_they_may(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, type: str, elements: int
) -> None:
    convert(checkpoint, tmp_path / "whole.bin", type)
    monkeypatch.setattr(asrswitch.convert, "_PIECE_ELEMENTS", elements)
    sizes: list[tuple[str, int]] = []
    before = 0

    def progress(done: int, _: int, name: str) -> None:
        nonlocal before
        sizes.append((name, done - before))
        before = done

    convert(checkpoint, tmp_path / "pieces.bin", type, progress)
    assert (tmp_path / "pieces.bin").read_bytes() == (tmp_path / "whole.bin").read_bytes()
    tensors = read_container(tmp_path / "whole.bin").tensors
    for name, nbytes in sizes:
        tensor = tensors[name]
        together = tensor.shape[-1] * (16 if tensor.type == Q4_0_16X4 else 1)
        together_bytes = len(tensor.data) * together // tensor.values().size
        assert nbytes % together_bytes == 0, name
        assert nbytes <= max(together_bytes, len(tensor.data) * elements // tensor.values().size), name


@pytest.mark.parametrize("elements", [None, 1, 5000])
def test_random_weights_are_those_of_q4_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elements: int | None
) -> None:
    if elements:
        monkeypatch.setattr(asrswitch.convert.synth, "_PIECE_ELEMENTS", elements)
    synthesise(tmp_path / "q4_0.bin", "tiny", TYPES["q4_0"], 3)
    synthesise(tmp_path / "q4_0_16x4.bin", "tiny", TYPES["q4_0_16x4"], 3)
    plain, interleaved = (read_container(tmp_path / f"{type}.bin") for type in ("q4_0", "q4_0_16x4"))
    names = check_same_numbers(plain, interleaved)
    matrices = {name for name, tensor in plain.tensors.items() if tensor.type == Q4_0}
    assert names == matrices - {EMBEDDING} and len(names) > 30


@pytest.mark.usefixtures("instruction_set")
def test_a_trained_model_gives_the_text_of_q4_0(tmp_path: Path) -> None:
    results: dict[TensorType, list[Result]] = {}
    for type in (TensorType.Q4_0, TensorType.Q4_0_16X4):
        rewrite(PACKAGE / "models" / "digits-small.bin", tmp_path / f"{type.name}.bin", type)
        with Engine(tmp_path / f"{type.name}.bin") as engine:
            results[type] = [engine.run(clip) for clip in sorted((PACKAGE / "samples").glob("*.wav"))]
    for plain, interleaved in zip(*results.values(), strict=True):
        assert split_output(plain.text).text
        assert interleaved.text == plain.text
        # Many positions are multiplied by the same tiles, whatever order these are unpacked from.
        np.testing.assert_array_equal(interleaved.one("enc_out"), plain.one("enc_out"))


@pytest.mark.parametrize("sizes", PRESETS.values(), ids=PRESETS)
def test_rows_of_every_preset_are_whole_draws(sizes: Preset) -> None:
    """Else the pieces of q4_0_16x4, which end elsewhere, would have other numbers than those of q4_0."""
    widths = (sizes.audio_width, sizes.audio_inner, 16 * sizes.conv_channels, sizes.width, sizes.inner)
    for columns in (*widths, sizes.heads * sizes.head_dim):
        assert columns // 32 * 18 % 8 == 0
