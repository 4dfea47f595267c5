"""Whole runs of an Ollama server: the records, verdict, reports and comparison that the library has.

Faults are recorded and recovered from, and who keeps memory is named. The server is the tests' own.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asrswitch.cli import main
from asrswitch.records import CleanSlate, Failure, Reading, Record, Renewal, Run, Skip, Transcription
from asrswitch.worker.backends.server import Server
from helpers.backend_runs import log_of, summary_of
from helpers.ollama import MIB, OllamaServer, model, serving

RunBackend = Callable[..., subprocess.CompletedProcess[str]]
PROMPTS = """
[sum]
text = "What is two and three? Answer with one word."
exact = "Five"

[river]
text = "Which river flows through Paris?"
pattern = "Seine"
"""
ANSWERS = {"two and three": "Five", "through Paris": "It is the river Seine that flows through Paris."}
TOLERANCE = 1 * MIB  # of what a process without a model takes
RUNNER_BYTES = 12 * MIB  # at most, of the process that holds a model


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    file = tmp_path / "prompts.toml"
    file.write_text(PROMPTS, encoding="utf-8")
    return str(file)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OllamaServer]:
    (tmp_path / "server").mkdir()
    models = [model("small", 8, answers=ANSWERS, pause_s=0.001), model("large", 24, answers=ANSWERS)]
    with serving(tmp_path / "server", *models) as started:
        yield started


@pytest.fixture
def run(run_backend: RunBackend, prompts: str) -> RunBackend:
    """Run models of a server with the two prompts: ``run(server, "small", iterations=2, restarts=False)``."""

    def start(
        server: OllamaServer,
        *models: str,
        iterations: int = 1,
        options: tuple[str, ...] = (),
        out: str = "out",
        **keys: object,
    ) -> subprocess.CompletedProcess[str]:
        options = ("--prompts", prompts, "--sample-hz", "0", *options)
        word = server.configure(**keys)
        return run_backend(word, *models, iterations=iterations, options=options, out=out)

    return start


def of_kind(records: list[Record], kind: type[Any]) -> list[Any]:
    return [record for record in records if isinstance(record, kind)]


@pytest.mark.parametrize("digest", ["", "0" * 64])
def test_an_interrupted_run_goes_on_with_the_same_models_alone(
    digest: str, run: RunBackend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "server"
    directory.mkdir()
    with serving(directory, model("small", 2, digest=digest, answers=ANSWERS)) as server:
        assert run(server, "x=small", iterations=2).returncode == 0
        log = tmp_path / "out" / "run.jsonl"
        log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:8]))
        settings = directory / "settings.json"
        known = settings.read_text(encoding="utf-8")
        changes: tuple[dict[str, Any], ...] = ({"digest": "1" * 64}, {"size": 3 * MIB})
        for change in changes:
            told = json.loads(known)
            told["models"][0] |= change
            settings.write_text(json.dumps(told), encoding="utf-8")
            Server(server.url, restart=server.restart).restart()
            assert main(["--resume", str(tmp_path / "out"), "--quiet"]) == 2
            said = f"asrswitch: {server.url}: small:latest is not the model that this run began with; begin"
            assert said in capsys.readouterr().err
        settings.write_text(known, encoding="utf-8")
        Server(server.url, restart=server.restart).restart()
        assert main(["--resume", str(tmp_path / "out"), "--quiet"]) == 0, capsys.readouterr().err
    said = of_kind(log_of(tmp_path), Transcription)
    assert {(one.iteration, one.clip) for one in said} == {
        (number, name) for number in (1, 2) for name in ("sum", "river")
    }


def check(tmp_path: Path, server: OllamaServer, iterations: int, out: str) -> None:
    """Everything that a run of small and large leaves."""
    records = log_of(tmp_path, out)
    said = of_kind(records, Transcription)
    assert [(one.model, one.clip) for one in said] == [
        (label, name) for label in ("small", "large") for name in ("sum", "river")
    ] * iterations
    assert {one.text for one in said} == {*ANSWERS.values()}
    assert all(one.check and one.check.passed and one.figures.ttft_ms for one in said)
    for one in said:
        assert one.reported["tokens"] == one.figures.tokens and one.reported["load_ms"] > 0
        assert one.reported["prompt_tokens"] == one.figures.prompt_tokens
    held: dict[str, int] = {}
    for reading in of_kind(records, Reading):
        loaded = reading.point in ("after_load", "after_infer")
        assert reading.resident == ((reading.model,) if loaded else ())
        assert reading.processes == (2 if loaded else 1)
        if reading.point == "before_load":
            held[reading.model] = reading.memory.rss_bytes
        if reading.point == "after_load":
            grown = reading.memory.rss_bytes - held[reading.model]
            states = {"small": 8 * MIB, "large": 24 * MIB}[reading.model]
            assert states <= grown <= states + RUNNER_BYTES
    slates = of_kind(records, CleanSlate)
    assert len(slates) == 2 * iterations and all(slate.clean and not slate.holders for slate in slates)
    (begun,) = of_kind(records, Run)
    assert [len(one.digest or "") for one in begun.plan.models] == [64, 64]
    summary = summary_of(tmp_path, out)
    assert summary["iterations_done"] == iterations and not summary["failures"] and not summary["invalid"]
    for summed in summary["models"]:
        assert summed["cycles"] == iterations and summed["load_ms"] and summed["unload_ms"]


def run_and_compare(
    run: RunBackend, server: OllamaServer, iterations: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in ("out", "again"):
        done = run(server, "small", "large", iterations=iterations, out=out)
        assert done.returncode == 0, done.stderr
        check(tmp_path, server, iterations, out)
    assert "prompt eval, as it says, ms" in done.stdout and "checks passed" in done.stdout
    assert main(["report", str(tmp_path / "out")]) == 0
    assert "small" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "out"), str(tmp_path / "again")]) == 0
    assert "load" in capsys.readouterr().out


def test_two_models(
    run: RunBackend, server: OllamaServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_and_compare(run, server, 2, tmp_path, capsys)


@pytest.mark.slow
def test_20_iterations_of_two_models(
    run: RunBackend, server: OllamaServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_and_compare(run, server, 20, tmp_path, capsys)
    for out in ("out", "again"):
        assert [item["verdict"]["word"] for item in summary_of(tmp_path, out)["verdicts"]] == ["flat"]


def test_all_models_of_the_server_small_ones_first(
    run_backend: RunBackend, server: OllamaServer, prompts: str, tmp_path: Path
) -> None:
    options = ("--prompts", prompts, "--order", "small-first", "--sample-hz", "0")
    done = run_backend(server.configure(endpoint="chat"), options=options)
    assert done.returncode == 0, done.stderr
    assert [one.model for one in of_kind(log_of(tmp_path), Transcription)] == ["small"] * 2 + ["large"] * 2
    assert {request["path"] for request in server.requests() if request.get("messages")} == {"/api/chat"}


@pytest.mark.parametrize(
    ("fault", "phase", "kind", "says"),
    [
        ("load-500", "load", "error", "status 500: llama runner process has terminated"),
        ("load-eof", "load", "error", "EOF: the server closed the connection"),
        ("load-dies", "load", "error", "EOF|reset"),
        ("load-hang", "load", "timeout", "no answer within 2 s"),
        ("generate-500", "transcribe", "error", "status 500"),
        ("stream-error", "transcribe", "error", "unexpected EOF (pieces that came: 1)"),
        ("stream-eof", "transcribe", "error", "EOF before the answer was done"),
        ("stream-dies", "transcribe", "error", "EOF|reset"),
    ],
)
def test_a_fault_is_recorded_and_the_run_goes_on(
    fault: str, phase: str, kind: str, says: str, run: RunBackend, server: OllamaServer, tmp_path: Path
) -> None:
    """Once, with the first of two models; the server can be restarted by a command."""
    server.break_down(large=(fault, 1))
    options = ("--timeout", "2") if fault == "load-hang" else ()
    done = run(server, "large", "small", options=options, unload_within_s=0.2)
    records = log_of(tmp_path)
    told = of_kind(records, Failure)
    assert done.returncode == 1
    assert told and {(one.model, one.phase) for one in told} == {("large", phase)}
    assert told[0].kind == kind and any(word in told[0].message for word in says.split("|"))
    assert "\n" not in told[0].message
    assert not of_kind(records, Skip)
    spoken = [one.model for one in of_kind(records, Transcription)]
    assert spoken.count("small") == 2
    assert spoken.count("large") == (2 if phase == "load" or fault == "stream-dies" else 1)
    assert [slate.clean for slate in of_kind(records, CleanSlate)] == [True, True]
    assert server.holders() == []


def test_a_server_that_refuses_to_unload_is_named_and_asked_again(
    run: RunBackend, server: OllamaServer, tmp_path: Path
) -> None:
    server.break_down(large=("keeps", 1))
    done = run(server, "large", "small", iterations=2, unload_within_s=0.2)
    assert done.returncode == 0, done.stderr
    slates = of_kind(log_of(tmp_path), CleanSlate)
    assert [slate.resident for slate in slates] == [("large",), ("large",), (), ()]
    assert [slate.clean for slate in slates] == [False, False, True, True]
    assert "large" in next(
        line for line in done.stdout.splitlines() if "something of a model was left" in line
    )


def test_a_server_that_fails_twice_costs_one_model(
    run: RunBackend, server: OllamaServer, tmp_path: Path
) -> None:
    server.break_down(large=("load-500", 9))
    done = run(server, "large", "small")
    assert done.returncode == 1
    records = log_of(tmp_path)
    assert [(one.model, one.attempt) for one in of_kind(records, Failure)] == [("large", 1), ("large", 2)]
    assert [one.model for one in of_kind(records, Skip)] == ["large"]
    assert [one.reason for one in of_kind(records, Renewal)] == ["failure", "failure"]
    assert [one.model for one in of_kind(records, Transcription)] == ["small"] * 2


def test_a_server_that_cannot_be_restarted_is_tried_once_more(
    run: RunBackend, server: OllamaServer, tmp_path: Path
) -> None:
    server.break_down(small=("load-eof", 1))
    done = run(server, "small", restarts=False)
    assert done.returncode == 1
    records = log_of(tmp_path)
    assert len(of_kind(records, Failure)) == 1 and len(of_kind(records, Transcription)) == 2
    assert not of_kind(records, Renewal)


def test_a_server_that_pretends_to_unload_is_found_out_by_name(
    run: RunBackend, server: OllamaServer, tmp_path: Path
) -> None:
    server.break_down(large=("pretends", 99))
    done = run(server, "small", "large", iterations=2)
    records = log_of(tmp_path)
    slates = of_kind(records, CleanSlate)
    assert [slate.clean for slate in slates] == [True] + [False] * 3
    assert all(slate.resident == () for slate in slates)  # by its own account all is well
    holders = server.holders()
    assert len(holders) == 2
    assert {holder.pid for holder in slates[-1].holders} == {*holders}
    assert all(holder.excess_bytes >= 24 * MIB for slate in slates for holder in slate.holders)
    assert slates[-1].excess_bytes >= 2 * 24 * MIB
    (warning,) = (line for line in done.stdout.splitlines() if "something of a model was left" in line)
    assert "after 3 of 4 unloads" in warning
    assert f"python (process {holders[0]}) held" in warning and "after large" in warning


def test_a_server_is_restarted_after_each_turn_where_turns_are_isolated(
    run: RunBackend, server: OllamaServer, tmp_path: Path
) -> None:
    first = server.pid
    done = run(server, "small", "large", options=("-s", "isolate"))
    assert done.returncode == 0, done.stderr
    records = log_of(tmp_path)
    assert [one.reason for one in of_kind(records, Renewal)] == ["isolate"] * 2
    assert [one.resident for one in of_kind(records, Reading) if one.point == "after_unload"] == [(), ()]
    assert server.pid != first and not any(request.get("keep_alive") == 0 for request in server.requests())


def test_a_size_that_is_stated_wrongly_is_told_beside_what_was_measured(
    run: RunBackend, tmp_path: Path
) -> None:
    (tmp_path / "server").mkdir()
    with serving(tmp_path / "server", model("it", 20, size=MIB)) as server:
        done = run(server, "it")
    first, loaded = (one.memory.rss_bytes for one in of_kind(log_of(tmp_path), Reading)[:2])
    assert loaded - first >= 20 * MIB
    assert "it at least 1.0 MiB predicted, " in done.stdout


def test_a_slow_stream_is_measured_as_the_server_says(run: RunBackend, tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    with serving(tmp_path / "server", model("slow", 2, pause_s=0.02, word_s=0.005)) as server:
        run(server, "slow")
    for said in of_kind(log_of(tmp_path), Transcription):
        assert said.figures.ttft_ms >= said.reported["prompt_eval_ms"] + 20
        assert said.reported["tokens_per_s"] < 50
        assert said.figures.tokens_per_s == pytest.approx(said.reported["tokens_per_s"], rel=0.5)


def test_the_four_managements_of_the_old_study_are_one_command(run: RunBackend, tmp_path: Path) -> None:
    """Nothing, unloading, a restart before what is large, both; of a server that keeps what it unloads."""
    (tmp_path / "server").mkdir()
    models = [model("small", 8), model("huge", 24, size=45 * 10**9)]
    with serving(tmp_path / "server", *models, most_bytes=30 * MIB) as server:
        server.break_down(small=("pretends", 99))
        options = ("-s", "resident,reload", "--restart-above", "never,40G")
        done = run(server, "small", "huge", iterations=1, options=options)
    failures, renewals = {}, {}
    for strategy in ("resident", "reload"):
        for above in ("never", "40G"):
            records = log_of(tmp_path / "out", f"{strategy}-restart-above-{above}")
            assert {one.model for one in of_kind(records, Transcription)} == {"small", "huge"}
            failures[strategy, above] = [one.model for one in of_kind(records, Failure)]
            renewals[strategy, above] = [(one.model, one.reason) for one in of_kind(records, Renewal)]
    for strategy in ("resident", "reload"):
        assert failures[strategy, "never"] == ["huge"] and failures[strategy, "40G"] == []
        assert renewals[strategy, "never"] == [("huge", "failure")]
        assert renewals[strategy, "40G"] == [("huge", "large")]
    for row in ("failures", "all cycles, s", "peak, MiB", "servers started anew"):
        assert any(line.startswith(f"│ {row} ") for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("-m", "medium"), "has no model medium; `ollama pull medium`, or use: large, small"),
        (("--audio", "a.wav"), "--audio a.wav: the backend ollama takes texts; give --prompts instead"),
        (
            ("--language", "zh"),
            "--language Chinese: the backend ollama does not force a language; leave it out",
        ),
        (("-s", "isolate"), "--strategy isolate: the backend ollama is not told how its server is restarted"),
        (("--preload",), "--preload: the backend ollama has no such option"),
    ],
)
def test_what_a_run_cannot_do(
    options: tuple[str, ...], says: str, run_backend: RunBackend, server: OllamaServer, tmp_path: Path
) -> None:
    done = run_backend(server.configure(restarts=False), "small", options=options)
    assert done.returncode == 2
    assert says in done.stderr and len(done.stderr.splitlines()) == 1
