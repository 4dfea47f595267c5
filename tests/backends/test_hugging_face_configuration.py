"""What the backends of Hugging Face's libraries may be told, without those libraries."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from asrswitch.backend_choice import choose_backend
from asrswitch.errors import UsageError
from asrswitch.hugging_face import find_directory, read_configuration
from helpers.backend_worker import BackendWorker
from helpers.hugging_face import DEFAULTS

RunBackend = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of huggingface_hub with one model, as that lays it out."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    model = tmp_path / "models--somebody--some.model"
    commit = "0123456789" * 4
    snapshot = model / "snapshots" / commit
    for directory in (snapshot, model / "blobs", model / "refs"):
        directory.mkdir(parents=True)
    (model / "refs" / "main").write_text(commit, encoding="utf-8")
    (model / "blobs" / "abc").write_bytes(b"{}")
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    return snapshot


def test_without_a_file_it_is_the_processor_and_the_types_of_the_weights() -> None:
    for name in ("sentence-transformers", "transformers"):
        assert choose_backend(name, {}).configuration == DEFAULTS


def test_a_file_says_what_differs(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('device = "cuda:1"\n', encoding="utf-8")
    assert read_configuration(file) == {"device": "cuda:1", "dtype": "auto"}
    file.write_text('dtype = "bfloat16"\n', encoding="utf-8")
    choice = choose_backend(f"transformers:{file}", {})
    assert choice.configuration == {"device": "cpu", "dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('device = "gpu"\n', "c.toml:1: device: gpu is none; use cpu, cuda or cuda:1"),
        ("device = 3\n", "c.toml:1: device: Expected `str`, got `int`"),
        ('\ndtype = "int8"\n', "c.toml:2: dtype: int8 is none; use auto, float32, bfloat16, float16"),
        ("dtype = []\n", "c.toml:1: dtype: Expected `str`, got `array`"),
        ('devise = "cpu"\n', "c.toml:1: devise: there is no such key; the keys are device, dtype"),
        ("trust_remote_code = true\n", "c.toml:1: trust_remote_code: there is no such key"),
        ("device\n", "c.toml: "),
    ],
)
def test_a_mistake_names_file_and_key(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_configuration(file)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_name_of_the_hub_is_its_snapshot_in_the_cache(hub: Path) -> None:
    assert find_directory("somebody/some.model") == hub
    assert find_directory(str(hub)) == hub


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("somebody/other", "somebody/other: there is no such directory, and no such model in the cache"),
        ("a/b/c", "a/b/c: there is no such directory; check --model"),
        (__file__, "a file; give the model's directory"),
    ],
)
def test_what_is_neither_is_a_line_with_the_remedy(word: str, says: str, hub: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find_directory(word)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_is_fetched_for_a_run(hub: Path, run_backend: RunBackend) -> None:
    done = run_backend("transformers", "somebody/other", options=("--dry-run",))
    assert done.returncode == 2
    assert done.stderr.endswith("fetch it by `hf download somebody/other`\n")
    done = run_backend("transformers", "somebody/some.model", options=("--dry-run",))
    assert done.returncode == 0 and "some.model" in done.stdout


@pytest.mark.parametrize("name", ["sentence-transformers", "transformers"])
def test_what_is_not_installed_is_a_line_with_the_remedy(name: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')\n", encoding="utf-8")
    with BackendWorker(name, DEFAULTS, {"PYTHONPATH": str(tmp_path)}) as worker:
        assert worker.hello["error"] == (
            "torch cannot be imported (No module named torch); pip install 'asrswitch[hugging-face]'"
        )
