"""Configurations and presets of the `openai` backend, and each mistake in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from asrswitch.backend_choice import capabilities_of, choose_backend
from asrswitch.cli import main
from asrswitch.errors import UsageError
from asrswitch.model import Model
from asrswitch.openai_configuration import PRESETS, models_of, read_configuration
from asrswitch.worker.backends.openai import OpenAIBackend
from support import ROOT

GOOD = 'url = "http://127.0.0.1:8080"\n'
UNLOAD = '[unload]\npath = "/unload"\n'


@pytest.mark.parametrize("name", PRESETS.names())
def test_presets_are_configurations_that_a_backend_takes(name: str) -> None:
    choice = choose_backend(f"openai:{name}", {})
    assert choice.given == name
    backend = OpenAIBackend(choice.configuration)
    can = capabilities_of(choice)
    assert can == backend.capabilities and can["forces_language"]
    assert can["loads"] is (name != "vllm") and can.get("renews") is False


def test_a_file_says_what_a_preset_does_not(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        'preset = "llama-router"\nurl = "https://gpu.example:8443/llm"\nrestart = ["./again"]\n'
        "streams = false\n[fields]\ntemperature = 0.5\nverbose = true\n",
        encoding="utf-8",
    )
    found = read_configuration(str(file), {})
    preset = read_configuration("llama-router", {})
    changed = {
        "url": "https://gpu.example:8443/llm",
        "restart": ["./again"],
        "streams": False,
        "fields": {"temperature": "0.5", "verbose": "true"},
    }
    assert found == {**preset, **changed}
    assert preset["resident"]["state"] == "status.value"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("streams = true\n", "c.toml: url: it is missing; write it as http://127.0.0.1:8080"),
        ('url = "127.0.0.1"\n', "c.toml:1: url: 127.0.0.1 is no address"),
        ('url = "http://me:secret@host"\n', "has more than host, port and path"),
        (GOOD + "stream = true\n", "c.toml:2: stream: there is no such key; the keys are"),
        (GOOD + "streams = 1\n", "c.toml:2: streams: Expected `bool`, got `int`"),
        (GOOD + 'path = "v1"\n', "c.toml:2: path: v1 is no path on a server"),
        (GOOD + 'path = "/{model}"\n', "c.toml:2: path: there is no placeholder {model}; it can have none"),
        (GOOD + 'preset = "llama"\n', "c.toml:2: preset: no preset is called llama; use llama-router,"),
        (GOOD + 'api_key_env = "NO_KEY"\n', "c.toml:2: api_key_env: the variable NO_KEY is not set"),
        (GOOD + 'api_key_env = "BAD_KEY"\n', "api_key_env: what BAD_KEY has cannot be sent"),
        (GOOD + "answers_within_s = 0\n", "c.toml:2: answers_within_s: 0: give a number of seconds above 0"),
        (
            GOOD + '[fields]\nfile = "a"\n',
            "c.toml:3: fields.file: the run sends it; the clip is sent as that",
        ),
        (GOOD + "[fields]\nstream = true\n", "fields.stream: the run sends it; write streams = true"),
        (GOOD + "[fields]\n'a\"b' = 1\n", "c.toml:2: fields: 'a\"b' cannot be a field's name"),
        (
            GOOD + "[fields]\nn = '{threads}'\n",
            "fields.n: there is no placeholder {threads}; use {model}, {max",
        ),
        (GOOD + "[unload]\nmethod = 'GET'\n", "c.toml:2: unload.path: it is missing"),
        (GOOD + UNLOAD + "pathh = '/'\n", "c.toml:4: unload.pathh: there is no such key"),
        (GOOD + "path = '/p'\n[unload]\npath = 3\n", "c.toml:4: unload.path: Expected `str`, got `int`"),
        (GOOD + UNLOAD + "method = 'get'\n", "c.toml:4: unload.method: get is none of GET, POST"),
        (GOOD + UNLOAD + "within_s = nan\n", "c.toml:4: unload.within_s: nan: give a number of seconds"),
        (
            GOOD + UNLOAD + "body = { a = ['{name}'] }\n",
            "c.toml:4: unload.body: there is no placeholder {name}",
        ),
        (GOOD + "[unload]\npath = '/{label}'\n", "unload.path: there is no placeholder {label}; use {model}"),
        (GOOD + "[load]\npath = '/load'\n", "c.toml:2: load: there is no unload"),
        (GOOD + "[resident]\npath = '/a b'\n", "c.toml:3: resident.path: /a b is no path on a server"),
        (
            GOOD + "[resident]\npath = '/'\nstate = 's'\n",
            "c.toml:2: resident: state and loaded belong together",
        ),
        (GOOD + "[resident]\npath = '/'\nname = 'a..b'\n", "c.toml:4: resident.name: a..b is no dotted path"),
    ],
)
def test_a_mistake_names_file_line_and_key(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        choose_backend(f"openai:{file}", {"BAD_KEY": "two\nlines"})
    assert says in str(caught.value) and str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        (
            "openai",
            "--backend openai: write openai:FILE.toml, or openai: and one of llama-router, llama-swap,",
        ),
        (
            "openai:whisper",
            "no preset is called whisper; use llama-router, llama-swap, localai, speaches, vllm",
        ),
        ("openai:/nowhere.toml", "/nowhere.toml: cannot be read (No such file or directory)"),
    ],
)
def test_a_configuration_that_is_none(word: str, says: str) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]*$") as caught:
        choose_backend(word, {})
    assert says in str(caught.value)


def test_models_are_names() -> None:
    assert models_of(["Qwen/Qwen3-ASR-0.6B", "b=whisper:base"]) == (
        Model("Qwen3-ASR-0.6B", "Qwen/Qwen3-ASR-0.6B"),
        Model("b", "whisper:base"),
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "--model is missing: give the server's name of each"),
        (("--model", "a="), "--model a=: write NAME or LABEL=NAME"),
        (("--model", "x/a", "--model", "y/a"), "--model y/a: the label a is used twice"),
        (("--model", "a", "--context", "9"), "--context 9: the backend openai has no such option"),
        (("--model", "a", "--library", "l.so"), "--library l.so: the backend openai has no such option"),
        (
            ("--model", "a", "--strategy", "resident"),
            "--strategy resident: the backend openai is not told how models are loaded",
        ),
        (("--model", "a", "--prompts", "questions"), "the backend openai takes audio"),
    ],
)
def test_options_that_do_not_fit(
    options: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--iters", "1", "--backend", "openai:vllm", *options]) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1


def test_the_documented_configurations_are_right(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "openai.md").read_text(encoding="utf-8")
    preset, own = re.findall(r"^```toml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    for text, loaded in ((preset, ["loaded"]), (own, ["ready"])):
        (tmp_path / "c.toml").write_text(text, encoding="utf-8")
        found = read_configuration(str(tmp_path / "c.toml"), {"LLAMA_API_KEY": "k"})
        assert found["resident"]["loaded"] == loaded
    rows = re.findall(r"^\| `([a-z-]+)` \| .* \| not run here \|$", page, re.MULTILINE)
    assert sorted(rows) == PRESETS.names()
    for name in PRESETS.names():
        assert "not run here" in PRESETS.path(name).read_text(encoding="utf-8")
