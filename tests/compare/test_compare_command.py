from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from made_runs import compared, make_run

from asrswitch.cli import main
from asrswitch.compare.report import SCHEMA, CompareReport, conclude, rows_of, write_text
from helpers.records import run_of
from support import ROOT

Answer = tuple[int, str, str]


@pytest.fixture
def logs(tmp_path: Path) -> Callable[..., str]:
    """Write a made run, give its directory."""

    def write(name: str, **options: object) -> str:
        run = make_run(name, **options)  # type: ignore[arg-type]
        directory = tmp_path / name
        directory.mkdir(parents=True)
        lines = (msgspec.json.encode(record) + b"\n" for record in run.records)
        (directory / "run.jsonl").write_bytes(b"".join(lines))
        return str(directory)

    return write


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run `compare` in this process: exit code, output, errors."""

    def ask(*words: str) -> Answer:
        code = main(["compare", *words])
        output, errors = capsys.readouterr()
        return code, output, errors

    return ask


def test_two_runs_side_by_side(logs: Callable[..., str], answer: Callable[..., Answer]) -> None:
    first, second = logs("A"), logs("B", seed=1, ttft=1.3)
    code, output, errors = answer(first, second)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0].startswith(f"{second} against {first}: a: TTFT slower (+")
    (row,) = (line.split() for line in lines if line.startswith("a ") and "TTFT" in line)
    assert row[:2] == ["a", "TTFT"]
    assert row[-1] == "slower"
    (row,) = (line for line in lines if line.startswith("a ") and " unload " in line)
    assert "no difference seen (smallest " in row


def test_three_runs_are_held_against_the_first(
    logs: Callable[..., str], answer: Callable[..., Answer]
) -> None:
    runs = [logs(name, seed=seed) for seed, name in enumerate("ABC")]
    _, output, _ = answer(*runs)
    headings = [
        line for line in output.splitlines() if line.endswith("no difference seen") and "against" in line
    ]
    assert headings == [f"{other} against {runs[0]}: no difference seen" for other in runs[1:]]


def test_what_could_not_be_compared_is_counted_with_the_remedy(
    logs: Callable[..., str], answer: Callable[..., Answer]
) -> None:
    first, second = logs("A"), logs("B", iterations=10)
    _, output, _ = answer(first, second)
    found = re.match(
        f"{second} against {first}: no difference seen in (\\d+) of (\\d+) figures; "
        r"(\d+) could not be compared: "
        r"measured 24 and 10 times: it takes 12 on each side: run more iterations$",
        output.splitlines()[0],
    )
    assert found
    seen, all_, lost = map(int, found.groups())
    assert 0 < seen < lost and seen + lost == all_
    _, output, _ = answer(first, second, "--format", "json")
    figures = [figure for figure in json.loads(output)["comparison"]["pairs"][0]["figures"]
               if figure["at"] == "median"]  # fmt: skip
    assert lost == sum(
        figure["word"] == "not comparable" and figure["other"] is not None for figure in figures
    )
    slower = logs("C", iterations=10, held_a_cycle=8192)
    _, output, _ = answer(first, slower)
    assert re.match(
        rf"{slower} against {first}: a \+ b: heap slope higher .*; {lost} could not be compared: measured ",
        output,
    )
    few = logs("D", iterations=1), logs("E", iterations=1)
    _, output, _ = answer(*few)
    assert output.startswith(
        f"{few[1]} cannot be compared with {few[0]}: measured 1 and 1 times: it takes 12 "
    )


def test_a_narrow_terminal_gets_a_figure_with_its_verdict_below(tmp_path: Path) -> None:
    comparison = compared(make_run("A"), make_run("B", seed=1, ttft=1.3))
    report = CompareReport(SCHEMA, "0", comparison, None)
    wide, narrow = (write_text(report, width).splitlines() for width in (160, 80))
    assert max(len(line) for line in narrow if line.startswith("  ")) <= 80
    rows = [re.split(r"\s{2,}", line.strip()) for line in wide if line.startswith(("a ", "b "))]
    expected = []
    for model, *values, verdict in rows:
        expected += [[model]] * ([model] not in expected) + [values, [verdict]]
    begin = narrow.index("a")
    found = [re.split(r"\s{2,}", line.strip()) for line in narrow[begin : begin + len(expected)]]
    assert found == expected


def test_the_result_goes_to_a_file(
    logs: Callable[..., str], answer: Callable[..., Answer], tmp_path: Path
) -> None:
    runs = logs("A"), logs("B", seed=1)
    out = tmp_path / "result"
    for form in ("text", "md", "json"):
        assert answer(*runs, "-f", form, "-o", str(out)) == (0, "", "")
        _, output, _ = answer(*runs, "-f", form)
        assert out.read_text(encoding="utf-8") == output
    assert answer(*runs, "--format", "markdown")[1] == answer(*runs, "-f", "md")[1]


def test_json_holds_every_figure(logs: Callable[..., str], answer: Callable[..., Answer]) -> None:
    _, output, _ = answer(logs("A"), logs("B", seed=1, ttft=1.3), "--format", "json", "--fail-on", "load>0")
    report = json.loads(output)
    assert report["schema"] == 1
    (pair,) = report["comparison"]["pairs"]
    found = {(figure["model"], figure["key"]): figure for figure in pair["figures"]}
    assert found["a", "ttft"]["word"] == "slower"
    assert found["a", "ttft"]["change"] == pytest.approx(1.3, rel=0.05)
    assert pair["evidence"] == "single runs"
    assert report["bounds"]["broken"] == []


def test_markdown_is_a_table(logs: Callable[..., str], answer: Callable[..., Answer]) -> None:
    _, output, _ = answer(logs("A"), logs("B", seed=1), "--format", "markdown")
    rows = [line for line in output.splitlines() if line.startswith("|")]
    assert rows[0].startswith("| model | figure | baseline | other | change | 95% interval | verdict |")
    assert len({row.count("|") for row in rows}) == 1
    assert len(rows) == 2 + len(rows_of(compared(make_run("A"), make_run("B", seed=1)).pairs[0]))


@pytest.mark.parametrize(
    ("bounds", "code", "said"),
    [
        ("ttft>10%", 1, "FAILS ttft>10%: TTFT of a in "),
        ("ttft>90%,heap_slope>0", 0, "--fail-on: nothing is beyond the bounds"),
        ("ttft>10%,cer>0", 1, "undecided cer>0: not comparable: not measured in "),
        ("cer>0", 4, "undecided cer>0"),
    ],
)
def test_bounds_decide_the_exit_code(
    bounds: str, code: int, said: str, logs: Callable[..., str], answer: Callable[..., Answer]
) -> None:
    found, output, _ = answer(logs("A", wer=None), logs("B", seed=1, ttft=1.3, wer=None), "--fail-on", bounds)
    assert found == code
    assert said in output


def test_runs_of_different_things_are_refused_with_a_line_each(
    logs: Callable[..., str], answer: Callable[..., Answer]
) -> None:
    first, second = logs("A"), logs("B", threads=2, context=64)
    code, output, errors = answer(first, second)
    assert (code, output) == (2, "")
    assert errors.splitlines() == [
        f"asrswitch: {second} against {first}: context: none against 64",
        f"asrswitch: {second} against {first}: threads: 1 against 2",
        "asrswitch: these runs are of different things, as said above; "
        "make runs that are alike, or give --force",
    ]
    code, output, _ = answer(first, second, "--force")
    assert code == 0
    assert "not the same: threads: 1 against 2" in output


def test_groups(logs: Callable[..., str], answer: Callable[..., Answer]) -> None:
    before = [logs(f"A{seed}", seed=seed) for seed in range(3)]
    after = [logs(f"B{seed}", seed=9 + seed, decode=1.2) for seed in range(3)]
    words = ["--group", f"old={','.join(before)}", "--group", f"new={after[0]},{after[1]}"]
    code, output, _ = answer(*words, "--group", f"new={after[2]}")
    assert code == 0
    assert output.startswith("new against old: a: tokens/s slower (-1")
    assert "3 runs against 3" in output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to compare with"),
        (["--group", "A"], "--group A: write NAME=RUN,RUN"),
        (["--group", "x=A,"], "--group x=A,: write NAME=RUN,RUN"),
        (["nowhere", "neither"], "nowhere: holds no run.jsonl"),
        (["a", "b", "--fail-on", "speed>1%"], "'speed' is no figure"),
        (["a", "b", "--format", "html"], "--format html: use one of text, md, json"),
    ],
)
def test_wrong_words_are_named(words: list[str], said: str, answer: Callable[..., Answer]) -> None:
    code, output, errors = answer(*words)
    assert (code, output) == (2, "")
    assert said in errors
    assert errors.count("\n") == 1


def test_a_log_that_is_none_is_named(tmp_path: Path, answer: Callable[..., Answer]) -> None:
    for name, content in (("head", msgspec.json.encode(run_of(2))), ("none", b"{}")):
        (tmp_path / name).write_bytes(content + b"\n")
    code, _, errors = answer(str(tmp_path / "none"), str(tmp_path / "head"))
    assert code == 1
    assert "does not begin with a run's record" in errors or "is not a record" in errors
    # A run that was cut off at once has nothing to compare, and says so.
    code, output, _ = answer(str(tmp_path / "head"), str(tmp_path / "head"))
    assert code == 0
    assert "no figure is there on both sides" in output


def test_real_runs(
    run: Callable[..., subprocess.CompletedProcess[str]],
    script: Callable[..., str],
    tmp_path: Path,
    answer: Callable[..., Answer],
) -> None:
    """A load that takes ten times as long is seen, on a busy machine too."""
    for name, load_ms in (("quick", 5), ("quick too", 5), ("slow", 50)):
        model = script("m", text="0123", pieces=2, load_ms=f"{load_ms:02}")
        run(model, iterations=16, options=("--trim", "never", "--out", str(tmp_path / name)))
    quick, too, slow = (str(tmp_path / name) for name in ("quick", "quick too", "slow"))
    code, output, _ = answer(quick, too, "--fail-on", "load>100%,heap_slope>1K")
    assert code == 0, output
    code, output, errors = answer(quick, slow, "--fail-on", "load>100%", "--force")
    assert code == 1, output + errors
    assert "load slower (+" in output.splitlines()[0]


def test_the_help_fits_a_screen_and_costs_no_library() -> None:
    code = "import sys; from asrswitch.cli import main; main(['compare', '--help']); "
    code += "sys.exit('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) <= 30
    assert max(map(len, done.stdout.splitlines())) <= 110


def test_a_sentence_tells_a_pair() -> None:
    comparison = compared(make_run("A"), make_run("B", seed=1, held_a_cycle=8192))
    assert conclude(comparison.pairs[0]).startswith("B against A: a + b: heap slope higher (+16.0 KiB)")
