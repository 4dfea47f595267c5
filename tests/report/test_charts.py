from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bokeh.models import BoxAnnotation, HoverTool, Label, LogScale, Span
from report_examples import HOSTILE, killed_records, run_records

from asrswitch.judged import judged_readings
from asrswitch.plan import Strategy
from asrswitch.report.charts import (
    MOST_MOMENTS,
    memory_chart,
    strategies_chart,
    times_chart,
    unload_chart,
)
from asrswitch.report.series import HOLDERS, fit, judged_series, marks, moments
from asrswitch.stats.series import judge_series
from asrswitch.stats.verdict import TOLERANCES, Word
from asrswitch.strategies import StrategyFigures
from helpers.records import MIB

LIMIT = 1 << 30


def all_of(chart: Any, kind: type) -> list[Any]:
    return [*chart.select({"type": kind})]


def shaded(chart: Any) -> int:
    return sum(box.level == "underlay" for box in all_of(chart, BoxAnnotation))  # the others are of the tools


def legend(chart: Any) -> list[str]:
    return [item.label.value for item in chart.legend[0].items]


def unloads(leak_bytes: int, limit: int = LIMIT, name: str = "resident memory") -> Any:
    series = judged_series(judged_readings(run_records(30, leak_bytes=leak_bytes)).subjects["a + b"])[name]
    verdict = judge_series(series, TOLERANCES[name])
    return unload_chart(name, series, verdict, fit(series, verdict), limit, name == "threads")


def test_areas_stand_on_one_another_and_reach_what_is_resident() -> None:
    found = moments(run_records(3))
    chart = memory_chart(found, [])
    source = chart.renderers[0].data_source.data
    for index, name in enumerate(HOLDERS):
        np.testing.assert_allclose(
            source[f"top {index}"] - source[f"top {index - 1}"], source[name], atol=1e-5
        )
    np.testing.assert_allclose(source["top 3"], [moment.total / MIB for moment in found], rtol=1e-6)
    assert legend(chart) == [*HOLDERS, "resident"]


def test_areas_are_told_apart_without_colour() -> None:
    areas = [renderer.glyph for renderer in memory_chart(moments(run_records(3)), []).renderers[:4]]
    assert len({area.hatch_pattern for area in areas}) == len({area.fill_color for area in areas}) == 4


def test_phases_are_shaded_and_named_where_they_can_be_seen() -> None:
    few = memory_chart(moments(run_records(2)), [])
    assert shaded(few) == 2 * 2 * 3  # load, transcribe and unload of each cycle
    assert {"a", "b"} <= {label.text for label in all_of(few, Label)}
    many = memory_chart(moments(run_records(60)), [])
    assert shaded(many) == 0


def test_of_a_long_run_the_peaks_are_kept() -> None:
    found = moments(run_records(400))
    chart = memory_chart(found, [])
    drawn = chart.renderers[0].data_source.data["total"]
    assert len(drawn) <= MOST_MOMENTS < len(found)
    assert float(drawn.max()) == max(moment.total for moment in found) / MIB
    assert float(drawn.min()) == min(moment.total for moment in found) / MIB


def test_failures_are_marked() -> None:
    records = killed_records()
    chart = memory_chart(moments(records), marks(records))
    assert legend(chart)[-1] == "failure"
    (source,) = [r.data_source.data for r in chart.renderers if "text" in r.data_source.data]
    assert source["text"] == ["a, transcribe: was ended by SIGKILL"]


def test_a_leak_is_drawn_with_its_slope_and_its_interval() -> None:
    chart = unloads(64 << 10)
    assert legend(chart) == ["after unload", "slope after warm-up", "its 95 % interval"]
    (line,) = [r.data_source.data for r in chart.renderers if r.glyph.__class__.__name__ == "Line"]
    slope = (line["y"][-1] - line["y"][0]) / (line["x"][-1] - line["x"][0])
    assert slope == pytest.approx(64 / 1024)


def test_the_limit_is_drawn_where_it_is_in_sight() -> None:
    def limits(chart: Any) -> list[float]:
        return [span.location for span in all_of(chart, Span) if span.dimension == "width"]

    assert limits(unloads(0)) == []
    near = unloads(0, limit=20 * MIB)
    assert limits(near) == [20.0]
    assert near.y_range.end > 20
    assert limits(unloads(0, limit=2, name="threads")) == []  # it is of bytes


def test_what_is_flat_looks_flat() -> None:
    chart = unloads(0)
    assert chart.y_range.end - chart.y_range.start >= 1


def test_times_keep_their_order_their_extremes_and_their_names() -> None:
    values = {"a": [5.0, 1.0, 9.0], "b": [float(number) for number in range(1, 1000)]}
    chart = times_chart("load", values, [0, 1])
    first, second = (r.data_source.data for r in chart.renderers if "place" in r.data_source.data)
    assert [*first["value"]] == [5.0, 1.0, 9.0]
    assert [offset for _, offset in first["place"]] == [0.32, 0.0, -0.32]
    assert (second["value"].min(), second["value"].max(), len(second["value"])) == (1, 999, 298)
    assert [*chart.y_range.factors] == ["b", "a"]
    markers = {r.glyph.marker for r in chart.renderers if "place" in r.data_source.data}
    assert len(markers) == 2
    assert len(all_of(chart, HoverTool)) == 2


def test_times_that_stray_far_are_drawn_on_a_logarithmic_axis() -> None:
    chart = times_chart("load", {"a": [1.0, 1.0, 1.0, 900.0]}, [0])
    assert isinstance(chart.x_scale, LogScale)
    assert "logarithmic" in chart.xaxis[0].axis_label
    assert {1.0, 10.0, 100.0} <= {*chart.xaxis[0].ticker.ticks}
    assert not isinstance(times_chart("load", {"a": [0.0, 1.0, 900.0]}, [0]).x_scale, LogScale)


def test_long_names_are_cut_differ_and_are_no_formulas() -> None:
    chart = times_chart("load", {f"{HOSTILE} 1": [1.0], f"{HOSTILE} 2": [2.0], "$$x$$": [3.0]}, [0, 1, 2])
    names = [*chart.y_range.factors]
    assert len({*names}) == 3
    assert max(map(len, names)) < 32
    assert not any("$$" in name for name in names)


def test_strategies_without_figures_have_no_chart() -> None:
    unknown = StrategyFigures(
        Strategy.RELOAD,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        Word.INCONCLUSIVE,
        None,
        3,
        "failed",
    )
    assert strategies_chart([unknown]) is None
