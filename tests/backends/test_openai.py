"""The `openai` backend by itself, against our own engine behind an HTTP server."""

from __future__ import annotations

import io
import os
import re
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asrswitch
from asrswitch.memory.processes import ProcessesProbe
from asrswitch.openai_configuration import PRESETS
from asrswitch.worker.backends import BackendError, Transcription
from asrswitch.worker.backends.openai import OpenAIBackend, events_of, fill_in, multipart, numbers_of, silence
from helpers.transcription_server import BALLAST_BYTES, form_of
from helpers.transcriptions import LARGE, SMALL, TranscriptionServer, options

CLIP = str(Path(asrswitch.__file__).parent / "samples" / "phone-en.wav")
TEXT = "zero nine zero zero zero seven three three three one"
MIB = 1 << 20


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TranscriptionServer]:
    server = TranscriptionServer(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def server(one_server: TranscriptionServer) -> TranscriptionServer:
    one_server.break_down()
    return one_server


def text_of(result: Transcription) -> str:
    return "".join(text for _, text in result.pieces)


def memory_of(backend: OpenAIBackend) -> int:
    probe = ProcessesProbe(os.getpid())
    probe.roots = tuple(pid for pid in backend.processes() if isinstance(pid, int))
    return probe.read().anonymous_bytes


def failure_of(backend: OpenAIBackend, model: str = SMALL) -> str:
    """The one line that a transcription fails with."""
    backend.load("x", options(model))
    with pytest.raises(BackendError) as caught:
        backend.infer("x", CLIP)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("preset", [name for name in PRESETS.names() if name != "vllm"])
def test_a_model_is_loaded_and_unloaded_as_each_preset_does(preset: str, server: TranscriptionServer) -> None:
    backend = server.backend(preset)
    assert backend.processes() == [server.pid] and backend.resident() == []
    before = memory_of(backend)
    began, ended = backend.load("l", options(LARGE))
    assert ended - began > 1e6
    assert backend.resident() == ["l"]
    assert memory_of(backend) - before == pytest.approx(BALLAST_BYTES, abs=8 * MIB)
    assert text_of(backend.infer("l", CLIP)) == TEXT
    began, ended = backend.unload("l")
    assert ended > began and backend.resident() == []
    assert memory_of(backend) - before == pytest.approx(0, abs=6 * MIB)


def test_without_requests_to_load_the_first_transcription_does_and_the_model_stays(
    server: TranscriptionServer,
) -> None:
    backend = server.backend("vllm", resident=server.backend()._resident)
    assert not backend.capabilities["loads"]
    began, ended = backend.load("s", options(SMALL))
    assert began == ended
    before = memory_of(backend)
    assert text_of(backend.infer("s", CLIP)) == TEXT
    assert memory_of(backend) - before > BALLAST_BYTES
    server.renew()


def test_a_stream_says_what_a_whole_reply_says_and_sooner(server: TranscriptionServer) -> None:
    found = {}
    cases: dict[str, dict[str, Any]] = {
        "stream": {"streams": True},
        "chunks": {"streams": True, "fields": {"form": "chunks"}},
        "whole": {"streams": False},
    }
    for name, changes in cases.items():
        backend = server.backend("llama-swap", **changes)
        backend.load("s", options(SMALL))
        found[name] = backend.infer("s", CLIP)
        backend.unload("s")
    assert {text_of(result) for result in found.values()} == {TEXT}
    assert found["whole"].reported == found["stream"].reported == found["chunks"].reported
    assert found["whole"].reported == {"prompt_tokens": 66, "tokens": 14}
    assert len(found["whole"].pieces) == 1
    for name in ("stream", "chunks"):
        times = [at for at, _ in found[name].pieces]
        assert len(times) > 5 and times == sorted(times)
        assert found[name].submitted_ns < times[0] < times[-1] < found[name].returned_ns


def test_the_form_has_what_the_run_and_the_configuration_say(server: TranscriptionServer) -> None:
    fields = {"max_tokens": "{max_new_tokens}", "prompt": "{model}: {other}", "temperature": "0.5"}
    backend = server.backend(fields=fields, streams=False)
    backend.load("s", options(SMALL, language_code="zh", max_new_tokens=7))
    backend.infer("s", CLIP)
    backend.unload("s")
    assert server.last_form() == {
        "model": SMALL,
        "language": "zh",
        "response_format": "json",
        "temperature": "0.5",
        "max_tokens": "7",
        "prompt": f"{SMALL}: {{other}}",
    }


@pytest.mark.parametrize(
    ("fault", "streams", "says"),
    [
        (
            "500",
            False,
            "/v1/audio/transcriptions: status 500: CUDA error: an illegal address; see the server's",
        ),
        ("junk", False, "no JSON (<html>Welcome</html>); is this the right server?"),
        ("wordless", False, 'the reply has no text ({"segments": []}); is this the right server?'),
        ("eof", False, "EOF: the server closed the connection; see the server's own log"),
        ("eof", True, "EOF"),
        ("junk", True, "the reply is application/json and not text/event-stream: leave streams = true out"),
        ("error event", True, "the worker died; see the server's own log"),
        ("broken event", True, "no JSON ({half)"),
    ],
)
def test_each_failure_is_one_line(fault: str, streams: bool, says: str, server: TranscriptionServer) -> None:
    server.break_down({fault: 1})
    backend = server.backend(streams=streams)
    said = failure_of(backend)
    assert said.startswith(server.url) and says in said
    assert text_of(backend.infer("x", CLIP)) == TEXT, "the backend lives"
    backend.unload("x")


def test_a_model_that_there_is_not(server: TranscriptionServer) -> None:
    assert "status 404: there is no model org/other" in failure_of(server.backend("vllm"), "org/other")


def test_a_load_that_fails(server: TranscriptionServer) -> None:
    server.break_down({"load": 2})
    with pytest.raises(BackendError, match="status 500: out of memory"):
        server.backend("localai").load("s", options(SMALL))
    with pytest.raises(BackendError, match=f"/models: the server could not load {SMALL}; see the server's"):
        server.backend("llama-router").load("s", options(SMALL))
    backend = server.backend("llama-router")  # goes on, whatever the list says of the load before
    backend.load("s", options(SMALL))
    backend.unload("s")


def test_a_text_that_the_stream_did_not_have_came_at_its_end(server: TranscriptionServer) -> None:
    server.break_down({"other text": 1})
    backend = server.backend()
    backend.load("s", options(SMALL))
    result = backend.infer("s", CLIP)
    assert [text for _, text in result.pieces] == ["another text"]
    assert text_of(backend.infer("s", CLIP)) == TEXT
    backend.unload("s")


def test_no_server(server: TranscriptionServer) -> None:
    backend = server.backend(url="http://127.0.0.1:9")
    with pytest.raises(BackendError, match=r"127\.0\.0\.1:9: no server answers; start it, or correct"):
        backend.load("s", options(SMALL))
    assert list(backend.processes()) == []


def test_a_key_is_sent_and_never_told(server: TranscriptionServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.break_down(key="right-key")
    monkeypatch.setenv("KEY", "wrong-key")
    with pytest.raises(BackendError, match=re.escape("status 401: Incorrect API key provided: (the key)")):
        server.backend(api_key_env="KEY").load("s", options(SMALL))
    monkeypatch.setenv("KEY", "right-key")
    backend = server.backend(api_key_env="KEY")
    backend.load("s", options(SMALL))
    backend.unload("s")
    monkeypatch.delenv("KEY")
    with pytest.raises(BackendError, match="KEY has no key that can be sent"):
        server.backend(api_key_env="KEY")


def test_a_model_that_stays_is_listed_and_unloaded_before_the_next_load(server: TranscriptionServer) -> None:
    server.break_down({"stays": 1})
    backend = server.backend("localai")
    backend._unload = {**backend._unload, "within_s": 0.1} if backend._unload else None
    backend.load("s", options(SMALL))
    began, ended = backend.unload("s")
    assert ended - began > 0.1e9 and backend.resident() == ["s"]
    assert server.backend("localai").resident() == [SMALL], "of another's it is told by the server's name"
    other = server.backend("localai")
    other.unload(SMALL)  # by that name
    assert other.resident() == []
    backend.load("s", options(SMALL))
    server.break_down({"stays": 1})
    backend.unload("s")
    pid = server.pid
    began, ended = backend.load("s", options(SMALL))
    assert ended - began < 0.1e9 and backend.resident() == ["s"] and server.pid == pid
    server.break_down({"stays": 2})
    with pytest.raises(BackendError, match=f"{SMALL} is loaded already and does not go; restart the server"):
        backend.load("s", options(SMALL))
    backend.renew()
    assert backend.resident() == [] and server.pid != pid


def test_an_unload_alone_has_a_second_of_silence_load_the_model(server: TranscriptionServer) -> None:
    backend = server.backend("localai", load=None)
    backend.load("s", options(SMALL))
    assert backend.resident() == ["s"]
    backend.unload("s")
    with wave.open(io.BytesIO(silence())) as clip:
        assert (clip.getnframes(), clip.getframerate()) == (16_000, 16_000)
        assert not any(clip.readframes(16_000))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"models": "data.models"}, "/models: there is no list at data.models; correct resident.models"),
        ({"models": ""}, "/models: there is no list where one should be; correct resident.models"),
        ({"name": "model"}, "/models: no name is at model; correct resident.name"),
        ({"path": "/nothing"}, "/nothing: status 404: Not Found"),
    ],
)
def test_an_account_that_cannot_be_read(
    changes: dict[str, str], says: str, server: TranscriptionServer
) -> None:
    account = server.backend()._resident
    assert account
    with pytest.raises(BackendError, match=re.escape(says)):
        server.backend(resident={**account, **changes}).resident()


NAMES = st.text(alphabet="abcdefgh_", min_size=1, max_size=8).filter(lambda name: name != "file")


@given(st.dictionaries(NAMES, st.text(alphabet="x零 \n\"'", max_size=9), max_size=4), st.binary(max_size=300))
def test_a_form_is_what_a_server_reads(fields: dict[str, str], clip: bytes) -> None:
    headers, body = multipart(fields, io.BytesIO(clip))
    sent = b"".join(body)
    assert headers["Content-Length"] == str(len(sent))
    found = form_of(headers["Content-Type"], sent)
    assert found == {**{name: value.encode() for name, value in fields.items()}, "file": clip}
    again, _ = multipart(fields, io.BytesIO(clip))
    assert again == headers, "what is new in a request may stay in a server"


@given(
    st.lists(st.lists(st.binary(max_size=5).filter(lambda b: not {*b"\r\n"} & {*b}), min_size=1, max_size=3))
)
def test_events_are_read_whatever_stands_between_them(events: list[list[bytes]]) -> None:
    lines = [(0, b": a comment\n"), (0, b"retry: 3\r\n"), (0, b"\n")]
    for at, data in enumerate(events):
        lines += [(at, b"data: " + part + b"\r\n") for part in data] + [(at + 1, b"\r\n")]
    lines.append((9, b"data: half"))
    assert list(events_of(lines)) == [(at, b"\n".join(data)) for at, data in enumerate(events)]


def test_numbers_that_a_reply_says_of_itself() -> None:
    reply = {
        "usage": {"type": "tokens", "input_tokens": 3, "output_tokens": 4, "details": {"a": 1}, "yes": True},
        "timings": {"prompt_ms": 1.5, "predicted_ms": float("nan"), "a": -1, "b": 10**400, "\x1b[31m": 1},
    }
    assert numbers_of(reply) == {"prompt_tokens": 3, "tokens": 4, "prompt_ms": 1.5}
    assert numbers_of({"usage": None}) == {} == numbers_of({"usage": [1]})


def test_what_stands_for_a_placeholder_is_not_filled_in_again() -> None:
    assert fill_in("{model} {x}", {"model": "{x}", "x": "y"}) == "{x} y"
