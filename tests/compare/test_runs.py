from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from made_runs import make_run, side

from asrswitch.compare.runs import LoggedRun, read_sides, took_turns, what_differs, what_else_differs
from asrswitch.errors import UsageError
from asrswitch.machine import Machine
from asrswitch.model import Model
from asrswitch.plan import Clip
from asrswitch.prompts.sets import Check, Prompt
from asrswitch.records import Record


def write(run: LoggedRun, directory: Path) -> Path:
    directory.mkdir(parents=True)
    lines = (msgspec.json.encode(record) for record in run.records)
    (directory / "run.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return directory


def with_head(run: LoggedRun, **changes: Any) -> LoggedRun:
    head: Record = msgspec.structs.replace(run.head, **changes)
    return LoggedRun(run.path, [head, *run.records[1:]])


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"threads": 4}, "threads: 1 against 4"),
        ({"context": 512}, "context: none against 512"),
        ({"language": "English"}, "language: none against English"),
        ({"max_new_tokens": 9}, "new tokens at most: 1 against 9"),
        ({"clips": (Clip("/d", None),)}, "clip: c against d"),
        ({"clips": (Clip("/c", "x"),)}, "clip c: reference: one text against another"),
        ({"clips": ()}, "clips: 1 against 0"),
        ({"models": (Model("a", "/z"), Model("b", "/b", None, True))},
         "model b: synthetic weights: no against yes"),
        ({"models": (Model("a", "/a"),)}, "model b: there against not there"),
        ({"models": (Model("a", "/a"), Model("b", "/b"), Model("c", "/c"))},
         "model c: not there against there"),
    ],
)  # fmt: skip
def test_what_makes_figures_those_of_different_things(changes: dict[str, Any], line: str) -> None:
    one, other = make_run("A", iterations=2), make_run("B", iterations=2, **changes)
    assert what_differs(side(one), side(other)) == [line]
    assert what_differs(side(one), side(one, other)) == [line]


def test_which_prompts_differ_is_said() -> None:
    def run(*prompts: Prompt) -> LoggedRun:
        return make_run(iterations=2, clips=(), prompts=prompts)

    total, river = Prompt("sum", "two and three?"), Prompt("river", "through Paris?", Check("exact", "Seine"))
    ours = run(total, river)
    assert what_differs(side(ours), side(run(total, river))) == []
    other = run(Prompt("sum", "two and four?"), Prompt("river", "through Paris?", Check("pattern", "Seine")))
    assert what_differs(side(ours), side(other)) == [
        "prompts: text of sum: one against another",
        "prompts: check of river: one against another",
    ]
    many = run(river, *(Prompt(f"p{index}", "?") for index in range(7)))
    assert what_differs(side(ours), side(many)) == ["prompts: sum against p0, p1, p2, p3, p4, 2 more"]
    assert what_differs(side(ours), side(run(total))) == ["prompts: river against none of these"]
    assert what_differs(side(ours), side(run(river, total))) == [
        "order of prompts: sum, river against river, sum"
    ]


def test_the_size_of_a_model_and_of_a_clip_count_where_they_are_known() -> None:
    def run(model_bytes: int | None, clip_bytes: int | None) -> LoggedRun:
        models = (Model("a", "/a", model_bytes), Model("b", "/b"))
        return make_run(iterations=2, models=models, clips=(Clip("/c", None, clip_bytes),))

    assert what_differs(side(run(1000, 5)), side(run(2000, 6))) == [
        "model a: bytes: 1,000 against 2,000",
        "clip c: bytes: 5 against 6",
    ]
    assert what_differs(side(run(1000, 5)), side(run(None, None))) == []


def test_content_counts_where_it_is_known() -> None:
    def run(name: str, **sums: str) -> LoggedRun:
        named = {"a": f"/{name}", "clip": "/c", "library": "/lib"}
        digests = {named[key]: value * 64 for key, value in sums.items()}
        models = (Model("a", f"/{name}", 9), Model("b", "/b"))
        return with_head(make_run(name, iterations=2, models=models), sha256=digests)

    first, same = (side(run(name, a="0", clip="1", library="2")) for name in ("one", "other"))
    assert what_differs(first, same) == what_else_differs(first, same) == []
    other = side(run("third", a="3", clip="4", library="5"))
    assert what_differs(first, other) == [
        "model a: SHA-256: 000000000000 against 333333333333",
        "clip c: SHA-256: 111111111111 against 444444444444",
    ]
    assert what_else_differs(first, other) == ["library: /lib (222222222222) against /lib (555555555555)"]
    assert what_differs(first, side(run("old"))) == what_else_differs(first, side(run("old"))) == []


def test_the_machine_counts() -> None:
    run = make_run(iterations=2)
    other = with_head(run, machine=Machine("other", 2, 1 << 29, "s", "c", "p"))
    assert what_differs(side(run), side(other)) == [
        "machine: processor: cpu against other",
        "machine: physical cores: 1 against 2",
        "machine: memory: 1.0 GiB against 0.5 GiB",
    ]
    nearly = with_head(run, machine=Machine("cpu", 1, (1 << 30) - 4096, "s", "c", "p"))
    assert what_differs(side(run), side(nearly)) == []


def test_what_may_differ_is_told() -> None:
    run = make_run(iterations=2)
    other = with_head(make_run(iterations=2, preload=True), version="1", library="/other")
    assert what_differs(side(run), side(other)) == []
    assert what_else_differs(side(run), side(other)) == [
        "version: 0 against 1",
        "library: /lib against /other",
        "preload: no against yes",
    ]


def test_sides_are_runs_by_directory_or_log(tmp_path: Path) -> None:
    one, other = (write(make_run(iterations=2), tmp_path / name) for name in "ab")
    sides = read_sides([one, other / "run.jsonl"], {})
    assert [len(item.runs) for item in sides] == [1, 1]
    assert sides[0].name == str(one)
    groups = read_sides([], {"before": [one, other], "after": [other, one]})
    assert [(item.name, len(item.runs)) for item in groups] == [("before", 2), ("after", 2)]


def test_a_directory_of_runs_that_took_turns_stands_for_all(tmp_path: Path) -> None:
    for turn, name in enumerate(["second", "first"]):
        write(make_run(iterations=6, rounds=3, variant=name, turn=1 - turn), tmp_path / name)
    sides = read_sides([tmp_path], {})
    assert [item.name for item in sides] == ["first", "second"]
    assert took_turns(sides[0].runs[0], sides[1].runs[0])
    assert not took_turns(sides[0].runs[0], make_run("elsewhere/second", rounds=3, variant="second"))


@pytest.mark.parametrize("rounds", [1, 3])
def test_what_one_command_varied_is_no_difference(rounds: int, tmp_path: Path) -> None:
    """Of few iterations too, which are one round."""
    varied: dict[str, dict[str, Any]] = {
        "context": {"context": 64},
        "type": {"models": (Model("a", "/a-q8_0", 2000), Model("b", "/b"))},
        "threads": {"threads": 2},
    }
    models = (Model("a", "/a", 1000), Model("b", "/b"))
    for name, changes in varied.items():
        base = {"iterations": 6, "rounds": rounds, "models": models}
        write(make_run(**base, variant="first", turn=0), tmp_path / name / "first")
        write(make_run(**base | changes, variant="second", turn=1), tmp_path / name / "second")
        first, second = read_sides([tmp_path / name], {})
        assert what_differs(first, second) == []
        assert took_turns(first.runs[0], second.runs[0]) is (rounds > 1)
        alone = write(make_run(**base | changes), tmp_path / f"{name} alone")
        assert what_differs(first, read_sides([alone, alone], {})[0]) != []


@pytest.mark.parametrize(
    ("paths", "groups", "message"),
    [
        ([], {}, "nothing to compare with"),
        (["a"], {}, "nothing to compare with"),
        (["a", "none"], {}, "none: holds no run.jsonl; name a run's directory"),
        (["a", "many"], {}, "many: holds 2 runs; name one of them, as in"),
        ([], {"x": ["a", "b"]}, "nothing to compare with"),
        ([], {"x": ["a", "b"], "y": ["a"]}, "--group y: give two runs or more"),
        (["a"], {"x": ["a", "b"], "y": ["a", "b"]}, "a: with --group, name each run in a group"),
    ],
)
def test_what_cannot_be_compared_is_named(
    tmp_path: Path, paths: list[str], groups: dict[str, list[str]], message: str
) -> None:
    for name in ("a", "b", "many/1", "many/2"):
        write(make_run(iterations=2), tmp_path / name)
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError) as caught:
        read_sides(
            [tmp_path / path for path in paths],
            {name: [tmp_path / path for path in members] for name, members in groups.items()},
        )
    assert message in str(caught.value).replace(f"{tmp_path}/", "")
