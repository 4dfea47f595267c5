"""Recommendations of real runs: printed, in every report, and by the thresholds of an experiment file."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asrswitch.cli import main
from asrswitch.errors import UsageError
from asrswitch.experiment import read_experiment
from asrswitch.records import Run, read_log
from asrswitch.rules.thresholds import Thresholds

Completed = subprocess.CompletedProcess[str]


def block(text: str) -> list[str]:
    """The lines of the recommendations in a run's or a report's text."""
    lines = text.splitlines()
    begin = next(index for index, line in enumerate(lines) if line.startswith("recommendations for "))
    return [line.strip() for line in lines[begin + 1 :] if line.startswith("  ")]


def recommendations(directory: Path) -> dict[str, dict[str, Any]]:
    document = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    return {item["rule"]: item for item in document["runs"][0]["recommendations"]}


@pytest.mark.parametrize(
    ("rules", "outcome"),
    [
        (None, "lazy loading"),
        ("load-lazy-below-s = 0.02", "acceptable"),
        ("load-lazy-below-s = 0.01\nload-acceptable-below-s = 0.02", "pre-warm popular models"),
        (
            "load-lazy-below-s = 0.001\nload-acceptable-below-s = 0.002\nload-popular-below-s = 0.003",
            "pre-warm at start",
        ),
    ],
)
def test_an_experiment_file_sets_thresholds_and_a_report_says_the_same(
    rules: str | None,
    outcome: str,
    run: Callable[..., Completed],
    script: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options: tuple[str, ...] = ()
    if rules is not None:
        (tmp_path / "e.toml").write_text(f"[rules]\n{rules}\n")
        options = ("--experiment", str(tmp_path / "e.toml"))
    done = run(script("a", text="x", load_ms=50), iterations=12, options=options)
    assert done.returncode == 0, done.stderr
    printed = block(done.stdout)
    assert printed[0].startswith(f"loading: {outcome}: ")
    assert recommendations(tmp_path / "out")["loading"]["outcome"] == outcome
    capsys.readouterr()
    assert main(["report", str(tmp_path / "out")]) == 0
    assert block(capsys.readouterr().out) == printed
    assert main(["report", str(tmp_path / "out"), "--format", "json"]) == 0
    assert capsys.readouterr().out == (tmp_path / "out" / "summary.json").read_text(encoding="utf-8")


def test_a_leaking_library_is_graded(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    run(script("a", text="x", leak=64 << 10), iterations=20)
    found = recommendations(tmp_path / "out")
    assert found["leak"]["outcome"] == "small"  # 6.3 MiB over a hundred
    assert found["worker memory"]["outcome"] is found["release"]["outcome"] is None
    (tmp_path / "e.toml").write_text("[rules]\nleak-iterations = 10_000\n")
    options = ("--experiment", str(tmp_path / "e.toml"), "--out", str(tmp_path / "again"))
    run(script("a", text="x", leak=64 << 10), iterations=20, options=options)
    assert recommendations(tmp_path / "again")["leak"]["outcome"] == "grave"


def test_a_pool_that_stays_is_no_leak_and_yet_asks_for_a_process(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    """Each load leaves 20 MiB in a pool that grows no further: what stays is most of what was taken."""
    run(script("a", text="x", pool="20971520,20971520"), iterations=20)
    found = recommendations(tmp_path / "out")
    assert found["leak"]["outcome"] == "none"
    assert found["release"]["outcome"] == "isolate"
    assert found["release"]["figures"][0]["value"] < 50


def test_a_short_run_says_which_rules_are_silent_and_why(
    run: Callable[..., Completed], script: Callable[..., str]
) -> None:
    printed = block(run(script("a", text="x"), iterations=3).stdout)
    assert printed[1:] == [
        "release, worker memory, leak, safe headroom, largest safe model: silent: "
        "the verdict on memory is inconclusive: run about 10 iterations",
        "strategy: silent: one strategy was measured; --strategy all compares them",
    ]


def test_an_invalid_run_has_no_recommendation(
    run: Callable[..., Completed], script: Callable[..., str]
) -> None:
    done = run(script("a"), iterations=12)  # no text
    assert "INVALID: " in done.stdout
    assert [line for line in block(done.stdout) if ": silent: " not in line] == []


def test_strategies_of_short_runs_have_no_recommendation_by_rule(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    options = ("--strategy", "reload,resident", "--switches-per-hour", "60")
    done = run(script("a", text="x"), script("b", text="x"), iterations=5, options=options)
    (result,) = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))["recommendations"]
    assert result["outcome"] is None
    assert block(done.stdout) == [
        "strategy: silent: the verdict on memory is inconclusive with reload, resident"
    ]


def test_a_log_of_before_there_were_rules_has_the_defaults(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    printed = block(run(script("a", text="x"), iterations=12).stdout)
    log = tmp_path / "out" / "run.jsonl"
    first, rest = log.read_bytes().split(b"\n", 1)
    head = msgspec.json.decode(first)
    del head["plan"]["rules"]
    log.write_bytes(msgspec.json.encode(head) + b"\n" + rest)
    record = read_log(log)[0]
    assert isinstance(record, Run) and record.plan.rules == Thresholds()
    assert main(["report", str(tmp_path / "out"), "-o", str(tmp_path / "text")]) == 0
    assert block((tmp_path / "text").read_text(encoding="utf-8")) == printed


def test_thresholds_go_into_the_log(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "e.toml").write_text("[rules]\nworker-times = 2\nsafe-percent = 50\n")
    run(script("a", text="x"), options=("--experiment", str(tmp_path / "e.toml")))
    record = read_log(tmp_path / "out" / "run.jsonl")[0]
    assert isinstance(record, Run)
    assert record.plan.rules == Thresholds(worker_times=2, safe_percent=50)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[rules]\nworker-tims = 2\n", "e.toml:2: unknown key worker-tims of rules; the keys are load-lazy"),
        ("[rules]\nworker-times = '2'\n", "e.toml:2: rules.worker-times: is a text in quotes; give a number"),
        (
            "[rules]\nworker-times = 0.5\n",
            "e.toml:2: rules.worker-times: is out of range; give a number >= 1",
        ),
        ("[rules]\nsafe-percent = nan\n", "e.toml:2: rules.safe-percent: is out of range; give a number > 0"),
        (
            "[rules]\nload-lazy-below-s = inf\n",
            "rules.load-lazy-below-s: is out of range; give a number <= 86400",
        ),
        ("rules = 3\n", "e.toml:1: rules: is a whole number; give a table"),
        (
            "[rules]\nload-lazy-below-s = 6\n",
            "e.toml:2: rules.load-lazy-below-s is 6 and rules.load-acceptable-below-s 5; "
            "the first must not be the higher",
        ),
        (
            "[rules]\nreclaimed-release-above-percent = 60\n",
            "e.toml:2: rules.reclaimed-monitor-above-percent is 70 and "
            "rules.reclaimed-release-above-percent 60",
        ),
        ("[rules]\nleak-grave-from-mib = 5\n", "e.toml:2: rules.leak-small-below-mib is 10 and"),
    ],
)
def test_a_mistake_in_the_rules_names_its_line_and_key(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "e.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_experiment(file)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_the_thresholds_that_a_file_leaves_out_are_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text("[rules]\nload-popular-below-s = 20\n")
    assert read_experiment(tmp_path / "e.toml") == {"rules": Thresholds(load_popular_below_s=20)}
