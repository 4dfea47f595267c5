from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from asrswitch.cli import main
from asrswitch.errors import UsageError
from asrswitch.experiment import experiment_schema, read_experiment
from asrswitch.records import Run, read_log
from support import ROOT


def test_a_file_gives_options_and_the_command_line_wins(
    run: Callable[..., subprocess.CompletedProcess[str]], script: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text(
        'label = "nightly"\nseed = 7\nmax-new-tokens = 64\nstrategy = "resident"\n'
        'model = "missing=nowhere.bin"\n[metadata]\nhost = "laptop"\n'
    )
    done = run(script("a", text="x"), options=("--experiment", str(file), "--seed", "8"))
    assert done.returncode == 0, done.stderr
    first = read_log(tmp_path / "out" / "run.jsonl")[0]
    assert isinstance(first, Run)
    plan = first.plan
    assert (plan.label, plan.metadata, plan.max_new_tokens) == ("nightly", {"host": "laptop"}, 64)
    assert (plan.seed, plan.strategy.value, [m.label for m in plan.models]) == (8, "resident", ["a"])


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text(
        'iters = 3\nmodel = ["a=m/a.bin", "b=/abs/b.bin"]\naudio = "clip.wav"\n'
        'reference = ["@t.txt", "plain"]\nlibrary = "lib.so"\nout = "runs/x"\nthreads = "1,2"\n'
        'cache = "cold,warm"\n'
    )
    assert read_experiment(file) == {
        "iters": "3",
        "model": [f"a={tmp_path}/m/a.bin", "b=/abs/b.bin"],
        "audio": [f"{tmp_path}/clip.wav"],
        "reference": [f"@{tmp_path}/t.txt", "plain"],
        "library": [f"{tmp_path}/lib.so"],
        "out": f"{tmp_path}/runs/x",
        "threads": "1,2",
        "cache": "cold,warm",
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("iters = 3\nitres = 4\n", "e.toml:2: unknown key itres; the keys are iters, "),
        ("\n\nseed = 'one'\n", "e.toml:3: seed: is a text in quotes; give a whole number"),
        ("iters = 1.5\n", "e.toml:1: iters: is a number; give a whole number or a text in quotes"),
        ("threads = true\n", "e.toml:1: threads: is true or false; give "),
        ("threads = [1, [2]]\n", "e.toml:1: threads[1]: is a list; give a whole number or a text in quotes"),
        ("model = [1]\n", "e.toml:1: model"),
        ("[metadata]\nhost = 3\n", "e.toml:1: metadata"),
        ("iters = \n", "line 1"),
        ("resume = 'x'\n", "unknown key resume"),
    ],
)
def test_a_mistake_names_its_line_and_key(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "e.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_experiment(file)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("iters = 'x'\n", "e.toml:1: iters x: give a number"),
        ("iters = 1\nthreads = 0\n", "e.toml:2: threads is 0: give a number"),
        ("iters = 1\nthreads = [1, 1]\n", "e.toml:2: threads 1,1: give each number once"),
        ("iters = 1\n\ntimeout = nan\n", "e.toml:3: timeout is nan"),
        ("iters = 1\nmax-new-tokens = -1\n", "e.toml:2: max-new-tokens is -1"),
        ("iters = 1\nstrategy = ['reload', 'pray']\n", "e.toml:2: strategy pray: use one of"),
        ("iters = 1\nmodel = 'gone.bin'\n", "there is no such file; check the path given to model"),
        ("iters = 1\nmemory-limit = 'much'\n", "e.toml:2: memory-limit much: give a size"),
    ],
)
def test_a_value_that_is_wrong_is_told_with_its_line(
    text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "e.toml"
    file.write_text(text)
    assert main(["--experiment", str(file), "--dry-run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"asrswitch: {file}:") and says in line


def test_a_mistake_of_the_command_line_is_not_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "e.toml"
    file.write_text("iters = 3\nthreads = 2\n")
    for words in (("--threads", "0"), ("--iters", "x"), ("--timeout", "0")):
        assert main(["--experiment", str(file), "--dry-run", *words]) == 2
        assert capsys.readouterr().err.startswith(f"asrswitch: {words[0]} ")


def test_what_may_vary_can_be_a_list(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text(
        'threads = [1, 2]\ncontext = [256, "512-513"]\nstrategy = ["reload", "isolate"]\n'
        'allocator = ["glibc", "arenas-2"]\ntype = ["q4_0", "q8_0"]\ncache = ["cold", "warm"]\n'
    )
    assert read_experiment(file) == {
        "threads": "1,2",
        "context": "256,512-513",
        "strategy": "reload,isolate",
        "allocator": "glibc,arenas-2",
        "type": "q4_0,q8_0",
        "cache": "cold,warm",
    }


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(UsageError, match="--experiment"):
            read_experiment(path)
    (tmp_path / "latin.toml").write_bytes(b"label = '\xe9'\n")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_experiment(tmp_path / "latin.toml")


def test_the_published_schema_is_that_of_the_reader() -> None:
    published = json.loads((ROOT / "docs" / "experiment.schema.json").read_text(encoding="utf-8"))
    assert published == experiment_schema()
