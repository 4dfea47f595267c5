"""What a server does unasked: models that others left, models that it lets go, restarts that are none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asrswitch.records import CleanSlate, Eviction, Failure, Load, Reading, Record, Renewal, Transcription
from helpers.backend_runs import log_of, summary_of
from helpers.ollama import MIB, OllamaServer, model, serving
from support import ROOT, wait_for

RunBackend = Callable[..., subprocess.CompletedProcess[str]]
SETTINGS = ("--sample-hz", "0", "--trim", "never")


@pytest.fixture
def prompts(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "prompts.toml").write_text('[hello]\ntext = "Hello"\n', encoding="utf-8")
    return ("--prompts", str(tmp_path / "prompts.toml"), *SETTINGS)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OllamaServer]:
    (tmp_path / "server").mkdir()
    models = [model("small", 8), model("mid", 12), model("large", 24)]
    with serving(tmp_path / "server", *models, max_loaded=2) as started:
        yield started


def of_kind(records: list[Record], kind: type[Any]) -> list[Any]:
    return [record for record in records if isinstance(record, kind)]


def load_elsewhere(server: OllamaServer, name: str) -> None:
    """Somebody else loads a model, and it stays."""
    body = json.dumps({"model": name, "keep_alive": -1, "stream": False}).encode()
    urllib.request.urlopen(f"{server.url}/api/generate", body).read()


@pytest.mark.parametrize("restarts", [True, False])
def test_what_was_loaded_before_is_not_what_memory_comes_back_to(
    restarts: bool, server: OllamaServer, prompts: tuple[str, ...], run_backend: RunBackend, tmp_path: Path
) -> None:
    load_elsewhere(server, "large")
    done = run_backend(server.configure(restarts=restarts), "small", iterations=2, options=prompts)
    assert done.returncode == 0, done.stderr
    records = log_of(tmp_path)
    slates = of_kind(records, CleanSlate)
    if restarts:
        assert [renewal.reason for renewal in of_kind(records, Renewal)] == ["occupied"]
        assert len(slates) == 2 and all(slate.clean for slate in slates)
        assert all(abs(slate.excess_bytes) < MIB for slate in slates)
    else:
        assert slates == []  # nobody knows what is to come back
        assert "before 2 of 2 loads the server already had large" in done.stdout


def test_what_is_ours_is_unloaded_first(
    server: OllamaServer, prompts: tuple[str, ...], run_backend: RunBackend, tmp_path: Path
) -> None:
    load_elsewhere(server, "large")
    options = (*prompts, "--strategy", "reload")
    done = run_backend(server.configure(restarts=False), "small", "large", iterations=2, options=options)
    assert done.returncode == 0, done.stderr
    records = log_of(tmp_path)
    assert [(one.evicted, one.by) for one in of_kind(records, Eviction)] == [("large", "runner")]
    slates = of_kind(records, CleanSlate)
    assert len(slates) == 4 and all(slate.clean and abs(slate.excess_bytes) < MIB for slate in slates)


def test_with_models_that_stay_too_it_is_said(
    server: OllamaServer, prompts: tuple[str, ...], run_backend: RunBackend
) -> None:
    load_elsewhere(server, "large")
    options = (*prompts, "--strategy", "resident")
    done = run_backend(server.configure(restarts=False), "small", iterations=2, options=options)
    assert "before 1 of 1 loads the server already had large" in done.stdout


def test_models_that_the_server_lets_go_are_loaded_again_and_told(
    server: OllamaServer, prompts: tuple[str, ...], run_backend: RunBackend, tmp_path: Path
) -> None:
    options = (*prompts, "--strategy", "resident")
    done = run_backend(server.configure(), "small", "mid", "large", iterations=3, options=options)
    assert done.returncode == 0, done.stderr
    records = log_of(tmp_path)
    evictions = of_kind(records, Eviction)
    assert evictions and {eviction.by for eviction in evictions} == {"server"}
    assert len(of_kind(records, Load)) >= 8  # with room for two of three, each is gone when it is wanted
    assert "the server let go of models by itself" in done.stdout


def test_packed_counts_them_apart(
    server: OllamaServer, prompts: tuple[str, ...], run_backend: RunBackend, tmp_path: Path
) -> None:
    options = (*prompts, "--strategy", "resident", "--order", "packed")
    done = run_backend(server.configure(), "small", "mid", "large", iterations=4, options=options)
    assert done.returncode == 0, done.stderr
    packed = summary_of(tmp_path)["packed"]
    assert packed["by_server"] == packed["evictions"] > 0
    assert packed["turns"] - packed["loads"] == 6  # two of three in each iteration but the first
    assert f"({packed['by_server']} by the server itself)" in done.stdout


@pytest.mark.parametrize("command", [["true"], None])
def test_a_restart_that_is_none_is_a_failure(
    command: list[str] | None,
    server: OllamaServer,
    prompts: tuple[str, ...],
    run_backend: RunBackend,
    tmp_path: Path,
) -> None:
    keys = {"restart": command} if command else {"restart": [sys.executable, "-c", "pass"]}
    done = run_backend(
        server.configure(restarts=False, **keys), "small", options=(*prompts, "--strategy", "isolate")
    )
    assert done.returncode == 1
    failures = of_kind(log_of(tmp_path), Failure)
    assert f"its process {server.pid} is the one of before; correct restart" in failures[0].message
    assert failures[0].phase == "unload"


def test_what_stays_loaded_is_no_reason_to_restart(
    server: OllamaServer, prompts: tuple[str, ...], run_backend: RunBackend, tmp_path: Path
) -> None:
    options = (*prompts, "--strategy", "restart", "--restart-above", "0")
    done = run_backend(server.configure(), "small", "large", iterations=4, options=options)
    assert done.returncode == 0, done.stderr
    records = log_of(tmp_path)
    assert len(of_kind(records, Load)) == 2
    assert [renewal.reason for renewal in of_kind(records, Renewal)] == ["large"]


def test_a_model_is_not_blamed_for_what_another_left(
    server: OllamaServer, prompts: tuple[str, ...], run_backend: RunBackend, tmp_path: Path
) -> None:
    server.break_down(large=("pretends", 1))
    done = run_backend(server.configure(restarts=False), "large", "small", iterations=2, options=prompts)
    assert done.returncode == 0, done.stderr
    assert "MiB after large, and still after 3 more" in done.stdout
    assert "MiB after small" not in done.stdout


def test_isolating_is_proven_clean_too(
    server: OllamaServer, prompts: tuple[str, ...], run_backend: RunBackend, tmp_path: Path
) -> None:
    done = run_backend(
        server.configure(), "small", "large", iterations=2, options=(*prompts, "--strategy", "isolate")
    )
    assert done.returncode == 0, done.stderr
    slates = of_kind(log_of(tmp_path), CleanSlate)
    assert len(slates) == 4 and all(slate.clean for slate in slates)


def test_a_run_that_goes_on_begins_with_an_empty_server(
    server: OllamaServer, prompts: tuple[str, ...], run_backend: RunBackend, tmp_path: Path
) -> None:
    (tmp_path / "settings").mkdir()
    word = server.configure()
    words = [sys.executable, "-m", "asrswitch", "--iters", "500", "--backend", word, "--allow-concurrent"]
    words += ["-m", "large", "--strategy", "resident", *prompts, "--out", str(tmp_path / "out")]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        log = tmp_path / "out" / "run.jsonl"
        wait_for(lambda: log.exists() and b'"iteration":3' in log.read_bytes(), 60)
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: bool(server.holders()))
    plan = json.loads(log.read_text(encoding="utf-8").splitlines()[0])["plan"]
    lines = log.read_text(encoding="utf-8")
    log.write_text(lines.replace('"iterations":500', '"iterations":5'), encoding="utf-8")
    assert plan["iterations"] == 500
    done = subprocess.run(
        [sys.executable, "-m", "asrswitch", "--resume", str(tmp_path / "out"), "--allow-concurrent"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records = log_of(tmp_path)
    assert [renewal.reason for renewal in of_kind(records, Renewal)] == ["failure"]
    last = max(record.worker for record in of_kind(records, Reading))
    before = [r for r in of_kind(records, Reading) if r.worker == last and r.point == "before_load"]
    assert before and not before[0].resident
    assert before[0].memory.rss_bytes < 24 * MIB + before[0].memory.rss_bytes // 2
    assert of_kind(records, Transcription)[-1].iteration == 5


def test_a_server_that_answers_nothing_is_restarted(
    server: OllamaServer, prompts: tuple[str, ...], run_backend: RunBackend, tmp_path: Path
) -> None:
    """It has been stopped, not ended: whatever it is asked waits."""
    first = server.pid
    word = server.configure()

    def stop_it() -> None:
        wait_for(lambda: (tmp_path / "out" / "run.jsonl").exists() and bool(server.holders()), 60)
        os.kill(first, signal.SIGSTOP)

    stopping = threading.Thread(target=stop_it)
    stopping.start()
    done = run_backend(word, "small", iterations=12, options=(*prompts, "--timeout", "2"))
    stopping.join()
    assert done.returncode == 1  # for the failure
    records = log_of(tmp_path)
    assert [failure.kind for failure in of_kind(records, Failure)] == ["timeout"]
    assert [renewal.reason for renewal in of_kind(records, Renewal)] == ["failure"]
    assert of_kind(records, Transcription)[-1].iteration == 12


def test_the_page_cache_of_a_server_is_not_ours(
    server: OllamaServer, prompts: tuple[str, ...], run_backend: RunBackend
) -> None:
    done = run_backend(server.configure(), "small", options=(*prompts, "--cache", "cold"))
    assert done.returncode == 2
    assert "--cache cold: the backend ollama has no such option" in done.stderr


def test_strategies_that_need_a_restart_are_left_out_of_all_without_one(
    server: OllamaServer, prompts: tuple[str, ...], run_backend: RunBackend
) -> None:
    done = run_backend(
        server.configure(restarts=False), "small", options=(*prompts, "--strategy", "all", "--dry-run")
    )
    assert done.returncode == 0, done.stderr
    assert "resident" in done.stdout and "isolate" not in done.stdout
    done = run_backend(server.configure(), "small", options=(*prompts, "--strategy", "all", "--dry-run"))
    assert "isolate" in done.stdout


@pytest.mark.parametrize(
    "option", [("--strategy", "isolate"), ("--strategy", "reload,isolate"), ("--restart-above", "never,0")]
)
def test_what_needs_a_restart_is_refused_without_one(
    option: tuple[str, ...], server: OllamaServer, prompts: tuple[str, ...], run_backend: RunBackend
) -> None:
    done = run_backend(server.configure(restarts=False), "small", options=(*prompts, *option))
    assert done.returncode == 2
    assert "the backend ollama is not told how its server is restarted; add restart" in done.stderr


def test_an_invalid_run_is_no_choice(
    server: OllamaServer, prompts: tuple[str, ...], run_backend: RunBackend, tmp_path: Path
) -> None:
    options = (*prompts, "--strategy", "reload,resident")
    word = server.configure(restarts=False, pid=1 << 22)  # which no process has
    done = run_backend(word, "small", iterations=4, options=options)
    assert done.returncode == 0, done.stderr
    assert "no strategy can be recommended" in done.stdout
    assert "reload is out: its figures are not to be trusted: no process of the server" in done.stdout
