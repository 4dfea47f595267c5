"""The ``ollama`` backend's configuration: mistakes, the forms of OLLAMA_HOST, and which models there are."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrswitch.backend_choice import choose_backend
from asrswitch.errors import UsageError
from asrswitch.model import Model
from asrswitch.ollama import models_of, read_configuration, url_of_host
from asrswitch.server_configuration import ServerKeys, of_server, url_problem
from asrswitch.worker.backends.ollama import full_name, seconds_of
from helpers.ollama import MIB, OllamaServer, model, serving
from support import ROOT


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("keepalive = 5\n", "o.toml:1: keepalive: there is no such key; the keys are url, restart, docker,"),
        (
            "\nkeep_alive = '5'\n",
            "o.toml:2: keep_alive: 5 is no duration; write seconds as 300, a duration as",
        ),
        ("keep_alive = 'soon'\n", "o.toml:1: keep_alive: soon is no duration"),
        ("keep_alive = 0\n", "o.toml:1: keep_alive: 0 unloads a model as soon as it is loaded"),
        ("keep_alive = '0s'\n", "o.toml:1: keep_alive: 0s unloads a model as soon as it is loaded"),
        ("keep_alive = []\n", "o.toml:1: keep_alive: Expected"),
        (
            "keep_alive = 'auto'\nurl = 'http://192.0.2.1:11434'\n",
            "o.toml:1: keep_alive: auto goes by this machine's memory, and http://192.0.2.1:11434 is another",
        ),
        ("endpoint = 'embed'\n", "o.toml:1: endpoint: Invalid enum value 'embed'"),
        ("unload_within_s = 0\n", "o.toml:1: unload_within_s: 0: give a number of seconds above 0"),
        ("unload_within_s = nan\n", "o.toml:1: unload_within_s: nan: give a number of seconds above 0"),
        ("think = 'a bit'\n", "o.toml:1: think: "),
        ("[options]\nnum_ctx = 5\n", "o.toml:2: num_ctx: the run sets it; use --context"),
        ("[options]\nnum_thread = 5\n", "o.toml:2: num_thread: the run sets it; use --threads"),
        ("[options]\nnum_predict = 5\n", "o.toml:2: num_predict: the run sets it; use --max-new-tokens"),
        ("[options]\nseed = 5\n", "o.toml:2: seed: the run sets it; use nothing: it is fixed"),
        ("[options]\nstop = [1]\n", "o.toml:1: options: Expected"),
        ("url = 'localhost:11434'\n", "o.toml:1: url: localhost:11434 is no address"),
        ("restart = ['']\n", "o.toml:1: restart: its first word is to be a program"),
        ("pid = 5\ndocker = 'ollama'\n", "o.toml:1: pid: a server that is restarted becomes another process"),
        ("answers_within_s = -1\n", "o.toml:1: answers_within_s: -1: give a number of seconds above 0"),
        ("answers_within_s = 1e300\n", "o.toml:1: answers_within_s: 1e+300: give a number of seconds"),
        ("url = 'http://a..b'\n", "o.toml:1: url: http://a..b is no address"),
        ("url = 'http://127.0.0.1/ü'\n", "o.toml:1: url: http://127.0.0.1/ü is no address"),
        ("= 5\n", "o.toml: Invalid"),
        (f"pid = {'9' * 5000}\n", "o.toml: a number has too many digits; correct it there"),
    ],
)
def test_a_mistake_names_file_line_and_key(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "o.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        choose_backend(f"ollama:{file}", {})
    assert says in str(caught.value) and str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"/nowhere\.toml: cannot be read"):
        choose_backend("ollama:/nowhere.toml", {})


def test_what_is_said_nowhere_has_its_default(tmp_path: Path) -> None:
    file = tmp_path / "o.toml"
    file.write_text("keep_alive = '10m'\nthink = 'low'\n[options]\nnum_gpu = 0\n", encoding="utf-8")
    none = read_configuration(None, {})
    assert none["url"] == "http://127.0.0.1:11434" and none["keep_alive"] == -1
    assert not none["restart"] and not none["distinct_prompts"] and none["endpoint"] == "generate"
    some = read_configuration(file, {"OLLAMA_HOST": "example.org"})
    assert some["url"] == "http://example.org:11434"
    assert (some["keep_alive"], some["think"], some["options"]) == ("10m", "low", {"num_gpu": 0})
    file.write_text("url = 'http://127.0.0.1:1'\n", encoding="utf-8")
    assert read_configuration(file, {"OLLAMA_HOST": "example.org"})["url"] == "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("  ", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        ("1.2.3.4:", "http://1.2.3.4:11434"),
        ("1.2.3.4:1337", "http://1.2.3.4:1337"),
        (":1337", "http://127.0.0.1:1337"),
        ("example.com", "http://example.com:11434"),
        ("example.com:1337/", "http://example.com:1337"),
        ("http://example.com", "http://example.com:80"),
        ("https://example.com", "https://example.com:443"),
        ("https://example.com:1337/ollama", "https://example.com:1337/ollama"),
        ("[2001:db8::1]", "http://[2001:db8::1]:11434"),
        ("[2001:db8::1]:1337", "http://[2001:db8::1]:1337"),
        ("2001:db8::1", "http://[2001:db8::1]:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:1337", "http://127.0.0.1:1337"),
        ("[::]:1337", "http://[::1]:1337"),
        ('"1.2.3.4"', "http://1.2.3.4:11434"),
        (" 'localhost:80' ", "http://localhost:80"),
    ],
)
def test_forms_of_ollama_host(host: str, url: str) -> None:
    assert url_of_host(host) == url


@pytest.mark.parametrize("host", ["host:66000", "host:-1", "host:port", "ftp://host", "http://a:b@host",
     "http://a..b", "a" * 70 + ".x:1", "http://127.0.0.1:1/ü", "a b"])  # fmt: skip
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(UsageError) as caught:
        url_of_host(host)
    assert str(caught.value).startswith(f"OLLAMA_HOST is {host}: give HOST:PORT or")


@given(st.text(alphabet="ah01:/[].@ -ü\x1b", max_size=20))
def test_any_host_is_an_address_or_refused(host: str) -> None:
    with contextlib.suppress(UsageError):
        url = url_of_host(host)
        assert url_problem(url) is None and url_of_host(url) == url


@pytest.mark.parametrize(
    ("keep_alive", "seconds"),
    [
        (300, 300), (-1, -1), (0.5, 0.5), ("5m", 300), ("1h30m", 5400), ("-1m", -60), ("1.5s", 1.5),
        ("500ms", 0.5), ("0", 0),
        ("+2s", 2), (".5s", 0.5), ("5", None), ("", None), ("m", None), ("5 m", None),
    ],
)  # fmt: skip
def test_durations(keep_alive: int | float | str, seconds: float | None) -> None:
    assert seconds_of(keep_alive) == seconds


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("llama3.2", "llama3.2:latest"),
        ("Llama3.2:1B", "llama3.2:1b"),
        ("registry.ollama.ai/library/llama3.2", "llama3.2:latest"),
        ("library/llama3.2:latest", "llama3.2:latest"),
        ("hf.co/someone/Model-GGUF", "hf.co/someone/model-gguf:latest"),
        ("localhost:5000/x/y", "localhost:5000/x/y:latest"),
    ],
)
def test_names_that_are_the_same(name: str, full: str) -> None:
    assert full_name(name) == full


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaServer]:
    models = [
        model("large", 2, size=5 * MIB),
        model("small:1b", 1),
        model("vectors", 1, capabilities=["embedding"]),
    ]
    with serving(tmp_path_factory.mktemp("ollama"), *models) as started:
        yield started


def test_models_are_those_named_or_all_that_give_text(server: OllamaServer) -> None:
    configuration = read_configuration(None, {"OLLAMA_HOST": server.url})
    all_of_them = models_of(configuration, [])
    assert [(one.label, one.path, one.bytes) for one in all_of_them] == [
        ("large", "large:latest", 5 * MIB),
        ("small:1b", "small:1b", MIB),
    ]
    assert all(one.digest and len(one.digest) == 64 for one in all_of_them)
    (named,) = models_of(configuration, ["it=SMALL:1b"])
    assert named == Model("it", "small:1b", MIB, digest=all_of_them[1].digest)
    assert [one.label for one in models_of(configuration, ["large:latest", "b=small:1b"])] == ["large", "b"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["medium"],
            "--model medium: {url} has no model medium; `ollama pull medium`, or use: large, small:1b,",
        ),
        (["small"], "--model small: {url} has no model small; `ollama pull small`, or use: large, small:1b"),
        (["a=large", "a=small:1b"], "--model a=small:1b: the label is used twice; give each model its own"),
        (["large", "b=large:latest"], "--model b=large:latest: large:latest has another label already"),
        (["large", "large:latest"], "--model large:latest: the label is used twice"),
        (["=large"], "--model =large: write NAME or LABEL=NAME"),
        (["a="], "--model a=: write NAME or LABEL=NAME"),
        (["a\n=large"], "--model a\\n=large: write NAME or LABEL=NAME"),
    ],
)
def test_models_that_there_are_not(words: list[str], says: str, server: OllamaServer) -> None:
    with pytest.raises(UsageError) as caught:
        models_of(read_configuration(None, {"OLLAMA_HOST": server.url}), words)
    assert str(caught.value).startswith(says.format(url=server.url)) and "\n" not in str(caught.value)


@pytest.fixture
def telling() -> Iterator[Callable[[bytes], dict[str, Any]]]:
    """The configuration for a server that tells this of its models; that waits, where that is nothing."""
    with contextlib.ExitStack() as stack:

        def start(tags: bytes) -> dict[str, Any]:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def serve() -> None:
                with contextlib.suppress(OSError), listening.accept()[0] as connection:
                    connection.recv(1 << 16)
                    if not tags:
                        over.wait(10)
                    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + tags)

            threading.Thread(target=serve, daemon=True).start()
            host = f"127.0.0.1:{listening.getsockname()[1]}"
            return read_configuration(None, {"OLLAMA_HOST": host})

        over = threading.Event()
        stack.callback(over.set)
        yield start


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        (b"[" * 200_000, "/api/tags: the reply is no JSON ([[["),
        (b'{"models": [{"name": "a", "size": -5}]}', "a cannot have -5 bytes"),
        (b'{"models": [{"name": "a", "size": 1%s}]}' % (b"0" * 30), "/api/tags: this is no list of models"),
        (b'{"models": [{"name": "a", "size": 9%s}]}' % (b"0" * 15), "a cannot have 9000000000000000 bytes"),
        (b'{"models": [{"name": "a\\u001b[31m\\nb", "size": 5}]}', "'a\\x1b[31m\\nb' is no name or digest"),
        (b'{"models": [{"name": "a\\ud800", "size": 5}]}', "'a\\ud800' is no name or digest"),
        (b'{"models": [{"name": "a", "size": 5, "digest": "\\n"}]}', "is no name or digest"),
        (b'{"models": [{"name": "", "size": 5}]}', "a model has no name"),
    ],
)
def test_what_is_no_list_of_models(
    tags: bytes, says: str, telling: Callable[[bytes], dict[str, Any]]
) -> None:
    with pytest.raises(UsageError) as caught:
        models_of(telling(tags), [])
    assert says in str(caught.value) and str(caught.value).isprintable()


def test_names_of_one_model_are_one(telling: Callable[[bytes], dict[str, Any]]) -> None:
    told = (
        b'{"models": [{"name": "a", "size": 5}, {"name": "a:latest", "size": 5}, {"name": "b", "size": 0}]}'
    )
    assert models_of(telling(told), []) == (Model("a", "a", 5), Model("b", "b", None))


def test_a_server_that_accepts_and_is_silent(telling: Callable[[bytes], dict[str, Any]]) -> None:
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"/api/tags: no answer within 0\.2 s; see .*OLLAMA_HOST or url"):
        models_of(telling(b"") | {"answers_within_s": 0.2}, [])
    assert time.monotonic() - began < 30


def test_no_server_is_there() -> None:
    with pytest.raises(UsageError) as caught:
        models_of(read_configuration(None, {"OLLAMA_HOST": "127.0.0.1:9"}), [])
    assert "http://127.0.0.1:9: no server answers; start it, or correct its address" in str(caught.value)
    assert "OLLAMA_HOST" in str(caught.value)


def test_a_server_without_models(tmp_path: Path) -> None:
    with serving(tmp_path, model("vectors", 1, capabilities=["embedding"])) as server:
        with pytest.raises(UsageError, match="the server has no model that gives text; `ollama pull` one"):
            models_of(read_configuration(None, {"OLLAMA_HOST": server.url}), [])
        with pytest.raises(UsageError, match="/v1/api/tags: status 404"):
            models_of(read_configuration(None, {"OLLAMA_HOST": f"{server.url}/v1"}), [])


def test_the_page_shows_a_configuration_that_can_be_read(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "ollama.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```toml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "o.toml").write_text(shown, encoding="utf-8")
    read = read_configuration(tmp_path / "o.toml", {})
    assert read["options"] == {"num_gpu": 0} and read["restart"][0] == "systemctl"
    documented = set(re.findall(r"^\| `([a-z_]+)` \|", page, re.MULTILINE))
    assert documented | {"url", *of_server(ServerKeys())} == set(read)
