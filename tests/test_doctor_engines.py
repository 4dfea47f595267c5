"""What the doctor finds of other engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from asrswitch.doctor import engine_checks
from asrswitch.doctor.findings import Mark
from asrswitch.memory.gpu import GpuMemory
from asrswitch.prompts.sandbox import Confinement, SandboxError
from helpers.ollama import model, serving


def test_an_ollama_server_is_found_where_its_variable_says(tmp_path: Path) -> None:
    with serving(tmp_path, model("small")) as server:
        found = engine_checks.check_ollama({"OLLAMA_HOST": server.url})
        assert found.mark is Mark.OK and server.url in found.found
    found = engine_checks.check_ollama({"OLLAMA_HOST": server.url})
    assert (found.mark, found.found) == (Mark.MISSING, f"{server.url}: no server answers")
    found = engine_checks.check_ollama({"OLLAMA_HOST": "http://a..b"})
    assert found.mark is Mark.MISSING and "OLLAMA_HOST is http://a..b" in found.found


def test_libraries_are_named_without_being_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_checks.metadata, "version", lambda name: f"{len(name)}.0")
    assert engine_checks.check_hugging_face().found == (
        "torch 5.0, transformers 12.0, sentence-transformers 21.0"
    )

    def version(name: str) -> str:
        raise engine_checks.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(engine_checks.metadata, "version", version)
    found = engine_checks.check_hugging_face()
    assert found.mark is Mark.MISSING and found.found == "no torch, no transformers, no sentence-transformers"


class Gpus:
    def __init__(self, told: GpuMemory | None) -> None:
        self.told = told

    def __enter__(self) -> Gpus:
        return self

    def __exit__(self, *error: object) -> None:
        return

    def read(self, pids: tuple[int, ...]) -> GpuMemory | None:
        return self.told


@pytest.mark.parametrize(
    ("gpus", "mark"),
    [
        (None, Mark.MISSING),
        (Gpus(None), Mark.LIMITED),
        (Gpus(GpuMemory(None, 1 << 20, 1 << 30)), Mark.LIMITED),
        (Gpus(GpuMemory(0, 1 << 20, 1 << 30)), Mark.OK),
    ],
)
def test_gpus_are_asked(gpus: Gpus | None, mark: Mark, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_checks, "open_gpus", lambda: gpus)
    assert engine_checks.check_gpus().mark is mark


@pytest.mark.parametrize(("files", "mark"), [(True, Mark.OK), (False, Mark.LIMITED), (None, Mark.MISSING)])
def test_the_sandbox_is_tried(files: bool | None, mark: Mark, monkeypatch: pytest.MonkeyPatch) -> None:
    def confinement() -> Confinement:
        if files is None:
            raise SandboxError("code cannot be confined here")
        return Confinement(files)

    monkeypatch.setattr(engine_checks, "confinement", confinement)
    assert engine_checks.check_sandbox().mark is mark
