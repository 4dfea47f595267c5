from __future__ import annotations

from pathlib import Path

import pytest

from asrswitch.catalogue import label_and_path
from asrswitch.errors import UsageError


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A models directory with 0.6B in two types, files `a=b.bin` and `talk.bin` in the current one."""
    (tmp_path / "models").mkdir()
    for name in ("models/qwen3-asr-0.6b-q4_0.bin", "models/qwen3-asr-0.6b-q8_0.bin", "a=b.bin", "talk.bin"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return {"ASRSWITCH_MODELS": str(tmp_path / "models")}


@pytest.mark.parametrize(
    ("word", "type", "label", "name"),
    [
        ("talk.bin", None, "talk", "talk.bin"),
        ("a=b.bin", None, "a=b", "a=b.bin"),
        ("x=a=b.bin", None, "x", "a=b.bin"),
        ("x=talk.bin", None, "x", "talk.bin"),
        ("missing.bin", None, "missing", "missing.bin"),
        ("x=missing.bin", None, "x", "missing.bin"),
        ("0.6B", None, "0.6B", "models/qwen3-asr-0.6b-q4_0.bin"),
        ("0.6b", "q8_0", "0.6b", "models/qwen3-asr-0.6b-q8_0.bin"),
        ("small=0.6B", "q8_0", "small", "models/qwen3-asr-0.6b-q8_0.bin"),
    ],
)
def test_a_word_is_a_file_or_a_name(
    word: str, type: str | None, label: str, name: str, environ: dict[str, str]
) -> None:
    found, path = label_and_path(word, type, environ)
    assert (found, Path(path).absolute()) == (label, Path(name).absolute())


@pytest.mark.parametrize(
    ("word", "type", "says"),
    [
        ("1.7B", None, "--model 1.7B: there is no such file, and no model of this name is here"),
        ("x=1.7B", None, "--model x=1.7B: there is no such file"),
        ("=talk.bin", None, "--model =talk.bin: write PATH or LABEL=PATH"),
        ("x=", None, "--model x=: write PATH or LABEL=PATH"),
        ("talk.bin", "q4_0", "--type q4_0: talk.bin is a file"),
        ("1.7B", "q4_0", "`models fetch 1.7B --type q4_0`"),
        ("1.7b", None, "`models fetch 1.7b` brings it"),
        ("digits-small", "q4_0", "the catalogue does not have digits-small, so that its type is not known"),
        ("y" * 300, None, "there is no such file"),
    ],
)
def test_a_word_that_names_nothing_is_refused(
    word: str, type: str | None, says: str, environ: dict[str, str]
) -> None:
    with pytest.raises(UsageError) as caught:
        label_and_path(word, type, environ)
    assert says in str(caught.value)


@pytest.mark.parametrize(("word", "type"), [("tiny", None), ("tiny", "q4_0"), ("digits-small", "q4_0")])
def test_only_what_can_be_fetched_is_said_to_be(word: str, type: str | None, environ: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        label_and_path(word, type, environ)
    assert "fetch" not in str(caught.value)
