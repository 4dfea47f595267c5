"""The catalogue, the models directory, and what is found by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from asrswitch.catalogue import find_model, models_directory
from asrswitch.catalogue.listing import State, list_models
from asrswitch.catalogue.published import CHECKPOINT, PUBLISHED, checkpoint_of, find_published
from asrswitch.convert import TYPES
from asrswitch.user_cache import cache_directory


def test_every_entry_is_whole() -> None:
    seen = set()
    for item in PUBLISHED:
        seen.add((item.name, item.type))
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", item.repository)
        assert item.revision and item.licence and item.files
        assert item.type == CHECKPOINT or (item.type in TYPES and len(item.files) == 1)
        for file in item.files:
            assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert file.bytes is None or file.bytes > 0
    assert len(seen) == len(PUBLISHED)


@pytest.mark.parametrize(("name", "others_say"), [("0.6B", 1_880_619_678), ("1.7B", 4_703_114_308)])
def test_a_checkpoints_sizes_add_up_to_what_others_found(name: str, others_say: int) -> None:
    item = checkpoint_of(name)
    assert item and item.bytes
    assert re.fullmatch("[0-9a-f]{40}", item.revision)
    assert all(file.sha256 for file in item.files)
    readme_and_attributes = 57_456 + 1_519
    assert item.bytes + readme_and_attributes == others_say


def test_names_are_found_in_any_case() -> None:
    assert find_published("0.6b", "q4_0") is find_published("0.6B", "q4_0") is not None
    assert find_published("0.6B", "q9") is None and checkpoint_of("7B") is None


@pytest.mark.parametrize(
    ("environ", "directory"),
    [
        ({"HOME": "/h"}, "/h/.cache/asrswitch/models"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/c"}, "/c/asrswitch/models"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "relative"}, "/h/.cache/asrswitch/models"),
        ({"HOME": "/h", "XDG_CACHE_HOME": ""}, "/h/.cache/asrswitch/models"),
        ({"HOME": "/h", "ASRSWITCH_MODELS": "/models"}, "/models"),
        ({}, None),
        ({"HOME": "relative"}, None),
    ],
)
def test_where_models_are(environ: dict[str, str], directory: str | None) -> None:
    assert models_directory(environ) == (Path(directory) if directory else None)


def test_the_cache_is_the_users(tmp_path: Path) -> None:
    assert cache_directory({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "asrswitch"


@pytest.mark.parametrize(
    ("there", "name", "type", "found"),
    [
        ([], "0.6B", None, None),
        (["qwen3-asr-0.6b-q4_0.bin"], "0.6B", None, "qwen3-asr-0.6b-q4_0.bin"),
        (["qwen3-asr-0.6b-q4_0.bin"], "0.6b", "q4_0", "qwen3-asr-0.6b-q4_0.bin"),
        (["qwen3-asr-0.6b-q4_0.bin"], "0.6b", "q8_0", None),
        (["qwen3-asr-0.6b-q4_0.bin"], "0.6b", "q4_0_16x4", None),
        (["qwen3-asr-0.6b-q4_0_16x4.bin"], "0.6b", "q4_0", None),
        (["qwen3-asr-0.6b-q4_0_16x4.bin"], "0.6b", "q4_0_16x4", "qwen3-asr-0.6b-q4_0_16x4.bin"),
        (["qwen3-asr-0.6b-q4_0_16x4.bin"], "0.6B", None, "qwen3-asr-0.6b-q4_0_16x4.bin"),
        (["qwen3-asr-0.6b-q8_0.bin", "qwen3-asr-0.6b-f16.bin"], "0.6B", None, "qwen3-asr-0.6b-q8_0.bin"),
        (["qwen3-asr-0.6b-q4_0.bin", "qwen3-asr-0.6b-q8_0.bin"], "0.6B", None, "qwen3-asr-0.6b-q4_0.bin"),
        (["mine.bin"], "mine", None, "mine.bin"),
        (["mine.bin"], "mine", "q4_0", None),
        (["mine.bin"], "../mine", None, None),
        (["mine.bin"], "", None, None),
        ([], "x" * 300, None, None),
        ([], "\0", None, None),
    ],
)
def test_models_are_found_by_name(
    there: list[str], name: str, type: str | None, found: str | None, tmp_path: Path
) -> None:
    for file in there:
        (tmp_path / file).touch()
    environ = {"ASRSWITCH_MODELS": str(tmp_path)}
    assert find_model(name, type, environ) == (tmp_path / found if found else None)


def test_embedded_models_are_found_without_a_home() -> None:
    path = find_model("digits-small", None, {})
    assert path and path.is_file()
    assert find_model("0.6B", None, {}) is None


def test_the_list_tells_what_is_here_and_what_can_be(tmp_path: Path) -> None:
    environ = {"ASRSWITCH_MODELS": str(tmp_path / "models")}
    before = {(model.name, model.type): model.state for model in list_models(environ)}
    assert before["digits-small", "q8_0"] is State.EMBEDDED
    assert before["0.6B", "q4_0"] is State.FETCHABLE
    assert before["1.7B", "q4_0"] is State.MADE
    (tmp_path / "models").mkdir()
    files = ("0.6b-q4_0", "1.7b-q4_0", "0.6b-q4_0_16x4", "1.7b-f16")
    for name in (*(f"qwen3-asr-{file}.bin" for file in files), "mine.bin"):
        (tmp_path / "models" / name).write_bytes(b"four")
    (tmp_path / "models" / "gone.bin").symlink_to("nowhere")
    after = {(model.name, model.type): model for model in list_models(environ)}
    named = (("0.6B", "q4_0"), ("1.7B", "q4_0"), ("0.6B", "q4_0_16x4"), ("1.7B", "f16"))
    assert all(after[name, type].licence for name, type in named)
    for name, type in (*named, ("mine", None)):
        assert after[name, type].state is State.HERE
        assert after[name, type].bytes == 4
        assert after[name, type].where.startswith(str(tmp_path))
    assert len(after) == len(before) + 3
