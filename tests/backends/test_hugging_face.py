"""Embedding and text models in workers, against what the libraries themselves make of the same texts."""

from __future__ import annotations

import hashlib
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asrswitch.memory.guard import is_mapped
from asrswitch.memory.probe import parse_table
from helpers.backend_worker import BackendWorker
from helpers.both_hugging_face import REFERENCE
from helpers.hugging_face import DEFAULTS, MISSING, WHY_NOT, config, minilm, variant
from helpers.tiny_language_model import write_tiny_language_model
from support import ROOT

pytestmark = pytest.mark.skipif(bool(MISSING), reason=WHY_NOT)
TEXTS = ["A cat sat on the mat.", "猫坐在垫子上。", "word " * 400]
TOKENS = 24


def options(model: Path, **more: Any) -> dict[str, Any]:
    return {"model": str(model), "threads": 1, "max_new_tokens": TOKENS, **more}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_language_model(tmp_path_factory.mktemp("models") / "tiny", seed=1)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendWorker]:
    """Of ``helpers.both_hugging_face``: what a label begins with says which backend is meant."""
    packages = tmp_path_factory.mktemp("packages")
    metadata = packages / "both-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: both\nVersion: 1\n", encoding="utf-8")
    entry = "[asrswitch.backends]\nboth = helpers.both_hugging_face:Both\n"
    (metadata / "entry_points.txt").write_text(entry, encoding="utf-8")
    path = f"{packages}{os.pathsep}{ROOT / 'tests'}"
    with BackendWorker("both", DEFAULTS, {"PYTHONPATH": path}) as worker:
        yield worker


@pytest.fixture(scope="module")
def reference(worker: BackendWorker, tiny: Path) -> list[Any]:
    worker.ask("load", "w", load=options(tiny))  # sets the number of threads
    worker.ask("unload", "w")
    asked = {"embedder": str(minilm()), "writer": str(tiny), "texts": TEXTS, "tokens": TOKENS}
    reply = worker.ask("transcribe", REFERENCE, prompt=json.dumps(asked))
    told = json.loads(reply["statistics"][0])
    assert isinstance(told, list)
    return told


def elapsed(reply: dict[str, Any]) -> int:
    duration = reply["ended_ns"] - reply["started_ns"]
    assert isinstance(duration, int)
    return duration


def data_bytes(pid: int) -> int:
    return parse_table(Path(f"/proc/{pid}/status").read_text())["VmData"]


def test_embeddings_are_those_of_the_library_in_every_cycle(
    worker: BackendWorker, reference: list[Any]
) -> None:
    sums, _ = reference
    assert len(set(sums)) == len(TEXTS)
    for _ in range(2):
        assert elapsed(worker.ask("load", "e", load=options(minilm()))) > 0
        for text, wanted in zip(TEXTS, sums, strict=True):
            reply = worker.ask("transcribe", "e", prompt=text)
            assert reply["statistics"] == [f"embedding: float32, sha256 {wanted}"]
            assert reply["reported"]["dimensions"] == 384
            assert reply["reported"]["norm"] == pytest.approx(1, abs=1e-5)
            assert reply["pieces"] == [] and reply["submitted_ns"] < reply["returned_ns"]
        assert elapsed(worker.ask("restart", "e")) >= 0
        assert elapsed(worker.ask("unload", "e")) > 0


def test_models_are_mapped_from_their_files_until_they_are_unloaded(worker: BackendWorker) -> None:
    pid = worker.process.pid
    worker.ask("load", "e", load=options(minilm()))
    worker.ask("load", "e2", load=options(minilm()))
    assert is_mapped(pid, str(minilm()))
    state = worker.ask("state")
    assert (state["resident"], state["processes"]) == (["e", "e2"], [])
    worker.ask("unload", "e")
    assert is_mapped(pid, str(minilm())) and worker.ask("state")["resident"] == ["e2"]
    worker.ask("unload", "e2")
    assert not is_mapped(pid, str(minilm())) and worker.ask("state")["resident"] == []


def test_a_model_of_the_same_label_takes_the_others_place(worker: BackendWorker) -> None:
    for _ in range(2):
        worker.ask("load", "e", load=options(minilm()))
    assert worker.ask("state")["resident"] == ["e"]
    worker.ask("unload", "e")
    assert not is_mapped(worker.process.pid, str(minilm()))
    assert "no model is loaded as e" in worker.ask("transcribe", "e", prompt="x")["error"]


def weights() -> bytes:
    with (minilm() / "model.safetensors").open("rb") as file:
        return file.read(1 << 20)


def tell_of_code(name: str, value: object) -> dict[str, bytes | None]:
    return {name: json.dumps(value).encode()}


BAD = {
    "cut off": (lambda: {"model.safetensors": weights()}, "cannot be loaded (Error while deserializing"),
    "empty": (lambda: {"model.safetensors": b""}, "cannot be loaded (Error while deserializing"),
    "damaged": (lambda: {"model.safetensors": b"\xff" * 4096}, "cannot be loaded (Error while deserializing"),
    "no weights": (lambda: {"model.safetensors": None}, "no file named model.safetensors"),
    "no configuration": (lambda: {"config.json": None, "modules.json": None}, "it has no config.json"),
    "damaged configuration": (lambda: {"config.json": b'{"a'}, "not a valid JSON file"),
    "damaged modules": (lambda: {"modules.json": b"{"}, "modules.json: no list of modules"),
    "no pooling": (lambda: {"1_Pooling/config.json": None}, "cannot be loaded ("),
    "no tokenizer": (lambda: {"tokenizer.json": None, "vocab.txt": None}, "it has no tokenizer.json"),
    "damaged tokenizer": (lambda: {"tokenizer.json": b"{"}, "cannot be loaded ("),
    "weights of a smaller model": (
        lambda: {"config.json": config(minilm(), num_hidden_layers=7)},
        "its weights lack encoder.layer.6.",
    ),
    "weights of other shapes": (
        lambda: {"config.json": config(minilm(), hidden_size=768)},
        "cannot be loaded (",
    ),
    "an unknown kind": (lambda: {"config.json": config(minilm(), model_type="x")}, "cannot be loaded ("),
    "code of its own": (
        lambda: {"config.json": config(minilm(), model_type="x", auto_map={"AutoConfig": "evil.Config"})},
        "it brings code of its own, which is never run here",
    ),
    "modules of its own": (
        lambda: tell_of_code("modules.json", [{"idx": 0, "name": "0", "path": "", "type": "evil.Module"}]),
        "it names code of its own (evil.Module), which is never run",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_directory_that_something_is_wrong_with_is_a_line(
    name: str, worker: BackendWorker, tmp_path: Path
) -> None:
    changed, says = BAD[name]
    directory = variant(tmp_path / "model", minilm(), changed())
    (directory / "evil.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')", encoding="utf-8")
    error = worker.ask("load", "e", load=options(directory))["error"]
    assert str(directory) in error and says in error
    assert not (tmp_path / "run").exists()
    assert worker.ask("state")["resident"] == []


def test_what_is_no_directory_is_a_line(worker: BackendWorker, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, says in (("missing", "there is no such model"), ("file", "not a directory")):
        error = worker.ask("load", "e", load=options(tmp_path / name))["error"]
        assert error.startswith(f"{tmp_path / name}: {says}; ")


def test_out_of_memory_is_told_and_survived(worker: BackendWorker) -> None:
    pid = worker.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_DATA)
    resource.prlimit(pid, resource.RLIMIT_DATA, (data_bytes(pid) + (40 << 20), before[1]))
    try:
        error = worker.ask("load", "e", load=options(minilm()))["error"]
    finally:
        resource.prlimit(pid, resource.RLIMIT_DATA, before)
    assert "out of memory (" in error and "use a smaller model" in error
    assert "error" not in worker.ask("load", "e", load=options(minilm()))
    worker.ask("unload", "e")


def test_text_is_that_of_the_library_and_comes_in_pieces(
    worker: BackendWorker, tiny: Path, reference: list[Any]
) -> None:
    _, written = reference
    for _ in range(2):
        worker.ask("load", "w", load=options(tiny))
        for text, (prompt_tokens, tokens, wanted) in zip(TEXTS, written, strict=True):
            reply = worker.ask("transcribe", "w", prompt=text)
            assert "".join(piece for _, piece in reply["pieces"]) == wanted
            assert reply["reported"] == {"tokens": tokens, "prompt_tokens": prompt_tokens}
            times = [reply["submitted_ns"], *(at for at, _ in reply["pieces"]), reply["returned_ns"]]
            assert times == sorted(times) and len(set(times)) == tokens + 2
        worker.ask("unload", "w")


def test_a_chat_template_is_followed(worker: BackendWorker, tmp_path: Path) -> None:
    model = write_tiny_language_model(tmp_path / "chat", seed=1, chat=True)
    worker.ask("load", "w", load=options(model))
    reply = worker.ask("transcribe", "w", prompt="hello")
    assert reply["reported"]["prompt_tokens"] == len("user: hello\nassistant:")
    worker.ask("unload", "w")


def test_what_cannot_be_continued_is_a_line(worker: BackendWorker, tiny: Path) -> None:
    worker.ask("load", "w", load=options(tiny))
    error = worker.ask("transcribe", "w", prompt="x" * 5000)["error"]
    assert error == "the prompt has 5,000 tokens, and the model takes fewer than 4,096; shorten it"
    assert worker.ask("transcribe", "w", prompt="")["error"].startswith("the prompt is empty")
    assert "error" not in worker.ask("transcribe", "w", prompt="x")
    worker.ask("unload", "w")


def test_a_model_for_something_else_writes_no_text(worker: BackendWorker) -> None:
    error = worker.ask("load", "w", load=options(minilm()))["error"]
    assert "its weights lack cls.predictions." in error and "a model for something else" in error


def test_a_digest_is_of_the_numbers(worker: BackendWorker) -> None:
    worker.ask("load", "e", load=options(minilm()))
    lines = [worker.ask("transcribe", "e", prompt=text)["statistics"] for text in ("a", "b", "a")]
    worker.ask("unload", "e")
    assert lines[0] == lines[2] != lines[1]
    assert len(lines[0][0].split()[-1]) == hashlib.sha256().digest_size * 2


def test_a_device_that_is_not_there_is_a_line() -> None:
    told = {"device": "cuda", "dtype": "auto"}
    with BackendWorker("transformers", told, {"CUDA_VISIBLE_DEVICES": ""}) as worker:
        error = worker.hello["error"]
    assert error.startswith("device cuda: it cannot be used (") and error.endswith('); write device = "cpu"')
