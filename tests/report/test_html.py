"""The page as a parser sees it: its numbers are the summary's, and what logs say is text."""

from __future__ import annotations

import functools
import html.parser
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from report_examples import HOSTILE, hostile_records, killed_records, replace, run_records, write_log

from asrswitch.plan import Strategy
from asrswitch.records import Record
from asrswitch.report.html import render_html
from asrswitch.report.runs import read_report
from asrswitch.summary import Spread, Summary
from helpers.records import MIB, run_of

MOST_BYTES = 2_000_000
NOT_SHOWN = ("answer_ms", "overhead_ms", "kept_bytes", "retained_anonymous_bytes", "reclaimed_anonymous")


class Page(html.parser.HTMLParser):
    """Texts, figures and tags of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.figures: dict[str, tuple[float, str]] = {}  # value and text by name
        self.scripts: list[str] = []
        self.headers: list[str] = []
        self._texts: list[str] = []
        self._figure: str | None = None
        self._in: list[str] = []
        self.feed(source)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = {name: value or "" for name, value in attrs}
        self.attributes += given.items()
        if tag not in ("meta", "link", "br", "img"):
            self._in.append(tag)
        if tag == "data":
            self._figure = given["data-figure"]
            self.figures[self._figure] = (float(given["value"]), "")

    def handle_endtag(self, tag: str) -> None:
        assert self._in.pop() == tag
        if tag == "data":
            self._figure = None

    def handle_data(self, data: str) -> None:
        if self._in[-1:] == ["script"]:
            self.scripts.append(data)
            return
        if self._in[-1:] == ["style"]:
            return
        self._texts.append(data)
        if self._in[-1:] == ["h1"]:
            self.headers.append(" ".join(data.split()))
        if self._figure:
            self.figures[self._figure] = (self.figures[self._figure][0], data)


class Rendered(NamedTuple):
    page: Page
    source: str
    summary: Summary


MAKERS: dict[str, Callable[[], list[Record]]] = {
    "flat": lambda: run_records(20),
    "leak": lambda: run_records(30, leak_bytes=64 << 10),
    "killed": lambda: killed_records(30),
    "short": lambda: run_records(3),
    "empty": lambda: [run_of(3)],
    "hostile": hostile_records,
    "old": lambda: [replace(record, at=None) for record in run_records()],
    "long": lambda: run_records(600),
}


Pages = Callable[[str], Rendered]


@pytest.fixture(scope="module")
def page_of(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """Pages by what their runs are; each is made once."""

    @functools.cache
    def render(name: str) -> Rendered:
        report = read_report(write_log(tmp_path_factory.mktemp(name), MAKERS[name]()))
        source = render_html(report)
        return Rendered(Page(source), source, report.runs[0].summary)

    return render


@pytest.mark.parametrize("name", ["flat", "leak", "killed"])
def test_figures_are_those_of_the_summary(name: str, page_of: Pages) -> None:
    page, _, summary = page_of(name)
    expected: dict[str, float] = {}
    for model in summary.models:
        expected[f"{model.label}/cycles"] = model.cycles
        for name in model.__struct_fields__:
            value = getattr(model, name)
            if isinstance(value, Spread) and name not in NOT_SHOWN:
                expected[f"{model.label}/{name}"] = value.median
        for name in ("wer", "cer", "peak_bytes"):
            expected[f"{model.label}/{name}"] = getattr(model, name)
    for item in summary.verdicts:
        for name, finding in item.verdict.series.items():
            assert finding.verdict.slope
            expected[f"{item.subject}/{name}/slope"] = finding.verdict.slope.slope
    assert {name: value for name, (value, _) in page.figures.items()} == expected


def test_figures_are_shown_in_their_units(page_of: Pages) -> None:
    flat, leak = page_of("flat").page.figures, page_of("leak").page.figures
    assert flat["a/load_ms"] == (119.0, "119.0 (100.0 to 138.0)")
    assert flat["b/net_growth_bytes"] == (MIB, "1.00")
    assert leak["b/net_growth_bytes"] == (MIB + (64 << 10), "1.06")
    assert (flat["a + b/heap in use/slope"][1], leak["a + b/heap in use/slope"][1]) == ("0 B", "+64.0 KiB")


@pytest.mark.parametrize(
    ("name", "mood", "title"),
    [
        ("flat", "good", "No leak: memory does not grow"),
        ("leak", "bad", "Memory leaks: +64.0 KiB heap in use an iteration"),
        ("killed", "bad", "1 cycle failed. No leak: memory does not grow"),
        ("short", "open", "Not decided: whether memory leaks is not known yet"),
        ("empty", "open", "Not decided: whether memory leaks is not known yet"),
    ],
)
def test_the_verdict_comes_first(name: str, mood: str, title: str, page_of: Pages) -> None:
    page, source, _ = page_of(name)
    assert page.headers[-1] == title
    assert ("class", f"verdict {mood}") in page.attributes
    assert len(Page(source[: source.index("</header>")]).text) < 1_200


def test_a_killed_worker_is_told_with_its_cause(page_of: Pages) -> None:
    page = page_of("killed").page
    assert "a transcribe died, SIGKILL – 1 4 4 was ended by SIGKILL" in page.text


def test_what_a_log_says_is_text(page_of: Pages) -> None:
    page, source, _ = page_of("hostile")
    tame = page_of("flat").page
    assert page.tags.count("script") == tame.tags.count("script")
    assert "img" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert HOSTILE not in source
    assert HOSTILE in page.text
    assert not any("<script>alert(1)" in script for script in page.scripts)


def test_differences_to_the_reference_are_marked(page_of: Pages) -> None:
    page, source, _ = page_of("hostile")
    assert page.tags.count("ins") > 1
    tame = page_of("flat").page
    assert tame.tags.count("ins") == 1  # in the explanation
    assert "(no difference)" in tame.text
    assert 'title="not in the reference"> x</ins>' in source


def test_only_the_pages_own_scripts_may_run_and_nothing_is_fetched(page_of: Pages) -> None:
    page, source, _ = page_of("flat")
    policy = next(value for name, value in page.attributes if value.startswith("default-src"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert policy.count("'sha256-") == len(page.scripts) == page.tags.count("script")
    assert "unsafe-eval" not in policy
    urls = {value for name, value in page.attributes if name in ("src", "href")}
    assert urls == {"data:,"}
    assert not re.search(r"@import|url\((?!data:)", source[: source.index("</style>")])


@pytest.mark.slow
def test_a_long_run_is_thinned(page_of: Pages) -> None:
    page, source, _ = page_of("long")
    assert "of each stretch the lowest and the highest are drawn" in page.text
    assert len(source.encode()) < MOST_BYTES


@pytest.mark.slow
def test_many_runs_fit_too(tmp_path: Path) -> None:
    for turn in range(12):
        variant = f"threads-{turn + 1}"
        write_log(tmp_path / variant, run_records(100, threads=turn + 1, variant=variant, turn=turn))
    source = render_html(read_report(tmp_path))
    assert len(source.encode()) < MOST_BYTES
    assert "Not shown one by one" in source
    assert "threads-12" in source


def test_strategies_are_compared_with_a_chart_and_the_recommendation(tmp_path: Path) -> None:
    for turn, strategy in enumerate((Strategy.RELOAD, Strategy.RESIDENT)):
        records = run_records(20, strategy=strategy, variant=strategy.value, turn=turn)
        write_log(tmp_path / strategy.value, records)
    report = read_report(tmp_path)
    source = render_html(report)
    page = Page(source)
    assert report.strategies
    assert report.strategies.recommendation[1:] in page.text
    assert "a turn, ms 154.0" in page.text
    assert "load and release" in page.scripts[-1]


def test_a_log_of_before_times_were_written_still_shows(page_of: Pages) -> None:
    page = page_of("old").page
    assert "This log has no times of its readings." in page.text
