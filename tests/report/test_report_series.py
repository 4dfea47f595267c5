from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_examples import STEP_MS, killed_records, replace, run_records, write_log

from asrswitch.judged import judged_readings
from asrswitch.plan import Strategy
from asrswitch.records import Failure, Reading, Record, Release, Resume, Timeline
from asrswitch.report.runs import read_report
from asrswitch.report.series import fit, judged_series, marks, moments, thin, times
from asrswitch.schedule import Release as ReleaseKind
from asrswitch.stats.series import judge_series
from asrswitch.stats.verdict import TOLERANCES
from asrswitch.summary import summarise
from helpers.records import MIB, run_of

STAYS = (Strategy.RESTART, Strategy.RESIDENT)


def of_strategy(strategy: Strategy) -> list[Record]:
    """A run in which models stay, or have a process each, as the strategy has it."""
    found: list[Record] = []
    for record in run_records(14, leak_bytes=4096, strategy=strategy):
        if isinstance(record, Release) and strategy in STAYS and record.iteration < 14:
            record = replace(record, how=ReleaseKind.RESTART)
        if isinstance(record, Reading) and strategy is Strategy.ISOLATE:
            record = replace(record, worker=record.cycle + 1)
        found.append(record)
    return found


@pytest.mark.parametrize("strategy", list(Strategy))
def test_charts_show_what_was_judged(strategy: Strategy) -> None:
    records = of_strategy(strategy)
    readings = judged_readings(records).subjects
    summary = summarise(records)
    assert list(readings) == [item.subject for item in summary.verdicts]
    for item in summary.verdicts:
        values = judged_series(readings[item.subject])
        assert list(values) == list(item.verdict.series)
        for name, series in values.items():
            one_process = strategy is not Strategy.ISOLATE
            assert judge_series(series, TOLERANCES[name], one_process) == item.verdict.series[name].verdict


def test_charts_of_a_run_whose_worker_was_killed_show_what_was_judged() -> None:
    records = killed_records(30)
    (item,) = summarise(records).verdicts
    (readings,) = judged_readings(records).subjects.values()
    assert item.verdict.iterations == len(readings) < 30
    assert {reading.worker for reading in readings} == {2}


def test_times_are_those_of_the_summary(tmp_path: Path) -> None:
    run = read_report(write_log(tmp_path, killed_records())).runs[0]
    found = times(run)
    for model in run.summary.models:
        for name, by_model in found.items():
            spread = getattr(model, name)
            values = by_model[model.label]
            assert (spread.count, spread.median) == (len(values), statistics.median(values))
            assert (spread.minimum, spread.maximum) == (min(values), max(values))


def test_holders_add_up_to_what_is_resident() -> None:
    records = run_records(3)
    found = moments(records)
    readings = [record for record in records if isinstance(record, Reading)]
    measured = [moment for moment in found if moment.measured]
    assert [moment.total for moment in measured] == [reading.memory.rss_bytes for reading in readings]
    assert measured[0].holders == (MIB, MIB, MIB, 7 * MIB)
    assert [moment.phase for moment in measured[:4]] == ["between", "load", "transcribe", "unload"]
    assert [moment.s for moment in found] == sorted(moment.s for moment in found)
    assert len(found) == 2 * len(readings)  # a sample before each


def test_the_heap_is_drawn_straight_between_readings_and_never_above_what_is_there() -> None:
    records = run_records(12, leak_bytes=64 * MIB)
    for moment in moments(records):
        assert min(moment.holders) >= 0


def test_time_that_passed_before_a_run_was_resumed_is_left_out() -> None:
    records = run_records(4)
    half = len(records) // 2
    day = "2026-01-02T00:00:00+00:00"
    resumed = Resume(version="0", machine=run_of(1).machine, at=day)
    later = [
        replace(record, at=record.at.replace("2026-01-01", "2026-01-02")) if record.at else record
        for record in run_records(4)
    ]
    found = moments([*records[:half], resumed, *later[1:]])
    assert 0 < found[-1].s < 2 * len(records) * STEP_MS / 1e3


def test_samples_come_before_the_reading_that_they_were_taken_before() -> None:
    """The sampler's time begins before the run's record is written: by how much the log shows."""
    early = [
        replace(record, samples=replace(record.samples, ms=tuple(ms + 250 for ms in record.samples.ms)))
        if isinstance(record, Timeline)
        else record
        for record in run_records(4)
    ]
    found = moments(early)
    assert [moment.measured for moment in found] == [False, True] * (len(found) // 2)


def test_a_log_without_times_has_no_moments() -> None:
    records = [replace(record, at=None) for record in run_records(3)]
    assert moments(records) == []
    assert marks(records) == []


def test_a_killed_worker_holds_nothing_and_is_marked() -> None:
    records = killed_records()
    (failure,) = [record for record in records if isinstance(record, Failure)]
    (mark,) = marks(records)
    assert mark.text == f"{failure.model}, transcribe: was ended by SIGKILL"
    (gone,) = [moment for moment in moments(records) if moment.phase == "failed"]
    assert (gone.s, gone.total) == (pytest.approx(mark.s), 0)


def test_the_fitted_line_has_the_verdicts_slope() -> None:
    (item,) = summarise(run_records(40, leak_bytes=8192)).verdicts
    values = judged_series(judged_readings(run_records(40, leak_bytes=8192)).subjects["a + b"])["heap in use"]
    found = item.verdict.series["heap in use"].verdict
    line = fit(values, found)
    assert line and found.slope
    steps = line.iterations[-1] - line.iterations[0]
    assert line.iterations[0] == found.warmup_iterations + 1
    assert (line.middle[-1] - line.middle[0]) / steps == pytest.approx(found.slope.slope) == 8192
    assert line.middle[-1] == pytest.approx(values[-1])


def test_a_series_too_short_to_judge_has_no_line() -> None:
    records = run_records(3)
    (item,) = summarise(records).verdicts
    values = judged_series(judged_readings(records).subjects["a + b"])["resident memory"]
    assert fit(values, item.verdict.series["resident memory"].verdict) is None


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=400), st.integers(4, 60))
def test_thinned_series_keep_their_ends_and_extremes(values: list[float], most: int) -> None:
    kept = thin(values, most)
    assert len(kept) <= most or len(values) <= most
    assert kept == sorted({*kept})
    assert (kept[0], kept[-1]) == (0, len(values) - 1)
    shown = np.asarray(values)[kept]
    assert (shown.min(), shown.max()) == (min(values), max(values))
