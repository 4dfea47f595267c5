from __future__ import annotations

import io
import re
from typing import Any

import msgspec
import pytest
from rich.console import Console

from asrswitch.figures import figure_out
from asrswitch.machine import Machine
from asrswitch.memory.probe import Memory
from asrswitch.plan import Clip, Model, Plan, Strategy
from asrswitch.records import (
    SCHEMA,
    End,
    Failure,
    Load,
    Malloc,
    Point,
    Reading,
    Record,
    Release,
    Run,
    Transcription,
)
from asrswitch.report.console import render_summary, show
from asrswitch.schedule import Release as ReleaseKind
from asrswitch.stats.drift import Pace
from asrswitch.stats.series import MINIMUM_ITERATIONS
from asrswitch.stats.verdict import Word
from asrswitch.summary import Spread, Summary, summarise

MIB = 1 << 20
MODELS = (Model("a", "/a"), Model("b", "/b"))


def run_of(iterations: int) -> Run:
    plan = Plan(MODELS, (Clip("/c", None),), iterations, 1, None, None, Strategy.RELOAD, 1, 1.0, "/out")
    return Run(
        SCHEMA, "0", "2026-01-01T00:00:00+00:00", "/lib", plan, Machine("cpu", 1, 1 << 30, "s", "c", "p")
    )


def memory(rss: int, peak: int) -> Memory:
    return Memory(rss, rss, rss, rss - MIB, MIB, 0, peak, "reading", "smaps_rollup", 90, 1, 5)


def cycle(index: int, label: str, worker: int = 1, wer: float | None = None) -> list[Record]:
    """A cycle of 10 MiB before, 30 loaded, 34 after inference with a peak of 40, 11 after the unload."""
    place: dict[str, Any] = {"cycle": index, "iteration": index // 2 + 1, "model": label, "worker": worker}
    levels: dict[Point, tuple[int, int]] = {
        "before_load": (10, 10),
        "after_load": (30, 30),
        "after_infer": (34, 40),
        "after_unload": (11, 34),
    }
    malloc = Malloc(MIB, MIB, 2 * MIB, 0)
    readings: dict[Point, Record] = {
        point: Reading(**place, point=point, memory=memory(rss * MIB, peak * MIB), malloc=malloc)
        for point, (rss, peak) in levels.items()
    }
    figures = figure_out([(5_000_000, "a"), (15_000_000, "bc")], 0, 20_000_000, 1.0, [])
    spoken = Transcription(
        **place, clip="/c", audio_s=1.0, raw="abc", language=None, text="abc", normalised="abc",
        reference="abc", reference_normalised="abc", wer=wer, cer=wer, figures=figures,
    )  # fmt: skip
    return [
        readings["before_load"],
        Load(**place, load_ms=100.0 + index),
        readings["after_load"],
        spoken,
        readings["after_infer"],
        Release(**place, how=ReleaseKind.DESTROY, release_ms=10.0 + index),
        readings["after_unload"],
    ]


def test_figures_are_as_defined() -> None:
    records = [run_of(2), *cycle(0, "a", wer=0.0), *cycle(1, "b"), *cycle(2, "a", wer=1.0), *cycle(3, "b")]
    summary = summarise([*records, End(reason="complete")])
    a, b = summary.models
    assert a.load_ms == Spread(2, 101.0, 100.0, 102.0)
    assert a.switch_ms == Spread(
        1, 11.0 + 102.0, 113.0, 113.0
    )  # the first load of the run switches from nothing
    assert b.switch_ms == Spread(2, 112.0 + 1, 111.0, 115.0)
    assert a.unload_ms == Spread(2, 11.0, 10.0, 12.0)
    assert a.restart_ms is None
    assert (a.wer, a.cer, b.wer) == (0.5, 0.5, None)
    for model in summary.models:
        assert model.load_overhead_bytes == Spread(2, 20 * MIB, 20 * MIB, 20 * MIB)
        assert model.unload_release_bytes == Spread(2, 23 * MIB, 23 * MIB, 23 * MIB)
        assert model.net_growth_bytes == Spread(2, MIB, MIB, MIB)
        assert model.ttft_ms is not None and model.ttft_ms.median == 5
        assert model.chars_per_s is not None and model.chars_per_s.median == 200
    assert summary.resident is not None
    assert (summary.resident.first, summary.resident.last) == (10 * MIB, 11 * MIB)
    assert summary.resident.peak == 40 * MIB
    assert (summary.iterations_done, summary.finished) == (2, "complete")


def test_the_last_models_readings_are_judged() -> None:
    """Memory grows after the first model's unload, and not after the last's, which ends the iteration."""
    records: list[Record] = [run_of(20)]
    for index in range(40):
        for record in cycle(index, "ab"[index % 2]):
            if isinstance(record, Reading) and record.point == "after_unload" and record.model == "a":
                rss = record.memory.rss_bytes + index * MIB
                record = msgspec.structs.replace(record, memory=memory(rss, rss))
            records.append(record)
    assert summarise(records).word is Word.FLAT
    assert summarise(shift_by_a_cycle(records)).word is Word.LEAK


def shift_by_a_cycle(records: list[Record]) -> list[Record]:
    """Records of another run, in which the models had their turns the other way round."""
    return [
        msgspec.structs.replace(record, cycle=record.cycle ^ 1) if isinstance(record, Reading) else record
        for record in records
    ]


def held_by(records: list[Record], leak: dict[str, int]) -> list[Record]:
    """The same records, with so many bytes of heap lost in each cycle of a model."""
    held, grown = 0, []
    for record in records:
        if isinstance(record, Reading):
            held += leak.get(record.model, 0) if record.point == "after_unload" else 0
            malloc = Malloc(MIB + held, MIB, 2 * MIB + held, 0)
            resident = memory(record.memory.rss_bytes + held, record.memory.peak_rss_bytes + held)
            record = msgspec.structs.replace(record, memory=resident, malloc=malloc)
        grown.append(record)
    return grown


def shown(summary: Summary) -> str:
    console = Console(file=io.StringIO(), width=160)
    show(console, render_summary(summary))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("label", ["a", "b"])
def test_the_model_that_leaks_is_named(label: str) -> None:
    records = [run_of(50), *(record for index in range(100) for record in cycle(index, "ab"[index % 2]))]
    summary = summarise(held_by(records, {label: 4096}))
    (item,) = summary.verdicts
    assert (item.verdict.word, item.verdict.holder) == (Word.LEAK, "heap in use")
    assert {name: slope.slope for name, slope in item.growth_by_model.items()} == {label: 4096}
    assert summary.iterations_needed == 0
    report = shown(summary)
    assert f"grows in cycles of {label} (+4.0 KiB a cycle)\n" in report
    assert "next: python -m asrswitch leak-check" in report
    both = summarise(held_by(records, {"a": 4096, "b": 8192})).verdicts[0].growth_by_model
    assert {name: slope.slope for name, slope in both.items()} == {"a": 4096, "b": 8192}


def test_a_speed_is_told_only_where_it_drifts() -> None:
    records: list[Record] = [run_of(40)]
    for index in range(80):
        for record in cycle(index, "ab"[index % 2]):
            if isinstance(record, Load):
                later = index if record.model == "b" else 0
                record = msgspec.structs.replace(record, load_ms=100.0 + later)
            records.append(record)
    summary = summarise(records)
    a, b = summary.models
    assert {name: drift.pace for name, drift in a.drifts.items()} == dict.fromkeys(a.drifts, Pace.STEADY)
    assert (a.drifts["TTFT"].pace, b.drifts["load"].pace) == (Pace.STEADY, Pace.DRIFTS)
    told = [line for line in shown(summary).splitlines() if line.startswith("speed")]
    assert told == [f"speed, b: load drifts by {78 / 140:+.0%} over the run (95 % interval +56% to +56%)"]


def test_as_many_iterations_as_a_verdict_needs_are_named() -> None:
    records = [run_of(5), *(record for index in range(10) for record in cycle(index, "ab"[index % 2]))]
    assert summarise(records).iterations_needed == MINIMUM_ITERATIONS - 5


@pytest.mark.parametrize("strategy", [Strategy.RESIDENT, Strategy.ISOLATE])
def test_models_that_share_a_machine_are_judged_together(strategy: Strategy) -> None:
    """What all leave while they stay loaded; or what each process begins with, whatever its number."""
    run = run_of(20)
    run = msgspec.structs.replace(run, plan=msgspec.structs.replace(run.plan, strategy=strategy))
    records: list[Record] = [run]
    for index in range(40):
        isolated = strategy is Strategy.ISOLATE
        how = ReleaseKind.EXIT if isolated else ReleaseKind.RESTART if index < 38 else ReleaseKind.DESTROY
        for record in cycle(index, "ab"[index % 2], worker=index + 1 if isolated else 1):
            if isinstance(record, Release):
                record = msgspec.structs.replace(record, how=how)
            records.append(record)
    (item,) = summarise(records).verdicts
    assert item.subject == "a + b"
    assert item.verdict.iterations == (20 if strategy is Strategy.ISOLATE else 19)
    assert item.verdict.word is Word.FLAT


def test_an_iteration_is_done_when_every_model_transcribed_in_it_be_it_at_the_second_attempt() -> None:
    place: dict[str, Any] = {"cycle": 1, "iteration": 1, "model": "b", "worker": 1}
    failure = Failure(**place, phase="transcribe", kind="error", message="no")
    silent = [record for record in cycle(1, "b") if not isinstance(record, Transcription)]
    rest = [*cycle(2, "a"), *cycle(3, "b")]
    assert summarise([run_of(2), *cycle(0, "a"), failure, *silent, *rest]).iterations_done == 1
    assert summarise([run_of(2), *cycle(0, "a"), failure, *cycle(1, "b"), *rest]).iterations_done == 2


def test_any_beginning_of_a_log_gives_a_summary() -> None:
    records = [run_of(2), *cycle(0, "a"), *cycle(1, "b"), *cycle(2, "a"), *cycle(3, "b")]
    done = [summarise(records[:length]).iterations_done for length in range(1, len(records) + 1)]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 2)
    assert summarise(records[:5]).finished == "cut off"


def test_a_switch_is_not_counted_across_a_crash_and_its_verdict_is_of_one_process() -> None:
    records: list[Record] = [run_of(30)]
    for index in range(60):
        label = "ab"[index % 2]
        records += cycle(index, label, worker=1 if index < 24 else 2)
    crash = Failure(
        cycle=24,
        iteration=13,
        model="a",
        worker=1,
        phase="load",
        kind="died",
        message="gone",
        signal="SIGKILL",
    )
    summary = summarise([*records, crash])
    a, b = summary.models
    assert a.switch_ms is not None and b.switch_ms is not None
    assert (a.switch_ms.count, b.switch_ms.count) == (28, 30)
    assert summary.verdicts[0].verdict.iterations == 18
    assert summary.word is Word.FLAT
    assert summary.failures == [crash]


def test_word_errors_of_random_weights_are_not_shown() -> None:
    trained, random = Model("a", "/a"), Model("b", "/b", None, True)
    records = [run_of(1), *cycle(0, "a", wer=0.0), *cycle(1, "b", wer=1.0), End(reason="complete")]
    assert isinstance(records[0], Run)

    def report(*models: Model) -> str:
        plan = msgspec.structs.replace(records[0].plan, models=models)
        console = Console(file=io.StringIO(), width=160)
        show(
            console, render_summary(summarise([msgspec.structs.replace(records[0], plan=plan), *records[1:]]))
        )
        return console.file.getvalue()

    assert "synthetic" not in report(trained, msgspec.structs.replace(random, synthetic=False))
    mixed = report(trained, random)
    assert "synthetic weights: speed and memory are true, text is not: b\n" in mixed
    assert re.search(r"WER, % +│ +0.0 │ +– │", mixed)
    assert "WER" not in report(random)
