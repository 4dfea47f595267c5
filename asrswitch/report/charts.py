"""The report's charts: bokeh figures, made of series that are thin enough to send by mail.

Colours are Okabe and Ito's (2008), which the colour-blind tell apart; what they tell is told by hatching,
dashes or markers too, so that a print in black and white says the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from bokeh.models import (
    BasicTickFormatter,
    BoxAnnotation,
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    Label,
    Legend,
    LegendItem,
    Range1d,
    Span,
)
from bokeh.plotting import figure

from asrswitch.report.series import HOLDERS, Fit, Floats, Mark, Moment, thin
from asrswitch.report.units import MIB
from asrswitch.stats.series import SeriesVerdict
from asrswitch.strategies import StrategyFigures

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
_HOLDER_STYLES = ((SKY, " "), (VERMILION, "/"), (ORANGE, "."), (GREEN, "x"))  # colour and hatching
_MODEL_STYLES = (
    (BLUE, "circle"),
    (VERMILION, "triangle"),
    (GREEN, "square"),
    (PURPLE, "diamond"),
    (BLACK, "x"),
)
_PHASE_GREYS = {"load": 0.16, "transcribe": 0.07, "unload": 0.24}
MOST_MOMENTS = 800
_MOST_READINGS = 500
_FEWEST_TIMES = 20
_MOST_TIMES = 600  # of all names of a chart
_SHADED_MOMENTS = 160  # of more, phases would be stripes that nobody can tell apart
_ROOM_FOR_A_NAME = 0.12  # of the chart's width
_NAMED_READINGS = 16
_LONGEST_NAME = 24
_LIMIT_IN_SIGHT = 3.0  # times the highest reading
_LOG_RATIO = 10.0


def memory_chart(
    moments: Sequence[Moment],
    marks: Sequence[Mark],
    top: float | None = None,
    most: int = MOST_MOMENTS,
) -> figure:
    """Memory by holder over time, with the phases shaded where there are few enough to be seen.

    Args:
        moments: in order; of many, the lowest and the highest of each stretch are drawn.
        marks: failures.
        top: bytes that the axis reaches to, in charts to be compared, which go without a legend.
        most: moments that are drawn.
    """
    totals, places = [moment.total for moment in moments], [moment.s for moment in moments]
    kept = [moments[index] for index in thin(totals, most, places)]
    shaded = len(moments) <= _SHADED_MOMENTS
    begin = kept[0].s
    span = kept[-1].s - begin
    unit, seconds = ("min", 60.0) if kept[-1].s > 600 else ("s", 1.0)
    chart = _figure(f"time since the run began, {unit}", "resident memory, MiB", height=390)
    times = np.array([moment.s / seconds for moment in kept], np.float64)
    holders = np.array([moment.holders for moment in kept], float) / MIB  # [n, holders]
    data: dict[str, object] = {
        "time": times,
        "total": _single(holders.sum(axis=1)),
        "phase": [moment.phase for moment in kept],
        "iteration": [moment.iteration for moment in kept],
        "model": [moment.model for moment in kept],
        "how": ["reading" if moment.measured else "sample" for moment in kept],
    }
    tops = np.cumsum(holders, axis=1)
    for index, name in enumerate(HOLDERS):
        data[name] = _single(holders[:, index])
        data[f"top {index}"] = _single(tops[:, index])
    data["top -1"] = np.zeros(len(kept), np.float32)
    source = ColumnDataSource(data)
    items = []
    for index, (name, (colour, hatch)) in enumerate(zip(HOLDERS, _HOLDER_STYLES, strict=True)):
        area = chart.varea(
            "time", f"top {index - 1}", f"top {index}", source=source, fill_color=colour, fill_alpha=0.75,
            hatch_pattern=hatch, hatch_color=BLACK, hatch_alpha=0.35, hatch_scale=9, hatch_weight=0.7,
        )  # fmt: skip
        items.append(LegendItem(label=name, renderers=[area]))
    alpha = 0.8 if shaded else 0.45  # many lines would hide what they are around
    outline = chart.line("time", "total", source=source, color=BLACK, line_width=1, line_alpha=alpha)
    items.append(LegendItem(label="resident", renderers=[outline]))
    if marks:
        at = ColumnDataSource(
            {
                "time": [mark.s / seconds for mark in marks[:_MOST_READINGS]],
                "height": np.zeros(min(len(marks), _MOST_READINGS), np.float32),
                "text": [mark.text[:200] for mark in marks[:_MOST_READINGS]],
            }
        )
        crosses = chart.scatter("time", "height", source=at, marker="x", size=12, line_width=3, color=BLACK)
        items.append(LegendItem(label="failure", renderers=[crosses]))
        chart.add_tools(HoverTool(renderers=[crosses], tooltips=[("failure", "@text")]))
    tooltips = [
        ("time", f"@time{{0,0.000}} {unit}"),
        ("", "@phase, iteration @iteration, @model (@how)"),
        ("resident", "@total{0,0.00} MiB"),
        *((name, f"@{{{name}}}{{0,0.00}} MiB") for name in reversed(HOLDERS)),
    ]
    chart.add_tools(HoverTool(renderers=[outline], tooltips=tooltips, mode="vline", line_policy="nearest"))
    highest = top / MIB if top else float(holders.sum(axis=1).max())
    chart.y_range = Range1d(0, max(highest * (1.2 if shaded else 1.06), 1e-3))
    if shaded:
        _shade(chart, kept, seconds, highest)
    margin = max(span, 1e-3) * 0.01
    chart.x_range = Range1d((begin - margin) / seconds, (kept[-1].s + margin) / seconds)
    if top is None:
        _add_legend(chart, items)
    return chart


def unload_chart(
    name: str, series: Floats, verdict: SeriesVerdict, fit: Fit | None, limit_bytes: int, is_count: bool
) -> figure:
    """One judged series by iteration: readings, warm-up, slope with its interval, the limit if in sight."""
    scale = 1 if is_count else MIB
    unit = "" if is_count else ", MiB"
    chart = _figure("iteration", f"{name}{unit}", height=300)
    kept = thin(series, _MOST_READINGS)
    values = series[kept] / scale
    iterations = np.array(kept) + 1
    warm = verdict.warmup_iterations
    items = []
    if fit:
        band = chart.varea(
            fit.iterations, _over(fit.low, scale), _over(fit.high, scale), fill_color=ORANGE, fill_alpha=0.45,
            hatch_pattern="/", hatch_color=BLACK, hatch_alpha=0.25, hatch_scale=8, hatch_weight=0.5,
        )  # fmt: skip
        items.append(LegendItem(label="its 95 % interval", renderers=[band]))
    source = ColumnDataSource({"iteration": iterations, "value": _single(values)})
    dots = chart.scatter(
        "iteration", "value", source=source, size=6, marker="circle", color=BLUE, fill_alpha=0.3
    )
    if fit:
        line = chart.line(
            fit.iterations, _over(fit.middle, scale), color=VERMILION, line_width=2.5, line_dash="dashed"
        )
        items.insert(0, LegendItem(label="slope after warm-up", renderers=[line]))
    items.insert(0, LegendItem(label="after unload", renderers=[dots]))
    digits = "0" if is_count else "0.000"
    tooltips = [("iteration", "@iteration"), (name, f"@value{{0,{digits}}}{unit.removeprefix(',')}")]
    chart.add_tools(HoverTool(renderers=[dots], tooltips=tooltips, mode="vline"))
    lowest, highest = float(values.min()), float(values.max())
    if fit:
        lowest = min(lowest, *(value / scale for value in fit.low))
        highest = max(highest, *(value / scale for value in fit.high))
    limit = limit_bytes / scale
    if not is_count and limit <= _LIMIT_IN_SIGHT * highest:
        chart.add_layout(Span(location=limit, dimension="width", line_width=2, line_dash="dotdash"))
        chart.add_layout(_label(1, limit, "memory limit"))
        highest = max(highest, limit)
    if warm:
        chart.add_layout(BoxAnnotation(right=warm + 0.5, fill_color="#888888", fill_alpha=0.15))
        chart.add_layout(Span(location=warm + 0.5, dimension="height", line_dash="dotted", line_width=1.5))
    # A flat series must look flat: noise of a page would fill the chart otherwise.
    room = max((highest - lowest) * 0.15, 1.0 if is_count else 0.05 * max(highest, 1.0))
    chart.y_range = Range1d(max(0.0, lowest - room), highest + room)
    chart.x_range = Range1d(0, len(series) + 1)
    if warm:
        text = f"warm-up: {warm:,}" if warm > 0.12 * len(series) else ""
        chart.add_layout(_label(1, highest + room * 0.5, text))
    _add_legend(chart, items)
    return chart


def times_chart(title: str, by_name: Mapping[str, Sequence[float]], styles: Sequence[int]) -> figure:
    """One time by model, or by run and model: each measurement in order from top to bottom, and quartiles.

    Args:
        title: the figure's name.
        by_name: ms, in order, at least one each.
        styles: of each name, which colour and marker it has.
    """
    by_name = dict(zip(_short(by_name), by_name.values(), strict=True))
    names = list(by_name)
    everything = np.concatenate([np.asarray(values, float) for values in by_name.values()])
    logarithmic = bool(everything.min() > 0 and everything.max() > _LOG_RATIO * float(np.median(everything)))
    axis = f"{title}, ms{' (logarithmic)' * logarithmic}"
    chart = _figure(
        axis,
        "",
        height=90 + 62 * len(names),
        y_range=names[::-1],
        x_axis_type="log" if logarithmic else "linear",
    )
    for index, (name, values) in enumerate(by_name.items()):
        colour, marker = _MODEL_STYLES[styles[index] % len(_MODEL_STYLES)]
        array = np.asarray(values, float)
        kept = thin(array, max(_FEWEST_TIMES, _MOST_TIMES // len(by_name)))
        order = np.array(kept) / max(len(values) - 1, 1)
        source = ColumnDataSource(
            {
                "value": _single(array[kept]),
                "place": [(name, round(0.32 - 0.64 * float(part), 3)) for part in order],
                "number": np.array(kept) + 1,
            }
        )
        dots = chart.scatter(
            "value", "place", source=source, marker=marker, size=5, line_color=colour, fill_color=colour,
            fill_alpha=0.25, line_alpha=0.7,
        )  # fmt: skip
        low, middle, high = (float(q) for q in np.quantile(array, [0.25, 0.5, 0.75]))
        chart.hbar(
            y=[name], left=[low], right=[max(high, low * (1 + 1e-9))], height=0.72, fill_alpha=0.12,
            fill_color=BLACK, line_color=BLACK, line_width=1,
        )  # fmt: skip
        chart.segment([middle], [(name, -0.42)], [middle], [(name, 0.42)], line_width=3.5, color=BLACK)
        tooltips = [
            ("", "@place"),
            (title, "@value{0,0.000} ms"),
            ("number", "@number"),
        ]
        chart.add_tools(HoverTool(renderers=[dots], tooltips=tooltips))
    chart.ygrid.grid_line_color = None
    if logarithmic:
        ticks = _round_numbers(float(everything.min()), float(everything.max()))
        chart.xaxis.ticker = FixedTicker(ticks=ticks)
        chart.xaxis.formatter = BasicTickFormatter(use_scientific=False, precision="auto")
    else:
        room = float(everything.max() - everything.min()) * 0.03 or float(everything.max()) * 0.03 or 1.0
        chart.x_range = Range1d(max(0.0, float(everything.min()) - room), float(everything.max()) + room)
    return chart


def strategies_chart(strategies: Sequence[StrategyFigures]) -> tuple[figure, figure] | None:
    """What a turn takes and where memory peaks, by strategy; None where nothing was measured."""
    turns = [item for item in strategies if item.overhead_ms is not None and item.ttft_ms is not None]
    peaks = [item for item in strategies if item.peak_bytes is not None]
    if not turns or not peaks:
        return None
    names = [item.strategy.value for item in turns]
    source = ColumnDataSource(
        {
            "strategy": names,
            "overhead": [item.overhead_ms for item in turns],
            "first": [item.ttft_ms for item in turns],
            "turn": [(item.overhead_ms or 0) + (item.ttft_ms or 0) for item in turns],
        }
    )
    chart = _figure("a turn, ms", "", height=110 + 45 * len(names), y_range=names[::-1])
    bars = chart.hbar_stack(
        ["overhead", "first"], y="strategy", source=source, height=0.6, fill_color=[ORANGE, SKY],
        line_color=BLACK, hatch_pattern=["/", " "], hatch_alpha=0.5, hatch_scale=8, hatch_weight=0.7,
    )  # fmt: skip
    chart.x_range.start = 0
    chart.ygrid.grid_line_color = None
    tooltips = [
        ("", "@strategy"),
        ("load and release", "@overhead{0,0.0} ms"),
        ("TTFT", "@first{0,0.0} ms"),
        ("turn", "@turn{0,0.0} ms"),
    ]
    chart.add_tools(HoverTool(tooltips=tooltips))
    labels = ("load and release", "TTFT")
    _add_legend(chart, [LegendItem(label=n, renderers=[bar]) for n, bar in zip(labels, bars, strict=True)])
    names = [item.strategy.value for item in peaks]
    memory = _figure("peak of resident memory, MiB", "", height=110 + 45 * len(names), y_range=names[::-1])
    source = ColumnDataSource({"strategy": names, "peak": [(item.peak_bytes or 0) / MIB for item in peaks]})
    memory.hbar(
        y="strategy", right="peak", left=0, source=source, height=0.6, fill_color=GREEN, line_color=BLACK,
        hatch_pattern=".", hatch_alpha=0.4, hatch_scale=8,
    )  # fmt: skip
    memory.x_range.start = 0
    memory.ygrid.grid_line_color = None
    memory.add_tools(HoverTool(tooltips=[("", "@strategy"), ("peak", "@peak{0,0.0} MiB")]))
    return chart, memory


def plain(text: str) -> str:
    """Text that a chart shows as it is: bokeh takes what stands between such signs for a formula."""
    return text.replace("$", "$\u200b").replace("\\", "\\\u200b")


def _short(names: Iterable[str]) -> list[str]:
    """Names that leave room for the chart, and still differ."""
    found: list[str] = []
    for number, name in enumerate(names, 1):
        short = plain(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…")
        found.append(f"{short} ({number})" if short in found else short)
    return found


def _figure(x: str, y: str, **options: Any) -> figure:
    chart = figure(
        x_axis_label=x,
        y_axis_label=y,
        sizing_mode="stretch_width",
        tools="pan,box_zoom,wheel_zoom,reset",
        active_drag=None,  # a finger that scrolls the page is not to move the chart
        active_scroll=None,
        toolbar_location="above",
        background_fill_color="white",
        border_fill_color="white",
        outline_line_color="#999999",
        **options,
    )
    chart.toolbar.logo = None
    chart.toolbar.autohide = True
    chart.axis.axis_label_text_font_style = "normal"
    chart.axis.axis_label_text_color = BLACK
    chart.axis.axis_label_text_font_size = "13px"
    chart.axis.major_label_text_font_size = "13px"
    chart.axis.major_label_text_color = BLACK
    chart.grid.grid_line_color = "#dddddd"
    return chart


def _add_legend(chart: figure, items: Sequence[LegendItem]) -> None:
    """Below the chart, where it hides nothing; a click hides a series."""
    legend = Legend(
        items=list(items),
        orientation="horizontal",
        ncols=2,  # as many as fit a telephone
        location="bottom_left",
        border_line_color=None,
        background_fill_alpha=0,
        label_text_font_size="13px",
        label_text_color=BLACK,
        spacing=12,
        padding=4,
        margin=0,
        click_policy="hide",
    )
    chart.add_layout(legend, "below")


def _shade(chart: figure, moments: Sequence[Moment], seconds: float, highest: float) -> None:
    """Grey behind the phases, from one reading to the next; above them their names, where there is room."""
    readings = [moment for moment in moments if moment.measured]
    whole = moments[-1].s - moments[0].s
    model = None
    for before, after in itertools.pairwise(readings):
        if after.phase not in _PHASE_GREYS or after.s <= before.s:
            continue
        left, right = before.s / seconds, after.s / seconds
        box = BoxAnnotation(
            left=left, right=right, fill_color=BLACK, fill_alpha=_PHASE_GREYS[after.phase], level="underlay",
            line_color="#777777", line_alpha=0.5, line_dash="dotted",
        )  # fmt: skip
        chart.add_layout(box)
        if after.s - before.s > _ROOM_FOR_A_NAME * whole:
            chart.add_layout(_label(left, highest * 1.03, after.phase))
        if after.model != model and len(readings) <= _NAMED_READINGS:
            model = after.model
            chart.add_layout(_label(left, highest * 1.11, plain(model)[:_LONGEST_NAME]))


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, between the two or beside them."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]


def _label(x: float, y: float, text: str) -> Label:
    return Label(
        x=x, y=y, text=text, text_font_size="12px", text_color=BLACK, background_fill_color="white",
        background_fill_alpha=0.7,
    )  # fmt: skip


def _single(values: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Seven digits are enough for a chart, and half as long."""
    return np.asarray(values).astype(np.float32)


def _over(values: Sequence[float], scale: float) -> list[float]:
    return [value / scale for value in values]
