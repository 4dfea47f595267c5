"""Whole runs from cold files and warm ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from asrswitch.plan import CacheState
from asrswitch.records import Budget, Cache, Load, Reading, Record, read_log
from asrswitch.report.html import render_html
from asrswitch.report.runs import read_report
from asrswitch.report.tables import to_csv, to_json, to_markdown, to_text
from asrswitch.summary import summarise
from helpers.disk import directory_on_disk, mapped_and_locked
from support import ROOT

Completed = subprocess.CompletedProcess[str]
GOOD = {"text": "一二三四五六", "header": "whole", "pieces": 3}


@pytest.fixture
def on_disk() -> Iterator[Path]:
    with directory_on_disk() as directory:
        yield directory


@pytest.fixture
def models(script: Callable[..., str], on_disk: Path) -> list[str]:
    """Two model files of the fake library."""
    words = []
    for label in ("a", "b"):
        path = on_disk / f"{label}.bin"
        shutil.move(script(label, **GOOD).partition("=")[2], path)
        with path.open("ab") as file:
            file.write(b"\n" * 50_000)
        words.append(f"{label}={path}")
    return words


def caches(records: Sequence[Record]) -> list[Cache]:
    return [record for record in records if isinstance(record, Cache)]


@pytest.mark.parametrize("state", ["cold", "warm"])
def test_each_load_is_from_such_a_file(
    run: Callable[..., Completed], models: list[str], tmp_path: Path, state: str
) -> None:
    done = run(*models, iterations=3, options=("--cache", state))
    assert done.returncode == 0, done.stderr
    records = read_log(tmp_path / "out" / "run.jsonl")
    prepared = caches(records)
    assert len(prepared) == 6 and all(record.proven and record.reason is None for record in prepared)
    for model in models:
        label, _, path = model.partition("=")
        size = Path(path).stat().st_size
        found = {(r.wanted, r.bytes, r.resident_bytes) for r in prepared if r.model == label}
        assert found == {(CacheState(state), size, size if state == "warm" else 0)}
    # After the reading and the budget, so that neither sees it; before the load, and not in its time.
    steps = [r for r in records if isinstance(r, Budget | Cache | Load)]
    assert [type(record) for record in steps] == [Budget, Cache, Load] * 6
    for model in summarise(records).models:
        assert model.cache and (model.cache.wanted.value, model.cache.loads, model.cache.proven) == (
            state,
            3,
            3,
        )
        assert model.read_bytes and (model.read_bytes.minimum > 0) == (state == "cold")
    assert f"{state} file, 3 of 3 proven" in done.stdout
    assert "INVALID" not in done.stdout


def test_files_are_left_as_they_are_unless_it_is_asked_for(
    run: Callable[..., Completed], models: list[str], tmp_path: Path
) -> None:
    assert run(*models).returncode == 0
    records = read_log(tmp_path / "out" / "run.jsonl")
    assert not caches(records)
    assert all(model.cache is None for model in summarise(records).models)
    reading = next(record for record in records if isinstance(record, Reading))
    assert reading.memory.read_bytes is not None


def test_only_what_is_loaded_is_prepared(
    run: Callable[..., Completed], models: list[str], tmp_path: Path
) -> None:
    done = run(*models, iterations=3, options=("--cache", "cold", "--strategy", "resident"))
    assert done.returncode == 0, done.stderr
    prepared = caches(read_log(tmp_path / "out" / "run.jsonl"))
    assert [(record.model, record.proven) for record in prepared] == [("a", True), ("b", True)]


def test_a_file_that_somebody_maps_makes_the_run_invalid_and_is_told(
    run: Callable[..., Completed], models: list[str], tmp_path: Path
) -> None:
    with mapped_and_locked(Path(models[0].partition("=")[2])) as pid:
        done = run(*models, iterations=3, options=("--cache", "cold", "--check"))
    assert done.returncode == 5, done.stderr
    said = f"INVALID: a's file was not proven cold before 3 of 3 loads; process {pid} ("
    assert said in done.stdout and "b's file" not in done.stdout
    prepared = caches(read_log(tmp_path / "out" / "run.jsonl"))
    assert [record.proven for record in prepared if record.model == "b"] == [True] * 3
    for record in prepared:
        if record.model == "a":
            assert not record.proven and record.resident_bytes == record.bytes
            assert record.reason is not None and str(pid) in record.reason


@pytest.mark.slow
def test_the_embedded_models_cold_and_warm_in_turns(on_disk: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-m", "asrswitch", "--iters", "3", "--cache", "cold,warm", "--out", str(out)]
    for label in ("digits-small", "digits-large"):
        path = on_disk / f"{label}.bin"
        shutil.copy(ROOT / "asrswitch" / "models" / path.name, path)
        words += ["--model", f"{label}={path}"]
    done = subprocess.run(
        [*words, "--allow-concurrent"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    for state, resident in (("cold", 0.0), ("warm", 1.0)):
        prepared = caches(read_log(out / state / "run.jsonl"))
        assert len(prepared) == 6 and all(record.proven for record in prepared)
        assert {(record.resident_bytes or 0) / record.bytes for record in prepared} == {resident}
    report = read_report(out)
    assert [item.model for item in report.caches] == ["digits-small", "digits-large"]
    for item in report.caches:
        size = (on_disk / f"{item.model}.bin").stat().st_size
        assert item.cold.read_bytes is not None and item.cold.read_bytes > size / 2
        assert item.warm.read_bytes == 0
        assert (item.cold.turns, item.warm.turns) == (3, 3)
        for shown in (done.stdout, to_text(report), to_markdown(report), render_html(report)):
            assert f"{item.model}, cold against warm: load " in shown
    document = json.loads(to_json(report))
    assert [one["cold"]["turns"] for one in document["caches"]] == [3, 3]
    header, *rows = (line.split(",") for line in to_csv(report).splitlines())
    assert [row[header.index("cache")] for row in rows] == ["cold", "cold", "warm", "warm"]
    assert {row[header.index("cache_proven")] for row in rows} == {"3"}


def test_an_unknown_state_is_refused(run: Callable[..., Completed], models: list[str]) -> None:
    done = run(models[0], options=("--cache", "tepid"))
    assert done.returncode == 2 and "--cache tepid: use one of as-is, cold, warm" in done.stderr
