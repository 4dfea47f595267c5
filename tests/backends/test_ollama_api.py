"""What the ``ollama`` backend counts on of Ollama's API: of the tests' own server, and of a real one.

The latter where OLLAMA_HOST says where it is; ASRSWITCH_OLLAMA_MODEL names the model that is loaded and
unloaded there, otherwise it is the smallest that gives text.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlsplit

import pytest

from asrswitch.ollama import models_of, read_configuration
from asrswitch.worker.backends import make_backend
from asrswitch.worker.backends.ollama import full_name
from helpers.ollama import model, serving
from support import wait_for

REAL = bool(os.environ.get("OLLAMA_HOST"))
PROMPT = "What is the capital of France? Answer with one word."
LONG_S = 120.0  # that a real model may take to load or to go


class Api:
    """A server's API, and a model that it has."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.name = name

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, list[Any]]:
        """Status, and each line of the reply."""
        status, said = self.say(method, path, None if body is None else json.dumps(body).encode())
        return status, [json.loads(line) for line in said.splitlines() if line.strip()]

    def say(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=LONG_S)
        try:
            connection.request(method, parts.path + path, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def generate(self, **keys: object) -> tuple[int, list[Any]]:
        return self.ask("POST", "/api/generate", {"model": self.name, **keys})

    def listed(self) -> dict[str, Any] | None:
        """The model, where it is loaded."""
        status, (told,) = self.ask("GET", "/api/ps")
        assert status == 200
        found = [one for one in told["models"] if full_name(one["name"]) == full_name(self.name)]
        return found[0] if found else None

    def let_go(self) -> None:
        self.generate(keep_alive=0, stream=False)
        wait_for(lambda: self.listed() is None, LONG_S)


@pytest.fixture(scope="module", params=["own", "real"] if REAL else ["own"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    if request.param == "real":
        configuration = read_configuration(None, os.environ)
        wanted = os.environ.get("ASRSWITCH_OLLAMA_MODEL")
        models = models_of(configuration, [wanted] if wanted else [])
        yield Api(configuration["url"], min(models, key=lambda one: one.bytes or 0).path)
    else:
        small = model("small", 4, load_s=0.1, says="Paris is the capital of France, and has been for long.")
        with serving(tmp_path_factory.mktemp("ollama"), small) as own:
            yield Api(own.url, "small")


@pytest.fixture
def api(server: Api) -> Iterator[Api]:
    """The server, with the model not loaded before and after."""
    server.let_go()
    yield server
    server.let_go()


@pytest.mark.skipif(not REAL, reason="OLLAMA_HOST is not set: only the tests' own server was asked")
def test_a_real_server_is_asked_too(server: Api) -> None:
    assert server.say("GET", "/")[0] == 200


def test_it_says_that_it_runs_and_its_version(server: Api) -> None:
    assert server.say("GET", "/") == (200, b"Ollama is running")
    status, (told,) = server.ask("GET", "/api/version")
    assert status == 200 and told["version"]


def test_tags_have_name_size_and_digest(server: Api) -> None:
    status, (told,) = server.ask("GET", "/api/tags")
    assert status == 200
    assert full_name(server.name) in {full_name(tag["name"]) for tag in told["models"]}
    assert all(tag["size"] > 0 and len(tag["digest"]) >= 64 for tag in told["models"])


@pytest.mark.parametrize("chat", [False, True])
def test_no_prompt_loads_and_keep_alive_0_unloads(chat: bool, api: Api) -> None:
    def ask(**keys: object) -> tuple[int, list[Any]]:
        if chat:
            return api.ask("POST", "/api/chat", {"model": api.name, "messages": [], **keys})
        return api.generate(**keys)

    status, (loaded,) = ask(keep_alive=-1, stream=False)
    assert status == 200 and loaded["done"] and loaded["done_reason"] == "load"
    found = api.listed()
    assert found and found["size"] > 0
    expires = datetime.fromisoformat(found["expires_at"][:19] + "+00:00")
    assert expires > datetime.now(timezone.utc) + timedelta(days=365)
    status, (gone,) = ask(keep_alive=0, stream=False)
    assert status == 200 and gone["done"] and gone["done_reason"] == "unload"
    wait_for(lambda: api.listed() is None, LONG_S)


def test_what_is_not_loaded_can_be_unloaded(api: Api) -> None:
    status, (gone,) = api.generate(keep_alive=0)
    assert status == 200 and gone["done"]


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
def test_a_stream_is_a_line_a_piece_and_ends_with_counters(path: str, api: Api) -> None:
    asked: dict[str, Any] = {"model": api.name, "options": {"num_predict": 32, "temperature": 0}}
    if path == "/api/chat":
        asked["messages"] = [{"role": "user", "content": PROMPT}]
    else:
        asked["prompt"] = PROMPT
    status, lines = api.ask("POST", path, asked)
    assert status == 200 and len(lines) > 1
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    said = [line["message"] if path == "/api/chat" else line for line in lines]
    text = "".join(
        one.get("content" if path == "/api/chat" else "response", "") + one.get("thinking", "")
        for one in said
    )
    assert text.strip()
    last = lines[-1]
    assert last["eval_count"] > 0 and last["prompt_eval_count"] > 0
    parts = last["load_duration"] + last["prompt_eval_duration"] + last["eval_duration"]
    assert 0 < parts <= last["total_duration"] * 1.05


def test_so_many_tokens_and_no_more(api: Api) -> None:
    _, (told,) = api.generate(prompt="Count to 100.", stream=False, options={"num_predict": 3})
    assert told["eval_count"] == 3 and told["done_reason"] == "length"


def test_the_same_options_keep_a_model_and_others_load_it_again(api: Api) -> None:
    options = {"num_ctx": 2048, "num_thread": 1, "num_predict": 1}
    api.generate(options=options, stream=False)
    _, (same,) = api.generate(prompt=PROMPT, options=options, stream=False)
    _, (other,) = api.generate(prompt=PROMPT, options={**options, "num_ctx": 4096}, stream=False)
    assert same["load_duration"] * 2 < other["load_duration"]


def test_a_duration_ends_by_itself(api: Api) -> None:
    api.generate(keep_alive="500ms", stream=False)
    assert api.listed()
    wait_for(lambda: api.listed() is None, LONG_S)


def test_keep_alive_0_with_a_prompt_answers_first(api: Api) -> None:
    _, lines = api.generate(prompt=PROMPT, keep_alive=0, options={"num_predict": 4})
    assert lines[-1]["eval_count"] > 0
    wait_for(lambda: api.listed() is None, LONG_S)


def test_who_hangs_up_leaves_the_server_as_it_was(api: Api) -> None:
    parts = urlsplit(api.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=LONG_S)
    connection.request("POST", "/api/generate", json.dumps({"model": api.name, "prompt": "Count to 1000."}))
    assert connection.getresponse().readline()
    connection.close()
    time.sleep(0.05)
    status, (told,) = api.generate(prompt=PROMPT, stream=False, options={"num_predict": 1})
    assert status == 200 and told["done"]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/api/generate", {"model": "no-such-model-at-all"}, 404, "model 'no-such-model-at-all' not found"),
        ("/api/chat", {"model": "no-such-model-at-all", "messages": []}, 404, "not found"),
        ("/api/chat", {"model": "", "messages": []}, 400, "model is required"),
        ("/api/generate", {"model": None, "keep_alive": "5"}, 400, "duration"),
        ("/api/generate", {"model": None, "keep_alive": "soon"}, 400, "duration"),
        ("/api/generate", None, 400, "missing request body"),
    ],
)
def test_what_is_refused(path: str, body: dict[str, Any] | None, status: int, says: str, server: Api) -> None:
    if body and body["model"] is None:
        body = {**body, "model": server.name}
    got, (told,) = server.ask("POST", path, body)
    assert got == status and says in told["error"]
    assert server.listed() is None


@pytest.mark.parametrize("endpoint", ["generate", "chat"])
def test_the_backend_loads_answers_and_unloads(endpoint: str, api: Api) -> None:
    configuration = read_configuration(None, {"OLLAMA_HOST": api.url}) | {"endpoint": endpoint}
    backend = make_backend("ollama", configuration)
    began, loaded = backend.load(
        "it", {"model": api.name, "threads": 2, "max_new_tokens": 32, "context": 2048}
    )
    assert loaded > began and "it" in (backend.resident() or ())
    said = backend.infer("it", PROMPT)
    assert said.reported and said.reported["tokens"] > 0 and said.reported["tokens_per_s"] > 0
    assert said.reported["load_ms"] < (loaded - began) / 1e6  # it was not loaded again
    assert loaded < said.submitted_ns <= said.pieces[0][0] <= said.pieces[-1][0] <= said.returned_ns
    began, gone = backend.unload("it")
    assert gone > began and "it" not in (backend.resident() or ())
    assert api.listed() is None
