from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from asrswitch.advice import advise
from asrswitch.conditions import Conditions, read_conditions
from asrswitch.records import End, Reading, Record, Run, Transcription, read_log

Completed = subprocess.CompletedProcess[str]
GOOD = {"text": "零一二三四五", "header": "whole", "pieces": 3}
CALM = Conditions(0.1, 100, 5, 50, 10_000)


@pytest.fixture
def records(run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path) -> list[Record]:
    """Of a run of two iterations."""
    assert run(script("a", **GOOD)).returncode == 0
    log = read_log(tmp_path / "out" / "run.jsonl")
    return with_conditions(log, CALM, msgspec.structs.replace(CALM, all_ticks=20_000))


def with_conditions(records: Sequence[Record], first: Conditions, last: Conditions) -> list[Record]:
    replace = msgspec.structs.replace
    return [
        replace(r, conditions=first)
        if isinstance(r, Run)
        else replace(r, conditions=last)
        if isinstance(r, End)
        else r
        for r in records
    ]


def said(records: Sequence[Record], invalid: bool) -> list[str]:
    return [advice.text for advice in advise(records) if advice.invalid == invalid]


def test_a_calm_run_is_valid(records: list[Record]) -> None:
    assert said(records, invalid=True) == []


def test_texts_that_differ_or_are_empty_make_a_run_invalid(records: list[Record]) -> None:
    replace = msgspec.structs.replace
    last = max(i for i, r in enumerate(records) if isinstance(r, Transcription))
    spoken = records[last]
    assert isinstance(spoken, Transcription)
    other = [*records[:last], replace(spoken, raw="another"), *records[last + 1 :]]
    (text,) = said(other, invalid=True)
    assert "2 different texts" in text
    empty = [replace(r, raw="", text="") if isinstance(r, Transcription) else r for r in records]
    (text,) = said(empty, invalid=True)
    assert "gave no text" in text
    first = records[0]
    assert isinstance(first, Run)
    models = tuple(replace(model, synthetic=True) for model in first.plan.models)
    synthetic = [replace(first, plan=replace(first.plan, models=models)), *empty[1:]]
    assert said(synthetic, invalid=True) == []  # random weights may say nothing


def test_swapping_makes_a_run_invalid(records: list[Record]) -> None:
    replace = msgspec.structs.replace
    swapped = [
        replace(r, memory=replace(r.memory, swap_bytes=3 << 20)) if isinstance(r, Reading) else r
        for r in records
    ]
    (text,) = said(swapped, invalid=True)
    assert "3.0 MiB" in text and "swapped" in text


@pytest.mark.parametrize(
    ("changes", "invalid", "says"),
    [
        ({"throttled": 6}, True, "slowed 1 times"),
        ({"stolen_ticks": 150}, False, "1%"),
        ({"stolen_ticks": 149}, False, None),
        ({"throttled": None, "stolen_ticks": None, "all_ticks": None}, False, None),
    ],
)
def test_what_the_machine_went_through(
    records: list[Record], changes: dict[str, int], invalid: bool, says: str | None
) -> None:
    last = msgspec.structs.replace(CALM, **{"all_ticks": 20_000, **changes})
    texts = said(with_conditions(records, CALM, last), invalid)
    assert any(says in text for text in texts) if says else not any("%" in text for text in texts)


@pytest.mark.parametrize(("load", "busy"), [(0.5, True), (0.49, False), (None, False)])
def test_a_busy_machine_is_told(records: list[Record], load: float | None, busy: bool) -> None:
    first = msgspec.structs.replace(CALM, load_average=load)
    texts = said(with_conditions(records, first, CALM), invalid=False)
    assert any("was busy" in text for text in texts) == busy


def test_every_warning_of_figures_says_what_to_do(records: list[Record]) -> None:
    for advice in advise(with_conditions(records, msgspec.structs.replace(CALM, load_average=9.0), CALM)):
        assert advice.line.startswith(advice.text) and advice.line.endswith(advice.remedy)


def test_conditions_of_a_machine(tmp_path: Path) -> None:
    proc, system = tmp_path / "proc", tmp_path / "sys"
    proc.mkdir()
    (proc / "loadavg").write_text("1.25 0.5 0.1 1/99 1234\n")
    (proc / "stat").write_text("cpu  10 20 30 40 50 60 70 80 90 100\ncpu0 1 2 3\n")
    (proc / "vmstat").write_text("pgfault 1\npswpin 12\npswpout 13\n")
    for cpu, core, count in ((0, "0-1", 3), (1, "0-1", 3), (2, "2", 4)):
        directory = system / "devices" / "system" / "cpu" / f"cpu{cpu}"
        (directory / "thermal_throttle").mkdir(parents=True)
        (directory / "topology").mkdir()
        (directory / "thermal_throttle" / "core_throttle_count").write_text(f"{count}\n")
        (directory / "topology" / "core_cpus_list").write_text(f"{core}\n")
    assert read_conditions(proc, system) == Conditions(1.25, 12, 7, 80, 360)
    nothing = tmp_path / "nothing"
    assert read_conditions(nothing, nothing) == Conditions(None, None, None, None, None)


def test_an_invalid_run_has_a_code_of_its_own_where_it_is_checked(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    silent = script("a", text="", header="whole")
    assert run(silent).returncode == 0
    done = run(silent, options=("--check", "--out", str(tmp_path / "checked")))
    assert done.returncode == 5 and "INVALID: a gave no text" in done.stdout
