from __future__ import annotations

import io
import re
from typing import Any

import msgspec
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
from asrswitch.stats.verdict import Word
from asrswitch.summary import Spread, summarise

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
    swapped = [
        msgspec.structs.replace(record, model="ba"["ab".index(record.model)])
        if isinstance(record, Reading)
        else record
        for record in records
    ]
    assert summarise(swapped).word is Word.LEAK


def test_an_iteration_with_a_failed_transcription_is_not_done() -> None:
    place: dict[str, Any] = {"cycle": 1, "iteration": 1, "model": "b", "worker": 1}
    failure = Failure(**place, phase="transcribe", kind="error", message="no")
    records = [run_of(2), *cycle(0, "a"), failure, *cycle(1, "b"), *cycle(2, "a"), *cycle(3, "b")]
    assert summarise(records).iterations_done == 1


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
