"""The ``ollama`` backend against the tests' own server: what it asks, measures, and says of failures."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrswitch.ollama import read_configuration
from asrswitch.worker.backends import Backend, BackendError, make_backend
from asrswitch.worker.backends.ollama import figures_of, keep_alive_for, piece_of
from asrswitch.worker.protocol import LoadOptions
from helpers.ollama import MIB, OllamaServer, model, serving
from support import alive, wait_for

Make = Callable[..., Backend]
PROMPT = "what is one and one and one and one"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OllamaServer]:
    models = [model("small", 4), model("large", 8, thoughts=3)]
    with serving(tmp_path, *models, max_loaded=2) as started:
        yield started


@pytest.fixture
def make(server: OllamaServer) -> Make:
    """The backend with these keys of its configuration, whose server can be restarted."""

    def make_it(**keys: Any) -> Backend:
        configuration = read_configuration(None, {"OLLAMA_HOST": server.url})
        return make_backend("ollama", configuration | {"restart": server.restart} | keys)

    return make_it


def options(name: str, **more: Any) -> LoadOptions:
    given: LoadOptions = {"model": name, "threads": 3, "max_new_tokens": 40}
    given.update(more)
    return given


def ttft_ms(said: Any) -> float:
    first = next(at for at, text in said.pieces if text)
    return float(first - said.submitted_ns) / 1e6


def test_every_request_has_the_options_of_the_load(server: OllamaServer, make: Make) -> None:
    backend = make(options={"num_batch": 64, "stop": ["\n\n"]}, keep_alive="5m")
    backend.load("a", options("small", context=512))
    backend.infer("a", PROMPT)
    backend.restart("a")
    backend.infer("a", PROMPT)
    load, first, second = server.requests()
    theirs = {"num_batch": 64, "stop": ["\n\n"]}
    ours = {"num_thread": 3, "num_predict": 40, "num_ctx": 512, "temperature": 0, "seed": 1}
    for request in (load, first, second):
        assert request["options"] == theirs | ours and request["keep_alive"] == "5m"
    assert "prompt" not in load and first["prompt"] == second["prompt"] == PROMPT
    assert "context" not in second and "think" not in second


@pytest.mark.parametrize("endpoint", ["generate", "chat"])
def test_text_and_the_two_accounts_of_it(endpoint: str, server: OllamaServer, make: Make) -> None:
    backend = make(endpoint=endpoint)
    backend.load("a", options("small"))
    said = backend.infer("a", PROMPT)
    assert "".join(text for _, text in said.pieces) == "one two three four five six seven eight"
    assert len(said.pieces) == 8 and said.statistics == ["done_reason: stop"]
    names = {"load_ms", "prompt_eval_ms", "eval_ms", "total_ms", "tokens", "prompt_tokens", "tokens_per_s"}
    assert said.reported and set(said.reported) == names
    assert said.reported["tokens"] == 8 and said.reported["prompt_tokens"] == len(PROMPT.split())
    assert said.reported["total_ms"] < (said.returned_ns - said.submitted_ns) / 1e6


def test_what_is_thought_is_no_text_and_is_counted(server: OllamaServer, make: Make) -> None:
    backend = make()
    backend.load("a", options("large"))
    said = backend.infer("a", PROMPT)
    assert [bool(text) for _, text in said.pieces] == [False] * 3 + [True] * 8
    assert said.reported and said.reported["thinking_pieces"] == 3 and said.reported["tokens"] == 11
    quiet = make(think=False)
    quiet.load("a", options("large"))
    said = quiet.infer("a", PROMPT)
    assert len(said.pieces) == 8 and said.reported and "thinking_pieces" not in said.reported


def test_an_answer_that_was_cut_says_so(server: OllamaServer, make: Make) -> None:
    backend = make()
    backend.load("a", options("small", max_new_tokens=2))
    assert backend.infer("a", PROMPT).statistics == ["done_reason: length"]


def test_times_are_of_when_pieces_are_read(tmp_path: Path) -> None:
    slow = model("slow", 2, pause_s=0.03, word_s=0.01)
    with serving(tmp_path, slow) as server:
        backend = make_backend("ollama", read_configuration(None, {"OLLAMA_HOST": server.url}))
        backend.load("a", options("slow"))
        said = backend.infer("a", PROMPT)
        before_ms = 10 * len(PROMPT.split())
        for index, (at, _) in enumerate(said.pieces, 1):
            assert (at - said.submitted_ns) / 1e6 >= before_ms + 30 * index
        assert said.reported and said.reported["prompt_eval_ms"] >= before_ms


def test_a_repeated_prompt_is_of_the_servers_cache_unless_prompts_are_made_distinct(tmp_path: Path) -> None:
    with serving(tmp_path, model("small", 2, word_s=0.02)) as server:
        whole = 20 * len(PROMPT.split())
        for distinct in (False, True):
            configuration = read_configuration(None, {"OLLAMA_HOST": server.url})
            backend = make_backend("ollama", configuration | {"distinct_prompts": distinct})
            backend.load("a", options("small"))
            times = [ttft_ms(backend.infer("a", PROMPT)) for _ in range(2)]
            assert times[0] >= whole and (times[1] >= whole) is distinct


def test_labels_and_names_of_what_is_loaded(server: OllamaServer, make: Make) -> None:
    theirs, ours = make(), make()
    theirs.load("x", options("large"))
    assert ours.resident() == ["large:latest"]
    ours.load("a", options("SMALL"))
    assert sorted(ours.resident() or ()) == ["a", "large:latest"]
    assert ours.processes() == [server.pid] and len(server.holders()) == 2
    ours.unload("a")
    assert ours.resident() == ["large:latest"] and len(server.holders()) == 1
    ours.unload("large:latest")  # who loaded it does not matter
    assert ours.resident() == [] and not server.holders()


def test_a_load_is_one_even_where_the_model_was_there(server: OllamaServer, make: Make) -> None:
    make().load("x", options("small"))
    (before,) = server.holders()
    make().load("a", options("small"))
    (after,) = server.holders()
    assert before != after


def test_a_model_that_does_not_go_is_told_by_what_is_resident(server: OllamaServer, make: Make) -> None:
    backend = make(unload_within_s=0.2)
    server.break_down(small=("keeps", 9))
    backend.load("a", options("small"))
    began, ended = backend.unload("a")
    assert 0.2e9 <= ended - began < 5e9
    assert backend.resident() == ["a"]
    with pytest.raises(BackendError, match=r"small is loaded already and does not go within 0\.2 s; restart"):
        backend.load("a", options("small"))
    began, ended = backend.renew()
    assert ended > began and backend.resident() == []
    backend.load("a", options("small"))


def test_a_server_that_pretends_says_that_nothing_is_loaded(server: OllamaServer, make: Make) -> None:
    backend = make()
    server.break_down(small=("pretends", 1))
    backend.load("a", options("small"))
    (holder,) = server.holders()
    backend.unload("a")
    assert backend.resident() == [] and server.holders() == [holder]


def test_an_unload_lasts_until_the_model_is_listed_no_more(tmp_path: Path) -> None:
    with serving(tmp_path, model("small", 2, unload_s=0.2)) as server:
        backend = make_backend("ollama", read_configuration(None, {"OLLAMA_HOST": server.url}))
        backend.load("a", options("small"))
        began, ended = backend.unload("a")
        assert ended - began >= 0.2e9 and not server.holders()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("load-500", r"/api/generate: status 500: llama runner process has terminated: exit status 2; see"),
        ("load-eof", r"/api/generate: EOF: the server closed the connection; see"),
        ("load-dies", r"/api/generate: (EOF: the server closed the connection|.*reset by peer); see"),
        (
            "generate-500",
            r"/api/generate: status 500: llama runner process has terminated: exit status 2; see",
        ),
        (
            "stream-error",
            r"an error was encountered while running the model: unexpected EOF \(pieces that came: 1\); see",
        ),
        ("stream-eof", r"EOF before the answer was done \(pieces that came: 1\); see"),
        ("stream-dies", r"(EOF|reset by peer).*; see"),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_restarted_server_goes_on(
    fault: str, says: str, server: OllamaServer, make: Make
) -> None:
    backend = make()
    server.break_down(small=(fault, 1))
    with pytest.raises(BackendError) as caught:
        backend.load("a", options("small"))
        backend.infer("a", PROMPT)
    assert re.search(says, str(caught.value)) and "\n" not in str(caught.value)
    backend.renew()
    assert backend.resident() == [] and not server.holders()
    backend.load("a", options("small"))
    assert len(backend.infer("a", PROMPT).pieces) == 8


def test_a_server_that_is_gone(server: OllamaServer, make: Make) -> None:
    backend = make()
    backend.load("a", options("small"))
    (holder,) = server.holders()
    os.kill(server.pid, signal.SIGKILL)
    wait_for(lambda: not alive(holder))
    assert backend.processes() == []
    for call in (lambda: backend.infer("a", PROMPT), backend.resident, lambda: backend.unload("a")):
        with pytest.raises(BackendError, match="no server answers; start it, or correct its address"):
            call()
    backend.renew()
    assert backend.resident() == []


def test_another_server_at_that_address(server: OllamaServer, make: Make) -> None:
    with pytest.raises(BackendError, match="status 404: 404 page not found"):
        make(url=f"{server.url}/v1").resident()


@pytest.mark.parametrize(
    ("size", "available", "kept"),
    [(1, 2, -1), (2, 4, -1), (2, 3, "5m"), (3, 3, "5m"), (4, 3, "30s")],
)
def test_keep_alive_by_the_memory_at_hand(size: int, available: int, kept: object) -> None:
    assert keep_alive_for(size << 30, available << 30) == kept


def test_the_chosen_keep_alive_is_sent_and_told(server: OllamaServer, make: Make) -> None:
    backend = make(keep_alive="auto")
    backend.load("a", options("small"))
    said = backend.infer("a", PROMPT)
    assert [request["keep_alive"] for request in server.requests()] == [-1, -1]
    assert re.match(r"keep_alive: -1, for 0\.0 of [0-9.]+ GiB available$", said.statistics[1])


def test_the_server_really_holds_what_it_says(server: OllamaServer, tmp_path: Path) -> None:
    mapped = model("mapped", 12, mapped=6 * MIB)
    (tmp_path / "other").mkdir()
    with serving(tmp_path / "other", mapped) as other:
        backend = make_backend("ollama", read_configuration(None, {"OLLAMA_HOST": other.url}))
        backend.load("a", options("mapped"))
        (holder,) = other.holders()
        status = Path(f"/proc/{holder}/status").read_text()
        anonymous, of_files = (
            int(re.findall(rf"{key}:\s+(\d+)", status)[0]) for key in ("RssAnon", "RssFile")
        )
        assert anonymous >= 12 << 10 and of_files >= 6 << 10
        backend.unload("a")
        assert not alive(holder)


def test_more_models_than_it_keeps_evict_the_one_used_longest_ago(tmp_path: Path) -> None:
    with serving(tmp_path, *(model(name, 2) for name in "abc"), max_loaded=2) as server:
        backend = make_backend("ollama", read_configuration(None, {"OLLAMA_HOST": server.url}))
        for name in "aba":
            if name not in (backend.resident() or ()):
                backend.load(name, options(name))
            backend.infer(name, PROMPT)
        backend.load("c", options("c"))
        assert sorted(backend.resident() or ()) == ["a", "c"]
        said = backend.infer("b", PROMPT)  # loads it again, as its own account tells
        assert said.reported and said.reported["load_ms"] > 5
        assert len(server.holders()) == 2


def test_numbers_that_can_be_none_are_left_out() -> None:
    last = {"eval_count": 10**400, "prompt_eval_count": True, "eval_duration": -5, "load_duration": 2e6}
    assert figures_of(last) == {"load_ms": 2.0}
    assert figures_of({"eval_count": float("nan"), "total_duration": 1e30}) == {}


def test_a_line_that_is_nested_too_deep_is_no_piece() -> None:
    with pytest.raises(ValueError, match=re.escape("a line is no JSON: [[[")):
        piece_of(b"[" * 200_000, False)


@pytest.mark.parametrize("size", ["large", -1, 10**400, None])
def test_keep_alive_is_chosen_whatever_a_server_says_of_sizes(size: object, tmp_path: Path) -> None:
    with serving(tmp_path, model("small", 2, size=size)) as server:
        configuration = read_configuration(None, {"OLLAMA_HOST": server.url})
        backend = make_backend("ollama", configuration | {"keep_alive": "auto"})
        backend.load("a", options("small"))
        assert server.requests()[0]["keep_alive"] == -1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
KEYS = st.sampled_from(
    ["message", "response", "content", "thinking", "done", "error", "eval_count", "eval_duration"]
)


@given(st.one_of(JSON, st.dictionaries(KEYS, st.one_of(JSON, st.dictionaries(KEYS, JSON)))), st.booleans())
def test_any_line_is_a_piece_or_an_error_in_one_line(said: Any, chats: bool) -> None:
    try:
        text, thinks, message = piece_of(json.dumps(said).encode(), chats)
    except ValueError as error:
        assert str(error).splitlines() in ([str(error)], [])
    else:
        assert isinstance(text, str) and isinstance(thinks, bool)
        assert all(isinstance(value, float) for value in figures_of(message).values())


@given(st.binary(max_size=20))
def test_any_bytes_likewise(line: bytes) -> None:
    with contextlib.suppress(ValueError):
        piece_of(line, False)
