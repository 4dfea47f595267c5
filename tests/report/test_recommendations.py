"""Recommendations in reports of every form."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import msgspec
import pytest
from report_examples import HOSTILE, hostile_records, run_records, write_log

from asrswitch.cli import main
from asrswitch.plan import Strategy
from asrswitch.report.html import render_html
from asrswitch.report.recommendations import recommendation_lines
from asrswitch.report.runs import Report, read_report
from asrswitch.report.tables import to_json, to_markdown, to_text
from helpers.records import MIB


def compared(directory: Path, iterations: int = 20) -> Report:
    for turn, strategy in enumerate((Strategy.RELOAD, Strategy.ISOLATE)):
        records = run_records(iterations, strategy=strategy, variant=strategy.value, turn=turn)
        write_log(directory / strategy.value, records)
    return read_report(directory)


def cells(page: str) -> list[list[str]]:
    """The rows of what is recommended, and of the thresholds."""
    section = page[page.index("<h2>Recommendations</h2>") : page.index("<h2>Memory over time</h2>")]
    rows = re.findall(r"<tr>(.*?)</tr>", section, re.DOTALL)
    return [
        [html.unescape(re.sub(r"<[^>]*>", "", cell)).strip() for cell in re.split(r"</t[hd]>", row)[:-1]]
        for row in rows
    ]


def test_text_markdown_and_json_say_the_same(tmp_path: Path) -> None:
    report = read_report(write_log(tmp_path, run_records(20)))
    results = [*report.runs[0].recommendations, *report.recommendations]
    lines = recommendation_lines(results)
    assert len(lines) == 8
    text = to_text(report)
    assert f"recommendations for a / b, by conventions (docs/rules.md):\n  {lines[0]}\n" in text
    assert all(f"  {line}\n" in text for line in lines)
    markdown = to_markdown(report)
    assert (
        "\n- recommendations for a / b, by conventions (docs/rules.md):\n- loading: lazy loading: "
        in markdown
    )
    document = json.loads(to_json(report))
    assert document["runs"][0]["recommendations"] == msgspec.to_builtins(report.runs[0].recommendations)
    assert document["recommendations"] == msgspec.to_builtins(report.recommendations)
    loading = document["runs"][0]["recommendations"][0]
    assert loading["figures"][0] == {"name": "cached load", "value": 119.0, "unit": "ms"}
    assert loading["thresholds"][0] == {"name": "lazy loading below", "value": 2.0, "unit": "s"}
    assert loading["source"]


def test_the_page_has_a_table_with_figures_thresholds_and_sources(tmp_path: Path) -> None:
    rows = cells(render_html(read_report(write_log(tmp_path, run_records(20)))))
    assert rows[:2] == [
        ["rule", "it says", "by these figures"],
        [
            "loading",
            "lazy loading: load it when it is first asked for",
            "cached load 119.0 ms / 120.0 ms; load and first text 124.0 ms / 125.0 ms",
        ],
    ]
    begin = rows.index(["rule", "thresholds", "which are from"])
    assert rows[begin + 1] == [
        "loading",
        "lazy loading below 2 s; acceptable below 5 s; pre-warm popular models below 10 s",
        "earlier studies of this question; a convention",
    ]
    silent = [row[0] for row in rows if row[1].startswith("silent: ")]
    assert silent == ["largest safe model", "strategy"]


def test_labels_stay_text(tmp_path: Path) -> None:
    report = read_report(write_log(tmp_path, hostile_records()))
    page = render_html(report)
    assert HOSTILE not in page
    assert f"The figures of {HOSTILE} / b say" in html.unescape(page)
    assert "<script>alert" not in to_markdown(report)


def test_strategies_that_are_compared_are_recommended_by_a_rule(tmp_path: Path) -> None:
    report = compared(tmp_path)
    (result,) = report.recommendations
    assert report.strategies
    assert result.says == report.strategies.recommendation
    assert result.outcome
    text = to_text(report)
    assert report.strategies.recommendation in text
    assert "recommendations for" not in text  # it is said there already
    assert render_html(report).count("<summary>Recommendations</summary>") == 2


def test_a_report_asks_what_the_runs_were_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for turn, strategy in enumerate((Strategy.RELOAD, Strategy.ISOLATE)):
        need = {"memory_limit_bytes": 100 * MIB, "switches_per_hour": 60.0}
        records = run_records(20, strategy=strategy, variant=strategy.value, turn=turn, **need)
        write_log(tmp_path / strategy.value, records)

    def needs(*options: str) -> tuple[float | None, float | None]:
        assert main(["report", str(tmp_path), "--format", "json", *options]) == 0
        found = json.loads(capsys.readouterr().out)["strategies"]
        return found["memory_limit_bytes"], found["switches_per_hour"]

    assert needs() == (100 * MIB, 60)
    assert needs("--switches-per-hour", "7") == (None, 7)


def test_strategies_whose_verdicts_are_open_are_not(tmp_path: Path) -> None:
    report = compared(tmp_path, iterations=5)
    said = "the verdict on memory is inconclusive with reload, isolate"
    assert f"The rule on strategies is silent: {said}." in render_html(report)
    text = to_text(report)
    assert "\n  strategy: silent: the verdict on memory is inconclusive with reload, isolate\n" in text


def test_runs_that_differ_in_something_else_have_no_strategy(tmp_path: Path) -> None:
    for turn, threads in enumerate((1, 2)):
        variant = f"threads-{threads}"
        write_log(tmp_path / variant, run_records(20, threads=threads, variant=variant, turn=turn))
    report = read_report(tmp_path)
    assert report.recommendations == []
    assert "recommendations for" not in to_text(report)
