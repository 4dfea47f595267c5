"""What ``--backend`` may name, and the mistakes in a configuration file, each told in one line."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from asrswitch.backend_choice import PRESETS, BackendChoice, capabilities_of, choose_backend
from asrswitch.cli import main
from asrswitch.errors import UsageError
from asrswitch.experiment import read_experiment
from asrswitch.worker.backends.command import fill_in, values_of

RunProgram = Callable[..., subprocess.CompletedProcess[str]]
GOOD = 'command = ["true", "{model}", "{audio}"]\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("command = 3\n", "c.toml:1: command: Expected `array`, got `int`"),
        ("\n[figures]\n", "c.toml: command: it is missing"),
        (GOOD + "remov = []\n", "c.toml:2: remov: there is no such key; the keys are command, remove, text,"),
        (
            GOOD + "[figures]\nx = { patern = '(a)' }\n",
            "patern: there is no such key",
        ),
        ("command = []\n", "c.toml:1: command: its first word is to be a program"),
        ('command = [["true"], "{model}"]\n', "command: its first word is to be a program"),
        ('command = ["{model}", "{audio}"]\n', "the program {model} must not have a placeholder"),
        ('command = ["true", "{model}"]\n', "command: it has no {audio}"),
        ('command = ["true", "{audio}"]\n', "command: it has no {model}, {model_dir} or {model_name}"),
        (
            'command = ["true", "{model}", "{audio}", "{lang}"]\n',
            "there is no placeholder {lang}; use {model}",
        ),
        (
            'command = ["true", "{model}", "{audio}", "{context}"]\n',
            "{context} may not be given; write its",
        ),
        (
            GOOD + "remove = ['(']\n",
            "c.toml:2: remove: '(' is no pattern (missing )",
        ),
        (GOOD + "text = 'a'\n", "c.toml:2: text: 'a' has 0 groups"),
        (GOOD + "text = '(a)(b)'\n", "has 2 groups"),
        (GOOD + "[figures]\nload_ms = 'x'\n", "c.toml:3: load_ms: 'x' has 0 groups"),
        (GOOD + "[figures]\n'Load ms' = '(x)'\n", "c.toml:3: Load ms: call a figure by lower-case letters"),
        (GOOD + "[figures]\na = { pattern = '(x)', scale = 0 }\n", "c.toml:3: a: its scale is 0"),
        (GOOD + "[figures]\na = { pattern = '(x)', scale = inf }\n", "its scale is inf"),
        (GOOD + "[environment]\n'A=B' = 'c'\n", "environment: 'A=B' cannot be a variable"),
        (GOOD + "[environment]\nA = 3\n", "c.toml:2: environment: Expected `str`, got `int`"),
        ("command = [\n", "c.toml: "),
        (
            GOOD.replace("true", "no-such-program"),
            "toml:1: command: no program no-such-program is in the PATH",
        ),
        (GOOD.replace("true", "./missing"), "/missing; correct its path"),
        (GOOD.replace("true", "./c.toml"), "c.toml is not executable; `chmod +x` it"),
    ],
)
def test_a_mistake_names_file_and_key(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        choose_backend(f"command:{file}", {"PATH": "/usr/bin:/bin"})
    assert says in str(caught.value)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("nothing", "no backend is called nothing; there are chatllm, command"),
        ("chatllm:x", "chatllm has no configuration"),
        ("command", "write command:FILE.toml, or command: and one of llama-mtmd-cli, qwen_asr, whisper-cli"),
        ("command:whisper", "no preset is called whisper; use llama-mtmd-cli, qwen_asr, whisper-cli"),
        (
            "command:/nowhere.toml",
            "/nowhere.toml: cannot be read (No such file or directory)",
        ),
    ],
)
def test_a_backend_that_is_none(word: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose_backend(word, {})
    assert says in str(caught.value)


def test_the_default_is_a_library() -> None:
    assert choose_backend("chatllm", {}) == BackendChoice()


@pytest.mark.parametrize("name", PRESETS.names())
def test_presets_are_configurations_that_fill_in(name: str, tmp_path: Path) -> None:
    program = tmp_path / name
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    choice = choose_backend(f"command:{name}", {"PATH": str(tmp_path)})
    assert choice.program == str(program)
    can = capabilities_of(choice)
    assert can and not can["loads"]
    words = choice.configuration["command"]
    model = tmp_path / "m.gguf"
    options = values_of({"model": str(model), "threads": 2, "max_new_tokens": 5}, "/clip.wav")
    plain = fill_in(words, options)
    assert "/clip.wav" in plain and not any("{" in word for word in plain)
    forced = fill_in(words, {**options, "language": "Chinese", "language_code": "zh"})
    assert (forced != plain) == can["forces_language"]
    assert PRESETS.path(name).is_file()


def test_the_audio_part_of_a_gguf_model_lies_beside_it() -> None:
    words = ["--mmproj", "{model_dir}/mmproj-{model_name}"]
    values = values_of({"model": "/m/Qwen3-ASR-0.6B-Q8_0.gguf", "threads": 1, "max_new_tokens": 1}, "/a.wav")
    assert fill_in([*words], values) == ["--mmproj", "/m/mmproj-Qwen3-ASR-0.6B-Q8_0.gguf"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--strategy", "resident"), "--strategy resident: the backend command loads for each transcription"),
        (("--strategy", "restart,reload"), "--strategy restart: the backend command loads for each"),
        (("--library", "/lib.so"), "--library /lib.so: the backend command has no such option"),
        (("--preload",), "--preload: the backend command has no such option"),
        (("--lock",), "--lock: the backend command has no such option"),
        (("--type", "q4_0"), "--type q4_0: the backend command has no such option"),
        (("--context", "99"), "has no {context}; add it there, or leave the option out"),
        (("--language", "zh"), "--language Chinese: the backend command does not force a language"),
        (("--model", "b=/nowhere"), "/nowhere: there is no such file or directory"),
        (("--model", "a=/bin"), "the label a is used twice"),
        (("--model", "=x"), "write PATH or LABEL=PATH"),
    ],
)
def test_options_that_a_program_does_not_have(
    options: tuple[str, ...], says: str, run_program: RunProgram, tmp_path: Path
) -> None:
    done = run_program("echo text", options=options)
    assert done.returncode == 2
    assert says in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_models_must_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text(GOOD, encoding="utf-8")
    assert main(["--iters", "1", "--backend", f"command:{tmp_path}/c.toml"]) == 2
    assert "--model is missing: the embedded models are not of the backend command" in capsys.readouterr().err


def test_a_model_may_be_a_directory(run_program: RunProgram, tmp_path: Path) -> None:
    directory = tmp_path / "checkpoint.d"
    (directory / "more").mkdir(parents=True)
    (directory / "config.json").write_bytes(b"c" * 100)
    (directory / "more" / "weights").write_bytes(b"w" * 4000)
    done = run_program('ls "$1"', options=("--model", str(directory), "--dry-run"))
    assert done.returncode == 0 and "checkpoint.d" in done.stdout
    done = run_program('ls "$1"; echo', options=("--model", str(directory), "--json"))
    assert done.returncode == 0, done.stderr
    assert f'"path": "{directory}"' in done.stdout and '"bytes": 4100' in done.stdout


def test_an_experiment_file_names_a_configuration_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    for word, backend in (("command:c.toml", f"command:{tmp_path}/c.toml"), ("command:qwen_asr",) * 2):
        file.write_text(f'backend = "{word}"\n', encoding="utf-8")
        assert read_experiment(file) == {"backend": backend}
