"""Reports opened in a real browser: they draw, complain of nothing and fetch nothing."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import NAMES, Browser, find
from report_examples import hostile_records, killed_records, run_records, write_log

from asrswitch.plan import Strategy
from asrswitch.records import Record
from asrswitch.report.html import render_html
from asrswitch.report.runs import Report, read_report
from asrswitch.summary import Spread

pytestmark = pytest.mark.browser

SIZES = [(1280, 800), (390, 844)]
MAKERS: dict[str, Callable[[], list[Record]]] = {
    "flat": lambda: run_records(50),
    "leak": lambda: run_records(50, leak_bytes=64 << 10),
    "killed": lambda: killed_records(50),
    "hostile": hostile_records,
}
# In the charts' shadow trees: how many there are, and how many have something drawn on them.
CANVASES = """(() => {
  const found = [];
  const walk = node => {
    if (node.tagName === "CANVAS" && node.width && node.height) found.push(node);
    if (node.shadowRoot) walk(node.shadowRoot);
    for (const child of node.children ?? []) walk(child);
  };
  walk(document.body);
  const drawn = found.filter(canvas => {
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    return pixels.some(value => value);
  });
  return [Bokeh.documents.flatMap(d => d.roots()).length, drawn.length];
})()"""
TOOLTIPS = """(() => {
  const found = [];
  const walk = node => {
    if (node.classList?.contains("bk-Tooltip")) found.push(node.shadowRoot.textContent);
    if (node.shadowRoot) walk(node.shadowRoot);
    for (const child of node.children ?? []) walk(child);
  };
  walk(document.documentElement);
  return found.join(" ");
})()"""
# Of each legend, the middle of its first entry.
LEGEND_ENTRIES = """(() => {
  const found = [];
  const walk = node => {
    if (node.classList?.contains("bk-Legend")) {
      const box = node.shadowRoot.querySelector(".bk-item").getBoundingClientRect();
      found.push([box.x + box.width / 2, box.y + box.height / 2]);
    }
    if (node.shadowRoot) walk(node.shadowRoot);
    for (const child of node.children ?? []) walk(child);
  };
  walk(document.documentElement);
  return found;
})()"""
# In Bokeh's documents: how many series are hidden.
HIDDEN = """Bokeh.documents.flatMap(document => document.roots()).flatMap(
  root => root.renderers ?? []).filter(series => !series.visible).length"""
FIGURES = """Object.fromEntries([...document.querySelectorAll("data")].map(
  node => [node.dataset.figure, Number(node.value)]))"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find()
    if program is None:
        pytest.fail(f"none of {', '.join(NAMES)} is installed: apt-get install chromium")
    with Browser(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Report, Path]]:
    """Reports by what their runs are, and their pages; each is made once."""

    @functools.cache
    def make(name: str) -> tuple[Report, Path]:
        directory = tmp_path_factory.mktemp(name)
        if name == "strategies":
            for turn, strategy in enumerate(Strategy):
                records = run_records(20, strategy=strategy, variant=strategy.value, turn=turn)
                write_log(directory / strategy.value, records)
        else:
            write_log(directory, MAKERS[name]())
        report = read_report(directory)
        page = directory / "report.html"
        page.write_text(render_html(report), encoding="utf-8")
        return report, page

    return make


Reports = Callable[[str], tuple[Report, Path]]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("name", [*MAKERS, "strategies"])
def test_a_page_draws_its_charts_and_complains_of_nothing(
    name: str, width: int, height: int, browser: Browser, reports: Reports, tmp_path: Path
) -> None:
    """``--basetemp DIR`` keeps the pictures, for a look at them."""
    _, page = reports(name)
    browser.open(page, width, height)
    charts, drawn = browser.evaluate(CANVASES)
    assert drawn >= charts > 5
    assert browser.complaints == []
    assert browser.evaluate("document.documentElement.scrollWidth") == width  # nothing hangs over the side
    picture = tmp_path / f"{name}-{width}.png"
    browser.screenshot(picture)
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (width, height)


@pytest.mark.parametrize("name", [*MAKERS, "strategies"])
def test_a_page_asks_the_network_for_nothing(name: str, browser: Browser, reports: Reports) -> None:
    _, page = reports(name)
    browser.open(page, *SIZES[0])
    assert browser.requests[0] == page.as_uri()
    assert all(url.startswith("data:") for url in browser.requests[1:])


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("name", [*MAKERS, "strategies"])
def test_the_verdict_is_seen_without_scrolling(
    name: str, width: int, height: int, browser: Browser, reports: Reports
) -> None:
    _, page = reports(name)
    browser.open(page, width, height)
    bottom = browser.evaluate("document.querySelector('header.verdict').getBoundingClientRect().bottom")
    assert 0 < bottom < height


@pytest.mark.parametrize("name", ["flat", "leak", "killed"])
def test_the_numbers_on_the_page_are_the_summarys(name: str, browser: Browser, reports: Reports) -> None:
    report, page = reports(name)
    browser.open(page, *SIZES[0])
    shown = browser.evaluate(FIGURES)
    (run,) = report.runs
    for model in run.summary.models:
        for figure in ("load_ms", "ttft_ms", "switch_ms", "unload_ms", "tokens_per_s", "net_growth_bytes"):
            spread = getattr(model, figure)
            assert isinstance(spread, Spread)
            assert shown[f"{model.label}/{figure}"] == spread.median
        assert shown[f"{model.label}/peak_bytes"] == model.peak_bytes
    for item in run.summary.verdicts:
        for series, finding in item.verdict.series.items():
            assert finding.verdict.slope
            assert shown[f"{item.subject}/{series}/slope"] == finding.verdict.slope.slope


def test_pointing_at_a_chart_tells_its_numbers(browser: Browser, reports: Reports) -> None:
    _, page = reports("leak")
    browser.open(page, 1280, 5_000)
    for place, words in ((0, ["resident", "heap in use", "MiB", "iteration"]), (3, ["iteration", "MiB"])):
        box = browser.evaluate(
            f"(() => {{ const box = document.querySelectorAll('.chart')[{place}].getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 3]; })()"
        )
        browser.point_at(5, 5)
        browser.point_at(*box)
        told = browser.evaluate(f"new Promise(done => setTimeout(() => done({TOOLTIPS}), 300))")
        for word in words:
            assert word in told


def test_a_click_on_a_legend_hides_a_series_and_another_shows_it(browser: Browser, reports: Reports) -> None:
    _, page = reports("leak")
    browser.open(page, 1280, 5_000)
    places = browser.evaluate(LEGEND_ENTRIES)
    assert len(places) >= 3
    before = browser.evaluate(HIDDEN)
    for place in places:
        browser.click(*place)
        assert browser.evaluate(HIDDEN) > before
        browser.click(*place)
        assert browser.evaluate(HIDDEN) == before


def test_labels_and_texts_of_a_log_run_nothing(browser: Browser, reports: Reports) -> None:
    _, page = reports("hostile")
    browser.open(page, *SIZES[0])
    assert browser.evaluate("document.images.length") == 0
    assert browser.evaluate("document.querySelectorAll('ins').length") > 1
    assert "alert(1)" in browser.evaluate("document.body.innerText")
    assert browser.complaints == []  # a script that was held up would be one


def test_a_page_prints(browser: Browser, reports: Reports, tmp_path: Path) -> None:
    _, page = reports("leak")
    browser.open(page, *SIZES[0])
    printed = tmp_path / "page.pdf"
    browser.print(printed)
    assert printed.read_bytes().startswith(b"%PDF")
    assert 2 <= printed.read_bytes().count(b"/Type /Page\n") <= 8
