"""Tables for issues, spreadsheets and programs, and where the command puts them."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from report_examples import HOSTILE, hostile_records, killed_records, run_records, write_log

from asrswitch.cli import main
from asrswitch.plan import Strategy
from asrswitch.records import Failure, Reading, Run, Transcription
from asrswitch.report.console import render_summary
from asrswitch.report.runs import read_report
from asrswitch.report.tables import machine_facts, parts, to_csv, to_json, to_markdown, to_text
from asrswitch.summary import Spread, summarise
from helpers.records import MIB


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def table_of(text: str) -> dict[str, list[str]]:
    """Rows of the tables of a Markdown text by what they begin with."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert {len(row) for row in cells} <= {2, 3}
    return {row[0]: row[1:] for row in cells}


def strategies(directory: Path) -> Path:
    for turn, strategy in enumerate((Strategy.RELOAD, Strategy.ISOLATE)):
        records = run_records(20, strategy=strategy, variant=strategy.value, turn=turn)
        write_log(directory / strategy.value, records)
    return directory


def test_text_is_what_a_terminal_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = write_log(tmp_path, run_records())
    assert main(["report", str(directory)]) == 0
    shown = capsys.readouterr().out
    assert shown == to_text(read_report(directory))
    assert shown.splitlines()[-1] == f"log: {directory / 'run.jsonl'}"
    summary = render_summary(summarise(run_records()))
    assert len(parts(read_report(directory))) == len(summary) + 2  # recommendations, and where the log is


def test_markdown_has_the_models_the_verdict_and_the_machine(tmp_path: Path) -> None:
    text = to_markdown(read_report(write_log(tmp_path, run_records(20))))
    assert text.startswith("## No leak: memory does not grow\n")
    table = table_of(text)
    assert table[""] == ["a", "b"]
    assert table["load, ms"] == ["119.0 (100.0 to 138.0)", "120.0 (101.0 to 139.0)"]
    assert table["processor"] == ["cpu, 1 physical cores"]
    assert "- 20 of 20 iterations, complete" in text


def test_markdown_keeps_what_a_log_says_from_being_markup(tmp_path: Path) -> None:
    text = to_markdown(read_report(write_log(tmp_path, hostile_records())))
    assert "<script>" not in text
    assert "\\<script\\>alert(1)" in text
    for line in text.splitlines():
        assert line.replace("\\|", "").count("|") in (0, 3, 4)


def test_rows_of_models_have_every_figure_of_the_summary(tmp_path: Path) -> None:
    report = read_report(write_log(tmp_path, killed_records(20)))
    rows = rows_of(to_csv(report))
    assert [row["model"] for row in rows] == ["a", "b"]
    for row, model in zip(rows, report.runs[0].summary.models, strict=True):
        fields = msgspec.structs.asdict(model)
        for name, value in fields.items():
            if isinstance(value, Spread):
                assert float(row[f"{name}_median"]) == value.median
                assert float(row[f"{name}_minimum"]) == value.minimum
                assert float(row[f"{name}_maximum"]) == value.maximum
                assert int(row[f"{name}_count"]) == value.count
            elif value is None and name not in ("prediction", "cache"):  # which have columns of their own
                assert row.get(name, row.get(f"{name}_median")) == ""
        assert int(row["peak_bytes"]) == model.peak_bytes == 40 * MIB
        assert (row["cpu"], row["strategy"], row["threads"], row["verdict"]) == ("cpu", "reload", "1", "flat")
        assert row["failures"] == "1"


def test_rows_of_turns_stand_alone_and_failures_are_among_them(tmp_path: Path) -> None:
    records = killed_records()
    rows = rows_of(to_csv(read_report(write_log(tmp_path, records)), each_turn=True))
    spoken = [record for record in records if isinstance(record, Transcription)]
    assert len(rows) == len(spoken) + 1  # the attempt that was lost
    (lost,) = [row for row in rows if row["failure"]]
    assert lost["failure"] == "transcribe died: was ended by SIGKILL"
    assert (lost["iteration"], lost["model"], lost["worker"], lost["text"]) == ("4", "a", "1", "")
    kept = [row for row in rows if not row["failure"]]
    for row, record in zip(kept, spoken, strict=True):
        assert (row["iteration"], row["model"], row["text"]) == (str(record.iteration), record.model, "abc")
        assert float(row["ttft_ms"]) == record.figures.ttft_ms
        assert int(row["after_unload_rss_bytes"]) == 11 * MIB
        assert float(row["load_ms"]) == 100 + int(row["cycle"])
    assert all(row["started_at"] and row["cpu"] and row["strategy"] for row in rows)


def test_a_worker_that_never_came_has_a_row_of_its_own(tmp_path: Path) -> None:
    lost = Failure(cycle=5, iteration=3, model="b", worker=9, phase="start", kind="died", message="gone")
    records = run_records(4)
    report = read_report(write_log(tmp_path, [*records[:-1], lost, records[-1]]))
    (row,) = [row for row in rows_of(to_csv(report, each_turn=True)) if row["failure"]]
    assert (row["cycle"], row["iteration"], row["model"], row["load_ms"]) == ("5", "3", "b", "")


def test_no_text_is_a_formula_in_a_spreadsheet(tmp_path: Path) -> None:
    report = read_report(write_log(tmp_path, hostile_records()))
    for each_turn in (False, True):
        rows = rows_of(to_csv(report, each_turn=each_turn))
        assert {row["label"] for row in rows} == {"'=1+1"}
        assert {row["model"] for row in rows} == {HOSTILE, "b"}


def test_negative_figures_stay_numbers(tmp_path: Path) -> None:
    records = [
        msgspec.structs.replace(r, memory=msgspec.structs.replace(r.memory, rss_bytes=9 * MIB))
        if isinstance(r, Reading) and r.point == "after_unload"
        else r
        for r in run_records(3)
    ]
    row = rows_of(to_csv(read_report(write_log(tmp_path, records))))[0]
    assert float(row["net_growth_bytes_median"]) == -MIB


def test_json_is_the_summary(tmp_path: Path) -> None:
    report = read_report(write_log(tmp_path, run_records(20, leak_bytes=8192)))
    document = json.loads(to_json(report))
    (run,) = document["runs"]
    assert document["schema"] == 1
    assert run["word"] == "leak"
    assert run["summary"] == msgspec.to_builtins(report.runs[0].summary)
    assert msgspec.convert(run["run"], Run) == report.runs[0].run
    assert document["strategies"] is document["allocators"] is None


def test_all_that_is_known_of_the_machine_is_told(tmp_path: Path) -> None:
    records = run_records(2)
    assert isinstance(records[0], Run)
    known = {"swap_bytes": 3 * MIB, "smt": False, "instruction_sets": ("avx2", "avx512"), "governor": None}
    machine = msgspec.structs.replace(records[0].machine, allocator_settings={"A": "1"}, **known)
    records[0] = msgspec.structs.replace(records[0], machine=machine)
    facts = dict(machine_facts(read_report(write_log(tmp_path, records)).runs[0]))
    assert (facts["cpu"], facts["swap"], facts["smt"]) == ("cpu", "3.0 MiB", "no")
    assert (facts["instruction sets"], facts["allocator settings"]) == ("avx2, avx512", "A=1")
    assert "governor" not in facts


def test_several_runs_are_compared_in_every_format(tmp_path: Path) -> None:
    report = read_report(strategies(tmp_path))
    assert report.strategies
    document = json.loads(to_json(report))
    assert document["strategies"] == msgspec.to_builtins(report.strategies)
    assert [run["name"] for run in document["runs"]] == ["reload", "isolate"]
    assert [row["strategy"] for row in rows_of(to_csv(report))] == ["reload", "reload", "isolate", "isolate"]
    table = table_of(to_markdown(report))
    assert table[""] == ["reload", "isolate"]
    assert table["a turn, ms"] == ["154.0", "154.0"]


def test_runs_that_differ_in_threads_stand_side_by_side(tmp_path: Path) -> None:
    for turn, threads in enumerate((1, 2)):
        variant = f"threads-{threads}"
        write_log(tmp_path / variant, run_records(20, threads=threads, variant=variant, turn=turn))
    report = read_report(tmp_path)
    assert report.strategies is report.allocators is None
    table = table_of(to_markdown(report))
    assert table[""] == ["threads-1", "threads-2"]
    assert table["b: load, ms"] == ["120.0", "120.0"]
    assert table["peak, MiB"] == ["40.0", "40.0"]
    assert table["memory"] == ["flat", "flat"]


@pytest.mark.parametrize("form", ["text", "md", "csv", "json", "html"])
def test_a_report_goes_to_a_file_as_a_whole(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = write_log(tmp_path / "run", run_records())
    out = tmp_path / f"a.{form}"
    assert main(["report", str(directory), "--format", form, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.stat().st_size > 500
    assert [path.name for path in directory.iterdir()] == ["run.jsonl"]
    if form != "html":
        assert main(["report", str(directory), "-f", form]) == 0
        assert capsys.readouterr().out == out.read_text()


def test_html_lies_beside_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = write_log(tmp_path, run_records())
    for path in (directory, directory / "run.jsonl"):
        assert main(["report", str(path), "--format", "html"]) == 0
        assert capsys.readouterr().out == f"{directory / 'report.html'}\n"
        (directory / "report.html").unlink()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--rows", "turns"), "--format csv"),
        (("--format", "pdf"), "--format"),
        (("--format", "json", "--out", "/nowhere/a.json"), "/nowhere"),
    ],
)
def test_mistakes_are_told(
    words: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = write_log(tmp_path, run_records(2))
    assert main(["report", str(directory), *words]) in (1, 2)
    errors = capsys.readouterr().err
    assert says in errors
    assert len(errors.splitlines()) == 1


def test_only_html_waits_for_what_draws_charts(tmp_path: Path) -> None:
    directory = write_log(tmp_path, run_records(2))
    script = (
        "import sys; from asrswitch.cli import main; main(['report', sys.argv[1]]); "
        "sys.exit(bool({'bokeh', 'jinja2'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(directory)], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
