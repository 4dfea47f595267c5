"""Whole runs of embedding and text models: what stands in their logs, reports and comparisons."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from asrswitch.cli import main
from asrswitch.records import (
    Cache,
    CleanSlate,
    Load,
    Reading,
    Record,
    Release,
    Transcription,
    WorkerStarted,
)
from helpers.backend_runs import log_of, summary_of
from helpers.hugging_face import MISSING, WHY_NOT, minilm, with_fewer_layers
from helpers.tiny_language_model import write_tiny_language_model

RunBackend = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=WHY_NOT)]
MIB = 1 << 20
PROMPTS = """
[short]
text = "A cat sat on the mat."
[long]
text = "The memory of a model that was unloaded is to be given back to the system, all of it and at once."
"""
EMBEDDINGS = "sentence-transformers"


@pytest.fixture
def prompts(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "prompts.toml").write_text(PROMPTS, encoding="utf-8")
    return "--prompts", str(tmp_path / "prompts.toml")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The real model, and one that ends after its third layer."""
    half = with_fewer_layers(tmp_path_factory.mktemp("models") / "half", minilm(), layers=3)
    return [f"half={half}", f"whole={minilm()}"]


def spoken_of(records: list[Record]) -> list[Transcription]:
    return [record for record in records if isinstance(record, Transcription)]


def count(kind: type[Record], records: list[Record]) -> int:
    return sum(isinstance(record, kind) for record in records)


def check_reports(tmp_path: Path, wanted: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("text", "md", "html", "csv", "json"):
        assert main(["report", str(tmp_path / "out"), "--format", form]) == 0
        said = capsys.readouterr().out
        if form == "html":
            said = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        assert "whole" in said, form
        assert form != "text" or not [text for text in wanted if text not in said], said
    assert main(["compare", str(tmp_path / "out"), str(tmp_path / "again")]) == 0
    assert "load" in capsys.readouterr().out


def test_20_iterations_of_two_embedding_models(
    models: list[str],
    prompts: tuple[str, ...],
    run_backend: RunBackend,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for out in ("out", "again"):
        done = run_backend(EMBEDDINGS, *models, iterations=20, options=(*prompts, "--threads", "1"), out=out)
        assert done.returncode == 0, done.stderr
        records = log_of(tmp_path, out)
        assert count(Load, records) == count(Release, records) == 40
        spoken = spoken_of(records)
        assert len(spoken) == 80
        assert {record.reported["dimensions"] for record in spoken} == {384}
        # The same numbers in each cycle, and others for another text or model.
        assert len({(record.model, record.clip, record.statistics) for record in spoken}) == 4
        assert len({record.statistics for record in spoken}) == 4
        slates = [record for record in records if isinstance(record, CleanSlate)]
        assert len(slates) == 40 and not any(slate.mapped for slate in slates)
        summary = summary_of(tmp_path, out)
        assert summary["iterations_done"] == 20 and not summary["failures"]
        assert [item["subject"] for item in summary["verdicts"]] == ["half + whole"]
        for model in summary["models"]:
            assert model["cycles"] == 20 and model["load_ms"]["median"] > 1
    check_reports(tmp_path, ("dimensions, as it says",), capsys)


def test_weights_are_file_backed_while_they_are_loaded(
    prompts: tuple[str, ...], run_backend: RunBackend, tmp_path: Path
) -> None:
    done = run_backend(EMBEDDINGS, f"whole={minilm()}", iterations=3, options=(*prompts, "--sample-hz", "0"))
    assert done.returncode == 0, done.stderr
    points = {
        point: [r.memory for r in log_of(tmp_path) if isinstance(r, Reading) and r.point == point][-1]
        for point in ("before_load", "after_infer", "after_unload")
    }
    taken = {name: getattr(points["after_infer"], name) - getattr(points["before_load"], name)
             for name in ("file_bytes", "anonymous_bytes")}  # fmt: skip
    assert taken["file_bytes"] > 40 * MIB  # all layers; of the vocabulary what the texts have
    assert taken["anonymous_bytes"] < 20 * MIB
    left = points["after_unload"].rss_bytes - points["before_load"].rss_bytes
    assert abs(left) < 8 * MIB


def test_isolated_models_have_a_process_each(
    models: list[str], prompts: tuple[str, ...], run_backend: RunBackend, tmp_path: Path
) -> None:
    options = (*prompts, "--strategy", "isolate")
    done = run_backend(EMBEDDINGS, *models, iterations=2, options=options)
    assert done.returncode == 0, done.stderr
    records = log_of(tmp_path)
    starts = [record for record in records if isinstance(record, WorkerStarted)]
    assert len(starts) >= 4 and min(start.start_ms for start in starts) > 500  # the libraries' import
    loads = [record for record in records if isinstance(record, Load)]
    assert len(loads) == 4 and len({record.worker for record in loads}) == 4
    digests = {(record.model, record.clip, record.statistics) for record in spoken_of(records)}
    assert len(digests) == 4


def test_cold_and_warm_are_proven_of_a_directory(
    prompts: tuple[str, ...], run_backend: RunBackend, tmp_path: Path
) -> None:
    options = (*prompts, "--cache", "cold,warm")
    done = run_backend(EMBEDDINGS, f"whole={minilm()}", iterations=3, options=options)
    assert done.returncode == 0, done.stderr
    read = {}
    for state in ("cold", "warm"):
        records = log_of(tmp_path, f"out/{state}")
        caches = [record for record in records if isinstance(record, Cache)]
        assert len(caches) == 3 and all(record.proven for record in caches)
        assert {record.bytes for record in caches} == {sum(
            file.stat().st_size for file in minilm().rglob("*") if file.is_file()
        )}  # fmt: skip
        loads = [
            r.memory.read_bytes or 0 for r in records if isinstance(r, Reading) and r.point == "after_load"
        ]
        read[state] = min(loads)
    assert read["cold"] > 1 * MIB > read["warm"]


def test_20_iterations_of_two_text_models(
    run_backend: RunBackend, tmp_path: Path, prompts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = write_tiny_language_model(tmp_path / "whole", seed=1, hidden=512)
    tiny = write_tiny_language_model(tmp_path / "tiny", seed=2)
    options = (*prompts, "--max-new-tokens", "16", "--threads", "1")
    for out in ("out", "again"):
        done = run_backend(
            "transformers", f"t={tiny}", f"whole={whole}", iterations=20, options=options, out=out
        )
        assert done.returncode == 0, done.stderr
        spoken = spoken_of(log_of(tmp_path, out))
        assert len(spoken) == 80
        assert {(r.figures.tokens, r.figures.callbacks) for r in spoken} == {(16, 16)}
        assert all(r.figures.ttft_ms and r.figures.tokens_per_s for r in spoken)
        assert len({(r.model, r.clip, r.raw) for r in spoken}) == 4
        summary = summary_of(tmp_path, out)
        assert summary["iterations_done"] == 20 and not summary["failures"]
    check_reports(tmp_path, ("TTFT", "tokens/s"), capsys)
