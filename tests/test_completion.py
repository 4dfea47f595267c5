"""Shell completion, as the shells do it with the scripts that we print."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from argparse import SUPPRESS
from pathlib import Path

import pytest

from asrswitch.cli import VERBS, module_of
from support import ROOT

COMMAND = [sys.executable, "-m", "asrswitch"]
# What bash does on Tab: the words and the index of the one to complete; the answer is an array.
BASH = """
set -u
source "$0"
COMP_WORDS=(asrswitch "$@")
COMP_CWORD=$#
"$(complete -p asrswitch | sed 's/.*-F \\([^ ]*\\) .*/\\1/')"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the script for each shell, named after it."""
    directory = tmp_path_factory.mktemp("scripts")
    for shell in ("bash", "zsh", "fish"):
        done = subprocess.run(
            [*COMMAND, "--completion", shell], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        (directory / shell).write_text(done.stdout, encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with something to complete."""
    directory = tmp_path_factory.mktemp("files")
    for name in ("model.bin", "my model.bin", "clip.wav"):
        (directory / name).touch()
    (directory / "runs").mkdir()
    return directory


def in_bash(scripts: Path, files: Path, *words: str) -> list[str]:
    """What bash offers for the last of the words after ``asrswitch``."""
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH, scripts / "bash", *words],
        cwd=files,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


def test_the_first_word_is_a_verb_or_an_option_of_run(scripts: Path, files: Path) -> None:
    assert in_bash(scripts, files, "") == list(VERBS)
    assert in_bash(scripts, files, "mod") == ["models"]
    assert in_bash(scripts, files, "--iters", "5", "--tr") == ["--trim"]
    assert in_bash(scripts, files, "--com") == ["--completion"]
    assert in_bash(scripts, files, "--completion", "") == ["bash", "zsh", "fish"]


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_its_options_and_no_others(verb: str, scripts: Path, files: Path) -> None:
    parser = importlib.import_module(module_of(verb)).make_parser()
    shown = [name for name, action in parser._option_string_actions.items() if action.help != SUPPRESS]
    assert sorted(in_bash(scripts, files, verb, "-")) == sorted(shown)


def test_nested_verbs(scripts: Path, files: Path) -> None:
    assert in_bash(scripts, files, "models", "") == ["fetch", "list", "convert", "synth", "show"]
    assert in_bash(scripts, files, "models", "synth", "--pr") == ["--preset"]
    assert in_bash(scripts, files, "models", "synth", "--preset", "t") == ["tiny"]
    assert in_bash(scripts, files, "models", "fetch", "1") == ["1.7B"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("-s", ""), ["reload", "restart", "resident", "isolate", "all"]),
        (("run", "--strategy", "re"), ["reload", "restart", "resident"]),
        (("--order", "s"), ["small-first", "shuffle"]),
        (("--trim", "a"), ["always"]),
        (("--allocator", "j"), ["jemalloc"]),
        (("--language", "Ch"), ["Chinese"]),
        (("transcribe", "--language", "P"), ["Portuguese", "Polish", "Persian"]),
        (("report", "--format", ""), ["text", "md", "csv", "json", "html"]),
        (("report", "--rows", "t"), ["turns"]),
        (("leak-check", "--tool", "m"), ["memcheck", "massif"]),
        (("models", "convert", "in", "out.bin", "--type", "q4_0"), ["q4_0", "q4_0_16x4"]),
        (("--iters", ""), []),
    ],
)
def test_choices(words: tuple[str, ...], offered: list[str], scripts: Path, files: Path) -> None:
    assert in_bash(scripts, files, *words) == offered


@pytest.mark.parametrize(
    "words",
    [
        ("--audio", ""),
        ("--library", ""),
        ("--experiment", ""),
        ("transcribe", ""),
        ("transcribe", "first.wav", ""),
        ("report", ""),
        ("compare", "runs", ""),
        ("bench", "--out", ""),
        ("leak-check", "--driver", ""),
        ("models", "show", ""),
    ],
)
def test_files(words: tuple[str, ...], scripts: Path, files: Path) -> None:
    assert sorted(in_bash(scripts, files, *words)) == ["clip.wav", "model.bin", "my model.bin", "runs"]


@pytest.mark.parametrize(
    "words", [("-o", ""), ("--resume", ""), ("leak-check", "--out", ""), ("models", "convert", "")]
)
def test_directories(words: tuple[str, ...], scripts: Path, files: Path) -> None:
    assert in_bash(scripts, files, *words) == ["runs"]


@pytest.mark.parametrize("verb", [(), ("run",), ("transcribe",), ("bench",), ("leak-check",)])
def test_models_are_names_and_files(verb: tuple[str, ...], scripts: Path, files: Path) -> None:
    names = ["digits-small", "digits-large", "0.6B", "1.7B"]
    assert in_bash(scripts, files, *verb, "-m", "")[:4] == names
    assert in_bash(scripts, files, *verb, "--model", "d") == ["digits-small", "digits-large"]
    assert sorted(in_bash(scripts, files, *verb, "-m", "m")) == ["model.bin", "my model.bin"]


def test_what_follows_an_equals_sign(scripts: Path, files: Path) -> None:
    # bash makes words of their own of it: -m a=mo, --strategy=iso, --model=a=0
    assert in_bash(scripts, files, "-m", "a", "=", "mo") == ["model.bin"]
    assert in_bash(scripts, files, "-m", "a", "=")[:2] == ["digits-small", "digits-large"]
    assert in_bash(scripts, files, "--strategy", "=", "iso") == ["isolate"]
    assert in_bash(scripts, files, "--strategy", "=")[0] == "reload"
    assert in_bash(scripts, files, "--model", "=", "a", "=", "0") == ["0.6B"]
    assert in_bash(scripts, files, "-m", "a", "=", "x.bin", "--tr") == ["--trim"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_script_is_one_that_the_shell_can_read(shell: str, scripts: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-n", scripts / shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("asrswitch mod", ["models"]),
        ("asrswitch --trim p", ["probe"]),
        ("asrswitch models synth --preset t", ["tiny"]),
        ("asrswitch -m dig", ["digits-large", "digits-small"]),
        ("asrswitch -m a=0", ["a=0.6B"]),
    ],
)
def test_fish(line: str, offered: list[str], scripts: Path, tmp_path: Path) -> None:
    if not shutil.which("fish"):
        pytest.skip("fish is not installed")
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {scripts / 'fish'}; complete -C '{line}'"],
        cwd=tmp_path,
        env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(found.partition("\t")[0] for found in done.stdout.splitlines()) == offered


@pytest.mark.parametrize("words", [(), ("ksh",), ("bash", "zsh"), ("--help",)])
def test_a_shell_that_is_none_of_these_is_one_line(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [*COMMAND, "--completion", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "bash, zsh, fish" in done.stderr


def test_no_verb_waits_for_the_completions_library() -> None:
    code = "import sys; from asrswitch.cli import main; main(['report', '--help']); "
    code += "print('shtab' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
