"""Whole runs of the `openai` backend, against our own engine behind an HTTP server."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import asrswitch
from asrswitch.cli import main
from asrswitch.records import CleanSlate, Failure, Load, Reading, Record, Release, Renewal, Transcription
from helpers.backend_runs import log_of, summary_of
from helpers.transcription_server import BALLAST_BYTES
from helpers.transcriptions import LARGE, SMALL, TranscriptionServer

RunBackend = Callable[..., subprocess.CompletedProcess[str]]
MODELS = (SMALL, LARGE)
AUDIO = ("--audio", str(Path(asrswitch.__file__).parent / "samples" / "phone-zh.wav"))
TEXT = "零九零零零七三三三一"
MIB = 1 << 20


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TranscriptionServer]:
    server = TranscriptionServer(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def server(one_server: TranscriptionServer) -> Iterator[TranscriptionServer]:
    """A server that holds nothing."""
    one_server.renew()
    yield one_server
    one_server.break_down()


def of(kind: type[Record], records: list[Record]) -> list[Record]:
    return [record for record in records if isinstance(record, kind)]


def check(tmp_path: Path, iterations: int, out: str = "out") -> list[Record]:
    """All that a run of so many iterations without any failure leaves."""
    records = log_of(tmp_path, out)
    spoken = [record for record in records if isinstance(record, Transcription)]
    assert len(spoken) == len(of(Load, records)) == len(of(Release, records)) == 2 * iterations
    assert {(r.text, r.wer, r.figures.tokens, r.figures.tokens_source) for r in spoken} == {
        (TEXT, 0, 14, "engine")
    }
    for point, resident in {"before_load": 0, "after_load": 1, "after_infer": 1, "after_unload": 0}.items():
        readings = [r for r in records if isinstance(r, Reading) and r.point == point]
        assert len(readings) == 2 * iterations and {r.processes for r in readings} == {1}
        assert [r.resident for r in readings] == [(r.model,) * resident for r in readings]
    slates = [record for record in records if isinstance(record, CleanSlate)]
    assert len(slates) == 2 * iterations and all(record.clean for record in slates)
    summary = summary_of(tmp_path, out)
    assert summary["iterations_done"] == iterations
    assert not summary["failures"] and not summary["invalid"]
    for model in summary["models"]:
        assert model["cycles"] == iterations and model["wer"] == 0
        assert model["load_ms"]["median"] > 1 and model["unload_ms"]["median"] > 0.1
        for name in ("load_overhead_bytes", "unload_release_bytes"):
            assert model[name]["median"] == pytest.approx(BALLAST_BYTES, abs=8 * MIB)
    return records


def test_a_run_is_recorded_as_any_other(
    server: TranscriptionServer, run_backend: RunBackend, tmp_path: Path
) -> None:
    backend = f"openai:{server.configuration(tmp_path)}"
    done = run_backend(backend, *MODELS, iterations=2, options=(*AUDIO, "--language", "zh"))
    assert done.returncode == 0, done.stderr
    check(tmp_path, 2)
    assert server.last_form()["language"] == "zh"
    assert "tokens, as it says" in done.stdout and "predicted" not in done.stdout


@pytest.mark.slow
def test_20_iterations_and_their_comparison(
    server: TranscriptionServer, run_backend: RunBackend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = f"openai:{server.configuration(tmp_path)}"
    for out in ("out", "again"):
        done = run_backend(backend, *MODELS, iterations=20, options=AUDIO, out=out)
        assert done.returncode == 0, done.stderr
        check(tmp_path, 20, out)
        assert [item["verdict"]["word"] for item in summary_of(tmp_path, out)["verdicts"]] == ["flat"]
    for form, text in {
        "text": "unload release, MiB",
        "md": "openai:",
        "csv": ",openai,",
        "json": '"openai"',
    }.items():
        assert main(["report", str(tmp_path / "out"), "--format", form]) == 0
        assert text in capsys.readouterr().out, form
    assert main(["report", str(tmp_path / "out"), "--format", "html"]) == 0
    assert "openai" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert main(["compare", str(tmp_path / "out"), str(tmp_path / "again")]) == 0
    said = capsys.readouterr().out
    assert "TTFT" in said and "load" in said


def test_a_transcription_that_fails_is_recorded_and_the_run_goes_on(
    server: TranscriptionServer, run_backend: RunBackend, tmp_path: Path
) -> None:
    server.break_down({"500": 1, "eof": 1})
    done = run_backend(f"openai:{server.configuration(tmp_path)}", *MODELS, iterations=2, options=AUDIO)
    assert done.returncode == 1
    records = log_of(tmp_path)
    failures = [record for record in records if isinstance(record, Failure)]
    assert [(r.phase, r.kind, r.iteration) for r in failures] == [("transcribe", "error", 1)] * 2
    assert "status 500: CUDA error: an illegal address" in failures[0].message
    assert "EOF" in failures[1].message
    assert len(of(Transcription, records)) == 2 and len(of(Release, records)) == 4
    assert summary_of(tmp_path)["finished"] == "complete" and not of(Renewal, records)


@pytest.mark.parametrize(
    ("fault", "phase", "kind"),
    [
        ("hang", "transcribe", "timeout"),
        ("die", "transcribe", "error"),
        ("load", "load", "error"),
    ],
)
def test_a_server_that_hangs_dies_or_cannot_load_is_restarted_and_the_cycle_tried_again(
    fault: str, phase: str, kind: str, server: TranscriptionServer, run_backend: RunBackend, tmp_path: Path
) -> None:
    server.break_down({fault: 1})
    pid = server.pid
    options = (*AUDIO, "--timeout", "1")
    done = run_backend(f"openai:{server.configuration(tmp_path)}", *MODELS, iterations=2, options=options)
    assert done.returncode == 1
    records = log_of(tmp_path)
    failures = [record for record in records if isinstance(record, Failure)]
    assert (failures[0].phase, failures[0].kind, failures[0].model) == (phase, kind, "digits-small")
    (renewal,) = (record for record in records if isinstance(record, Renewal))
    assert renewal.reason == "failure" and renewal.ms > 0 and server.pid != pid
    spoken = [record for record in records if isinstance(record, Transcription)]
    assert [(r.iteration, r.model) for r in spoken] == [
        (n, model) for n in (1, 2) for model in ("digits-small", "digits-large")
    ]
    assert summary_of(tmp_path)["finished"] == "complete"


def test_a_server_that_pretends_to_unload_is_found_out_by_its_memory(
    server: TranscriptionServer, run_backend: RunBackend, tmp_path: Path
) -> None:
    server.break_down({"pretends": 1})
    done = run_backend(f"openai:{server.configuration(tmp_path)}", *MODELS, options=AUDIO)
    slates = [record for record in log_of(tmp_path) if isinstance(record, CleanSlate)]
    assert not any(record.clean for record in slates), "what it kept stays"
    assert not any(record.resident for record in slates), "by its own account it has nothing"
    (holder,) = slates[0].holders
    assert holder.pid == server.pid
    assert holder.excess_bytes == pytest.approx(BALLAST_BYTES, abs=8 * MIB)
    assert f"(process {server.pid}) held" in done.stdout + done.stderr


def test_a_server_that_still_lists_a_model_is_found_out_by_its_name(
    server: TranscriptionServer, run_backend: RunBackend, tmp_path: Path
) -> None:
    server.break_down({"stays": 1})
    more = '[unload]\npath = "/models/unload"\nbody = { model = "{model}" }\nwithin_s = 0.2'
    backend = f"openai:{server.configuration(tmp_path, more=more)}"
    done = run_backend(backend, *MODELS, iterations=2, options=AUDIO)
    slates = [record for record in log_of(tmp_path) if isinstance(record, CleanSlate)]
    assert [record.resident for record in slates] == [("digits-small",), ("digits-small",), (), ()]
    assert "the backend says itself that it still has digits-small" in done.stdout + done.stderr


def test_without_requests_to_load_all_is_in_the_first_text(
    server: TranscriptionServer, run_backend: RunBackend, tmp_path: Path
) -> None:
    done = run_backend(f"openai:{server.configuration(tmp_path, 'vllm')}", SMALL, iterations=2, options=AUDIO)
    assert done.returncode == 0, done.stderr
    records = log_of(tmp_path)
    first, second = (record for record in records if isinstance(record, Transcription))
    assert not of(Load, records) and not of(Release, records)
    assert first.figures.ttft_ms and second.figures.ttft_ms
    assert first.figures.ttft_ms > second.figures.ttft_ms, "the load is in it"
    readings = [record for record in records if isinstance(record, Reading)]
    assert {record.resident for record in readings} == {None}
    assert readings[-1].memory.anonymous_bytes - readings[0].memory.anonymous_bytes > BALLAST_BYTES


@pytest.mark.parametrize("key", ["right-key-2718", "wrong-key-2718"])
def test_a_key_is_in_nothing_that_a_run_leaves(
    key: str,
    server: TranscriptionServer,
    run_backend: RunBackend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.break_down(key="right-key-2718")
    monkeypatch.setenv("SERVER_KEY", key)
    configuration = server.configuration(tmp_path, more='api_key_env = "SERVER_KEY"')
    done = run_backend(f"openai:{configuration}", SMALL, options=AUDIO)
    assert done.returncode == (0 if key.startswith("right") else 1)
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    said = [done.stdout, done.stderr, *(path.read_text(encoding="utf-8", errors="replace") for path in left)]
    assert len(left) > 2 and not [text for text in said if key in text]
    assert "SERVER_KEY" in "".join(said)
    if key.startswith("wrong"):
        assert "status 401: Incorrect API key provided: (the key)" in done.stderr
