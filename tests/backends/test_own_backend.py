"""The backend that the documentation shows, brought by a package's entry point."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from asrswitch.memory.gpu import GpuMemory
from asrswitch.records import Failure, Load, Reading, Release, Run, Transcription, WorkerStarted
from helpers.backend_runs import log_of, summary_of
from support import ROOT

RunBackend = Callable[..., subprocess.CompletedProcess[str]]
PAGE = (ROOT / "docs" / "backends.md").read_text(encoding="utf-8")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a module into a directory where packages are, with its metadata."""

    def put(source: str, entry: str = "toy = toy:Toy") -> None:
        packages = tmp_path / "packages"
        metadata = packages / "toy-1.dist-info"
        metadata.mkdir(parents=True)
        (packages / "toy.py").write_text(source, encoding="utf-8")
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1\n", encoding="utf-8")
        (metadata / "entry_points.txt").write_text(f"[asrswitch.backends]\n{entry}\n", encoding="utf-8")
        monkeypatch.syspath_prepend(packages)
        monkeypatch.setenv("PYTHONPATH", str(packages))  # of the worker

    return put


@pytest.fixture
def weights(tmp_path: Path) -> list[str]:
    paths = [tmp_path / "small", tmp_path / "large"]
    for path in paths:
        path.write_bytes(b"w" * (4096 if path.name == "small" else 65536))
    return [str(path) for path in paths]


def example() -> str:
    (source,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert isinstance(source, str)
    return source


@pytest.mark.slow
def test_the_documented_backend_runs_20_iterations(
    install: Callable[..., None], run_backend: RunBackend, weights: list[str], tmp_path: Path
) -> None:
    assert len(example().splitlines()) < 60
    install(example())
    (tmp_path / "toy.toml").write_text('word = "hello"\n', encoding="utf-8")
    done = run_backend(f"toy:{tmp_path}/toy.toml", *weights, iterations=20, options=("--reference", "hello"))
    assert done.returncode == 0, done.stderr
    records = log_of(tmp_path)
    run = records[0]
    assert isinstance(run, Run)
    assert (run.library, run.plan.backend.name, run.plan.backend.configuration) == (
        "",
        "toy",
        {"word": "hello"},
    )
    assert sum(isinstance(record, Load) for record in records) == 40
    assert sum(isinstance(record, Release) for record in records) == 40
    assert len([record for record in records if isinstance(record, Reading)]) == 160
    spoken = [record for record in records if isinstance(record, Transcription)]
    assert {(r.text, r.wer, r.figures.tokens, r.figures.tokens_source) for r in spoken} == {
        ("hello", 0, 5, "engine")
    }
    summary = summary_of(tmp_path)
    assert [item["verdict"]["word"] for item in summary["verdicts"]] == ["flat"]
    assert summary["loads"] and not summary["failures"] and not summary["invalid"]


@pytest.mark.parametrize("strategy", ["restart", "resident"])
def test_it_stays_loaded_where_the_strategy_says_so(
    strategy: str, install: Callable[..., None], run_backend: RunBackend, weights: list[str], tmp_path: Path
) -> None:
    install(example())
    done = run_backend("toy", *weights, iterations=3, options=("--strategy", strategy))
    assert done.returncode == 0, done.stderr
    assert sum(isinstance(record, Load) for record in log_of(tmp_path)) == 2


def test_what_it_cannot_do_is_wrong_usage(
    install: Callable[..., None], run_backend: RunBackend, weights: list[str]
) -> None:
    install(example().replace("(True, True, True, False", "(True, True, False, False"))
    done = run_backend("toy", *weights, options=("--strategy", "restart"))
    assert done.returncode == 2
    assert "--strategy restart: the backend toy cannot restart a model" in done.stderr
    done = run_backend("toy", *weights, options=("--language", "English"), out="other")
    assert done.returncode == 2
    assert "--language English: the backend toy does not force a language" in done.stderr


def test_a_model_may_be_a_name_that_only_the_backend_knows(
    install: Callable[..., None], run_backend: RunBackend, tmp_path: Path
) -> None:
    install(example())
    done = run_backend("toy", "qwen:0.6b")
    assert done.returncode == 1
    failures = [record for record in log_of(tmp_path) if isinstance(record, Failure)]
    assert failures[0].message == "qwen:0.6b: there is no such model; check --model"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import missing_package", "(toy:Toy) cannot be imported (No module named 'missing_package')"),
        ("Other = 1", "(toy:Toy) cannot be imported"),
        (
            "from asrswitch.worker.backends import BackendError\n"
            "def Toy(configuration): raise BackendError('toy.toml: no word; add one')",
            "toy.toml: no word; add one",
        ),
        ("def Toy(configuration): raise RuntimeError('broken')", "no worker starts with it"),
    ],
)
def test_one_that_does_not_start_is_a_line(
    source: str, says: str, install: Callable[..., None], run_backend: RunBackend, weights: list[str]
) -> None:
    install(source)
    done = run_backend("toy", *weights)
    assert done.returncode == 1
    assert says in done.stderr and len(done.stderr.splitlines()) == 1


SERVER = """
import os, subprocess, sys, time
from asrswitch.worker.backends import Transcription

HOLD = "import time; held = bytearray(32 << 20); held[::4096] = b'x' * 8192; print(flush=True); time.sleep(9)"

class Toy:
    capabilities = dict(streams=True, loads=True, restarts=False, forces_language=False, runs_processes=True)

    def __init__(self, configuration):
        self.keeps, self.servers = configuration.get("keeps", False), {}

    def load(self, label, options):
        began = time.monotonic_ns()
        if label not in self.servers:
            words = [sys.executable, "-S", "-c", HOLD]
            self.servers[label] = subprocess.Popen(words, stdout=subprocess.PIPE)
            self.servers[label].stdout.readline()
        return began, time.monotonic_ns()

    def infer(self, label, audio):
        now = time.monotonic_ns()
        return Transcription(now, time.monotonic_ns(), [(now, "x")], [])

    def unload(self, label):
        began = time.monotonic_ns()
        if not self.keeps:
            with self.servers.pop(label) as server:
                server.kill()
        return began, time.monotonic_ns()

    def processes(self):
        return [server.pid for server in self.servers.values()]

    def resident(self):
        return list(self.servers)
"""


def test_memory_of_its_processes_is_read_and_what_stays_is_named(
    install: Callable[..., None], run_backend: RunBackend, weights: list[str], tmp_path: Path
) -> None:
    install(SERVER)
    done = run_backend("toy", weights[0])
    assert done.returncode == 0, done.stderr
    readings = {r.point: r.memory.rss_bytes for r in log_of(tmp_path) if isinstance(r, Reading)}
    assert readings["after_load"] - readings["before_load"] > 32 << 20
    assert abs(readings["after_unload"] - readings["before_load"]) < 2 << 20
    assert "unloads something of a model was left" not in done.stdout
    (tmp_path / "toy.toml").write_text("keeps = true\n", encoding="utf-8")
    done = run_backend(f"toy:{tmp_path}/toy.toml", weights[0], out="keeps")
    readings = {r.point: r.memory.rss_bytes for r in log_of(tmp_path, "keeps") if isinstance(r, Reading)}
    assert readings["after_unload"] - readings["before_load"] > 32 << 20
    assert "the backend says itself that it still has small" in done.stdout


class CountingGpus:
    """A GPU on which each reading finds 10 MiB more, and then begins again."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def read(self, pids: list[int]) -> GpuMemory:
        self.asked.append(pids)
        return GpuMemory(10 * (len(self.asked) % 4) << 20, 99 << 20, 1 << 30)

    def close(self) -> None:
        self.asked.append([])


def test_memory_of_gpus_stands_in_readings_and_tables(
    install: Callable[..., None],
    run_backend: RunBackend,
    weights: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(example())
    gpus = CountingGpus()
    monkeypatch.setattr("asrswitch.runner.open_gpus", lambda: gpus)
    done = run_backend("toy", weights[0], iterations=2)
    assert done.returncode == 0, done.stderr
    records = log_of(tmp_path)
    (worker,) = [record.pid for record in records if isinstance(record, WorkerStarted)]
    assert gpus.asked == [[worker]] * 8 + [[]]
    told = [r.gpu.processes_bytes for r in records if isinstance(r, Reading) and r.gpu]
    assert told == [10 << 20, 20 << 20, 30 << 20, 0] * 2
    model = summary_of(tmp_path)["models"][0]
    assert model["gpu_overhead_bytes"]["median"] == 20 << 20
    assert model["gpu_growth_bytes"]["median"] == -(10 << 20)
    assert "GPU, load overhead, MiB" in done.stdout
