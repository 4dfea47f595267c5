"""A report as one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from importlib import resources

import jinja2
import msgspec
import numpy as np
from bokeh.embed import components
from bokeh.plotting import figure
from bokeh.resources import Resources
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from asrswitch import __version__
from asrswitch.judged import judged_readings
from asrswitch.records import Failure, Point
from asrswitch.report import charts, series
from asrswitch.report.console import passed, proof, render_allocators, render_strategies, reported_names
from asrswitch.report.differences import Transcripts, transcripts
from asrswitch.report.headline import Headline, headline, run_headline
from asrswitch.report.recommendations import figure_texts, merged
from asrswitch.report.runs import Report, ReportedRun
from asrswitch.report.series import Moment
from asrswitch.report.tables import machine_facts, method, side_by_side
from asrswitch.report.units import MIB, REPORTED_FORM, growth, reported_title
from asrswitch.rules.result import RuleResult
from asrswitch.stats.trend import Slope
from asrswitch.stats.verdict import SEVERITY
from asrswitch.summary import ModelSummary, Spread, SubjectVerdict
from asrswitch.turns import turns_of

_MOST_ROWS = 60  # of a table behind a chart
_MOST_RUNS = 5  # that are shown one by one
_MOST_SUBJECTS = 6  # of verdicts: where models stay loaded, each is judged by itself
_MOST_CHARACTERS = 60_000  # of texts
_LONGEST_MESSAGE = 500
_MOST_FAILURES = 10  # kinds
_TIMES = {
    "load_ms": "load",
    "ttft_ms": "TTFT",
    "inference_ms": "inference",
    "switch_ms": "switch",
    "unload_ms": "unload",
}
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_FIGURES: tuple[tuple[str, str, str, float], ...] = (  # name, title with unit, format, scale
    ("load_ms", "load, ms", ",.1f", 1),
    ("ttft_ms", "TTFT, ms", ",.1f", 1),
    ("inference_ms", "inference, ms", ",.1f", 1),
    ("first_inference_ms", "first inference, ms", ",.1f", 1),
    ("first_callback_ms", "first callback, ms", ",.1f", 1),
    ("chars_per_s", "chars/s", ",.1f", 1),
    ("tokens_per_s", "tokens/s", ",.1f", 1),
    ("rtf", "RTF", ".3g", 1),
    ("unload_ms", "unload, ms", ",.1f", 1),
    ("restart_ms", "restart, ms", ",.1f", 1),
    ("switch_ms", "switch, ms", ",.1f", 1),
    ("load_overhead_bytes", "load overhead, MiB", ",.2f", MIB),
    ("unload_release_bytes", "unload release, MiB", ",.2f", MIB),
    ("net_growth_bytes", "net growth, MiB", ",.2f", MIB),
    ("gpu_overhead_bytes", "GPU, load overhead, MiB", ",.2f", MIB),
    ("gpu_growth_bytes", "GPU, net growth, MiB", ",.2f", MIB),
    ("retained_bytes", "retained, MiB", ",.2f", MIB),
    ("reclaimed", "reclaimed, %", ",.1f", 0.01),
    ("read_bytes", "read from disk, MiB", ",.2f", MIB),
)


class Cell(msgspec.Struct, frozen=True):
    """What a table shows, and where that is a figure of the summary its name and full value."""

    text: str
    name: str | None = None
    value: float | None = None


class Grid(msgspec.Struct, frozen=True):
    """A table: the first column names the row."""

    headers: list[str]
    rows: list[list[Cell]]
    note: str = ""


class Picture(msgspec.Struct, frozen=True):
    """A chart by the key of its division, what it shows, and the table behind it."""

    keys: list[str]
    caption: str
    grid: Grid


class Section(msgspec.Struct, frozen=True):
    """All that is shown of one run."""

    name: str
    labels: list[str]  # of the models
    headline: Headline
    figures: Grid
    verdicts: list[Grid]
    memory: list[Picture]
    unloads: list[Picture]
    times: list[Picture]
    texts: list[Transcripts]
    synthetic: list[str]
    recommendations: list[Grid]  # what the rules say, and what they compare with
    failures: Grid | None
    warnings: list[str]
    method: list[tuple[str, str]]
    machine: list[tuple[str, str]]


class _Charts:
    """The page's charts by key."""

    def __init__(self) -> None:
        self.by_key: dict[str, figure] = {}

    def add(self, chart: figure) -> str:
        key = f"chart{len(self.by_key) + 1}"
        self.by_key[key] = chart
        return key


def render_html(report: Report) -> str:
    """The page. What logs say (labels, texts, messages) is escaped, and scripts besides ours are not run."""
    drawn = _Charts()
    alone = len(report.runs) == 1
    shown = report.runs[:_MOST_RUNS]
    sections = [_section(run, report.recommendations, drawn, len(shown)) for run in shown]
    comparison, compared = _comparison(report, drawn)
    times = [] if alone else _times_pictures(shown, drawn)
    script, divisions = components(drawn.by_key, wrap_script=False) if drawn.by_key else ("", {})
    scripts = [*_library(), script]
    return _template().render(
        title=f"asrswitch: {report.path.absolute().name}",
        version=__version__,
        report=report,
        headline=headline(report),
        alone=alone,
        sections=sections,
        left_out=[run.name for run in report.runs[_MOST_RUNS:]],
        comparison=comparison,
        compared=compared,
        times=times,
        charts={key: Markup(division) for key, division in divisions.items()},
        style=Markup(_text("report.css")),
        scripts=[Markup(source) for source in scripts],
        hashes=[_hash(source) for source in scripts],
    )


def _section(run: ReportedRun, overall: Sequence[RuleResult], drawn: _Charts, of: int) -> Section:
    """One run, in as much detail as there is room for beside the others."""
    summary = run.summary
    return Section(
        name=run.name,
        labels=[model.label for model in summary.models],
        headline=run_headline(summary),
        figures=_figures(summary.models),
        verdicts=[_verdict_grid(item) for item in summary.verdicts],
        memory=_memory_pictures(run, drawn, of),
        unloads=_unload_pictures(run, drawn, of),
        times=_times_pictures([run], drawn) if of == 1 else [],
        texts=transcripts(run.records, _MOST_CHARACTERS // of),
        synthetic=[model.label for model in summary.models if model.synthetic],
        recommendations=_recommendations([*run.recommendations, *(overall if of == 1 else [])]),
        failures=_failures(summary.failures) if summary.failures else None,
        warnings=summary.warnings,
        method=method(run),
        machine=machine_facts(run),
    )


def _figures(models: Sequence[ModelSummary]) -> Grid:
    """Medians with their extremes, a column a model."""
    rows = [[Cell("cycles"), *(Cell(f"{m.cycles:,}", f"{m.label}/cycles", m.cycles) for m in models)]]
    for name, title, form, scale in _FIGURES:
        spreads: list[Spread | None] = [getattr(model, name) for model in models]
        if any(spreads):
            cells = [
                _spread(f"{model.label}/{name}", spread, form, scale)
                for model, spread in zip(models, spreads, strict=True)
            ]
            rows.append([Cell(title), *cells])
    for name in reported_names(models):
        told = [
            _spread(f"{model.label}/reported_{name}", model.reported.get(name), REPORTED_FORM, 1)
            for model in models
        ]
        rows.append([Cell(reported_title(name)), *told])
    for name in ("wer", "cer"):
        rates: list[float | None] = [None if m.synthetic else getattr(m, name) for m in models]
        if any(rate is not None for rate in rates):
            cells = [
                Cell("–") if rate is None else Cell(f"{rate * 100:.1f}", f"{model.label}/{name}", rate)
                for model, rate in zip(models, rates, strict=True)
            ]
            rows.append([Cell(f"{name.upper()}, %"), *cells])
    if any(model.checked for model in models):
        rows.append([Cell("checks passed"), *(Cell(passed(model)) for model in models)])
    if any(model.cache for model in models):
        rows.append([Cell("loads from"), *(Cell(proof(model.cache)) for model in models)])
    peaks = [
        Cell("–")
        if model.peak_bytes is None
        else Cell(f"{model.peak_bytes / MIB:,.1f}", f"{model.label}/peak_bytes", model.peak_bytes)
        for model in models
    ]
    rows.append([Cell("peak while it is loaded, MiB"), *peaks])
    return Grid(["median (lowest to highest)", *(model.label for model in models)], rows)


def _spread(name: str, spread: Spread | None, form: str, scale: float) -> Cell:
    if spread is None:
        return Cell("–")
    low, middle, high = (f"{v / scale:{form}}" for v in (spread.minimum, spread.median, spread.maximum))
    return Cell(middle if low == high else f"{middle} ({low} to {high})", name, spread.median)


def _verdict_grid(item: SubjectVerdict) -> Grid:
    """All that were judged, with the numbers behind the words."""
    rows = []
    for name, finding in item.verdict.series.items():
        found, is_count = finding.verdict, name in item.verdict.counts
        rows.append(
            [
                Cell(name),
                Cell(found.word.value),
                _slope(f"{item.subject}/{name}/slope", found.slope, lambda slope: slope.slope, is_count),
                Cell(f"{growth(found.slope.low, is_count)} to {growth(found.slope.high, is_count)}")
                if found.slope
                else Cell("–"),
                Cell("–" if found.detectable is None else growth(found.detectable, is_count).lstrip("+")),
                Cell(growth(found.warmup_growth, is_count)),
                Cell(f"{found.warmup_iterations:,} of {found.iterations:,}"),
                Cell(found.reason),
            ]
        )
    headers = [
        item.subject, "verdict", "an iteration", "95 % interval", "would show from", "rose in warm-up",
        "warm-up, iterations", "why",
    ]  # fmt: skip
    return Grid(headers, rows)


def _slope(name: str, slope: Slope | None, part: Callable[[Slope], float], is_count: bool) -> Cell:
    return Cell("–") if slope is None else Cell(growth(part(slope), is_count), name, part(slope))


def _memory_pictures(run: ReportedRun, drawn: _Charts, of: int) -> list[Picture]:
    moments = series.moments(run.records)
    if not moments:
        return []
    marks = series.marks(run.records)
    most = charts.MOST_MOMENTS // min(of, 2)
    drawn_as = "" if len(moments) <= most else "; of each stretch the lowest and the highest are drawn"
    readings = sum(moment.measured for moment in moments)
    counts = f"{readings:,} readings and {len(moments) - readings:,} samples{drawn_as}"
    grid = _memory_grid(run, of)
    whole = Picture(
        [drawn.add(charts.memory_chart(moments, marks, most=most))], f"The whole run: {counts}.", grid
    )
    ends = _ends(moments) if of == 1 else []
    if not ends:
        return [whole]
    top = max(moment.total for part in ends for moment in part)
    keys = [drawn.add(charts.memory_chart(part, [], top)) for part in ends]
    first, last = (part[-1].iteration for part in ends)
    caption = f"Iteration {first:,} and iteration {last:,} by themselves, their phases shaded."
    return [whole, Picture(keys, caption, _moments_grid(ends))]


def _ends(moments: Sequence[Moment]) -> list[Sequence[Moment]]:
    """The first iteration and the last that came to its end, each with the moment before it.

    With `restart`, where the models have their iterations one after the other, it is that of one model. A run
    of two or fewer has none: the chart of the whole shows as much.
    """
    whole = []
    begin = 0
    for _, group in itertools.groupby(moments, lambda moment: moment.iteration):
        end = begin + len(list(group))
        if end - begin > 2 and moments[end - 1].phase == "unload":
            whole.append(moments[max(0, begin - 1) : end])
        begin = end
    return [whole[0], whole[-1]] if len(whole) > 2 else []


def _memory_grid(run: ReportedRun, of: int) -> Grid:
    turns = turns_of(run.records)
    points: tuple[Point, ...] = ("before_load", "after_load", "after_infer", "after_unload")
    kept = _evenly(len(turns), of)
    rows = []
    for index in kept:
        turn = turns[index]
        cells = [
            Cell(f"{turn.readings[point].rss_bytes / MIB:,.2f}" if point in turn.readings else "–")
            for point in points
        ]
        peak = "–" if turn.peak_rss_bytes is None else f"{turn.peak_rss_bytes / MIB:,.2f}"
        rows.append([Cell(f"{turn.cycle + 1:,}"), Cell(turn.model), *cells, Cell(peak)])
    headers = ["cycle", "model", "before load", "loaded", "transcribed", "unloaded", "peak"]
    return Grid(headers, rows, f"Resident memory, MiB. {_of(len(kept), len(turns), 'cycles')}")


def _moments_grid(ends: Sequence[Sequence[Moment]]) -> Grid:
    rows = []
    for moment in (moment for part in ends for moment in part if moment.measured):
        holders = [Cell(f"{value / MIB:,.2f}") for value in moment.holders]
        rows.append([
            Cell(f"{moment.iteration:,}"), Cell(moment.model), Cell(moment.phase), Cell(f"{moment.s:,.3f}"),
            *holders, Cell(f"{moment.total / MIB:,.2f}"),
        ])  # fmt: skip
    kept = _evenly(len(rows), 1)
    headers = ["iteration", "model", "after", "at, s", *series.HOLDERS, "resident"]
    return Grid(headers, [rows[index] for index in kept], f"MiB. {_of(len(kept), len(rows), 'readings')}")


def _unload_pictures(run: ReportedRun, drawn: _Charts, of: int) -> list[Picture]:
    """Resident memory, the heap in use, and what explains the verdict; of several runs the last alone."""
    pictures = []
    readings = judged_readings(run.records).subjects
    plan, machine = run.plan, run.run.machine
    limit = min(machine.memory_limit_bytes, plan.memory_limit_bytes or machine.memory_limit_bytes)
    gravest = sorted(run.summary.verdicts, key=lambda item: -SEVERITY.index(item.verdict.word))
    for item in gravest[: max(1, _MOST_SUBJECTS // of)]:
        verdict = item.verdict
        values = series.judged_series(readings[item.subject])
        leading = verdict.leading or "resident memory"
        shown = dict.fromkeys(["resident memory", "heap in use", leading] if of == 1 else [leading])
        keys = []
        for name in shown:
            if name in values and name in verdict.series and len(values[name]):
                found, is_count = verdict.series[name].verdict, name in verdict.counts
                line = series.fit(values[name], found)
                keys.append(drawn.add(charts.unload_chart(name, values[name], found, line, limit, is_count)))
        if keys:
            left = (
                ""
                if verdict.iterations_to_limit is None
                else (
                    f" At this slope memory runs out after {verdict.iterations_to_limit:,} more iterations."
                )
            )
            caption = (
                f"{item.subject}: read after the last unload of each iteration. Grey is warm-up, not "
                f"judged; the memory limit is {limit / MIB:,.0f} MiB.{left}"
            )
            pictures.append(Picture(keys, caption, _series_grid(values, verdict.counts, of)))
    return pictures


def _series_grid(values: dict[str, series.Floats], counts: set[str], of: int) -> Grid:
    names = list(values)
    length = len(values[names[0]])
    kept = _evenly(length, of)
    rows = [
        [
            Cell(f"{index + 1:,}"),
            *(
                Cell(f"{values[name][index]:,.0f}" if name in counts else f"{values[name][index] / MIB:,.3f}")
                for name in names
            ),
        ]
        for index in kept
    ]
    headers = ["iteration", *(name if name in counts else f"{name}, MiB" for name in names)]
    return Grid(headers, rows, _of(len(kept), length, "iterations"))


def _labels(runs: Sequence[ReportedRun]) -> list[str]:
    return list(dict.fromkeys(model.label for run in runs for model in run.plan.models))


def _times_of(runs: Sequence[ReportedRun]) -> dict[str, dict[tuple[str, str], list[float]]]:
    """By figure, then by run and model."""
    found: dict[str, dict[tuple[str, str], list[float]]] = {}
    for run in runs:
        for name, by_model in series.times(run).items():
            found.setdefault(name, {}).update({(run.name, label): by_model[label] for label in by_model})
    return found


def _times_pictures(runs: Sequence[ReportedRun], drawn: _Charts) -> list[Picture]:
    """A chart for each figure; a model looks the same in all runs."""
    pictures = []
    labels, times = _labels(runs), _times_of(runs)
    for name, title in _TIMES.items():
        if name not in times:
            continue
        names = {key: ", ".join(key) if len(runs) > 1 else key[1] for key in times[name]}
        rows = []
        for key, values in times[name].items():
            quantiles = np.quantile(np.asarray(values, float), _QUANTILES)
            rows.append([
                Cell(names[key]), Cell(f"{len(values):,}"), *(Cell(f"{value:,.2f}") for value in quantiles)
            ])  # fmt: skip
        headers = [f"{title}, ms", "number", "lowest", "5 %", "25 %", "median", "75 %", "95 %", "highest"]
        styles = [labels.index(label) for _, label in names]
        by_name = {names[key]: values for key, values in times[name].items()}
        chart = charts.times_chart(title, by_name, styles)
        pictures.append(Picture([drawn.add(chart)], "", Grid(headers, rows)))
    return pictures


def _comparison(report: Report, drawn: _Charts) -> tuple[Grid | None, list[str]]:
    """The table of several runs, the keys of its charts among the strings before the notes."""
    if report.strategies:
        pair = charts.strategies_chart(report.strategies.strategies)
        keys = [drawn.add(chart) for chart in pair] if pair else []
        return _grid(_first_table(render_strategies(report.strategies))), keys
    if report.allocators:
        return _grid(_first_table(render_allocators(report.allocators))), []
    return (_grid(side_by_side(report.runs)), []) if len(report.runs) > 1 else (None, [])


def _first_table(parts: Iterable[object]) -> Table:
    return next(part for part in parts if isinstance(part, Table))


def _grid(table: Table) -> Grid:
    def plain(cell: object) -> str:
        return cell.plain if isinstance(cell, Text) else str(cell)

    rows = zip(*([Cell(plain(cell)) for cell in column.cells] for column in table.columns), strict=True)
    return Grid([plain(column.header) for column in table.columns], [list(row) for row in rows])


def _recommendations(results: Sequence[RuleResult]) -> list[Grid]:
    """What the rules say, and what they compare with."""
    said = [[Cell(item.rule), Cell(item.says), Cell(item.figures)] for item in merged(results)]
    limits = {result.rule: result for result in results if result.outcome is not None}
    thresholds = [
        [Cell(result.rule), Cell(figure_texts(result.thresholds)), Cell(result.source)]
        for result in limits.values()
    ]
    return [
        Grid(["rule", "it says", "by these figures"], said),
        Grid(["rule", "thresholds", "which are from"], thresholds),
    ]


def _failures(failures: Sequence[Failure]) -> Grid:
    """Those that are alike once, most frequent first."""
    groups: dict[tuple[str, ...], list[Failure]] = {}
    for failure in failures:
        what = ", ".join(word for word in (failure.kind, failure.signal) if word)
        want = "out of memory" if failure.out_of_memory else ""
        groups.setdefault((failure.model, failure.phase, what, want, failure.message), []).append(failure)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    rows = [
        [
            *(Cell(word) for word in (model, phase, what, want or "–")),
            Cell(f"{len(those):,}"),
            Cell(f"{those[0].iteration:,}"),
            Cell(f"{those[-1].iteration:,}"),
            Cell(message[:_LONGEST_MESSAGE]),
        ]
        for (model, phase, what, want, message), those in ordered[:_MOST_FAILURES]
    ]
    headers = ["model", "phase", "what", "cause", "times", "first iteration", "last", "message"]
    more = len(groups) - len(rows)
    return Grid(headers, rows, f"{more:,} more kinds are in the log." if more else "")


def _evenly(count: int, of: int) -> list[int]:
    """Some indices, the first and the last among them; fewer in a table that is one of several."""
    most = _MOST_ROWS // of
    return (
        sorted({round(place) for place in np.linspace(0, count - 1, most)})
        if count > most
        else [*range(count)]
    )


def _of(shown: int, count: int, noun: str) -> str:
    if shown == count:
        return ""
    return f"{shown} of {count:,} {noun}; `report --format csv --rows turns` gives all."


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_text("report.html.jinja"))


@functools.cache
def _library() -> tuple[str, ...]:
    """The charting library's own code, of which the core is enough."""
    return tuple(Resources(mode="inline", components=["bokeh"]).js_raw)


def _text(name: str) -> str:
    return resources.files("asrswitch.report").joinpath(name).read_text(encoding="utf-8")


@functools.lru_cache(8)
def _hash(source: str) -> str:
    """What the page's security policy knows a script by: no other runs, whatever a log says."""
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"
