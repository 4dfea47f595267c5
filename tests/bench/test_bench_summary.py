"""From measurements to figures: known numbers in, known numbers out."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from datetime import datetime

import pytest
from rich.console import Console

from asrswitch.bench.floors import CEILING_KINDS
from asrswitch.bench.measure import BenchRun, CeilingSet, Inference, Measurements
from asrswitch.bench.plan import BenchPlan
from asrswitch.bench.report import WRITERS, BenchReport, make_report, render_text
from asrswitch.bench.summary import BenchSummary, summarise
from asrswitch.model import Model
from asrswitch.stages import Account, Stage

ISAS = dict.fromkeys(CEILING_KINDS, "made up")


@dataclass(frozen=True)
class Turn:
    """One made-up turn; ``slow`` is how many times slower than the ceilings it computes and reads."""

    repetition: int
    slow: float = 2.0
    library: str = "A"
    model: str = "m"
    warmup: bool = False
    speed: float = 1.0  # of the machine in this repetition
    before: str | None = None


def inferred(ms: float) -> Inference:
    account = Account(
        (
            Stage("mel", 0.0),
            Stage("prefill", 100 * ms, {"int8": 100_000_000_000}),
            Stage("first_token", 10 * ms, {}, 400_000_000),
            Stage("decode", 100 * ms, {}, 4_000_000_000),
        ),
        generated_tokens=11,
    )
    return Inference(300 * ms, 120 * ms, 50.0, account)


def made(turn: Turn) -> BenchRun:
    ms = turn.slow / turn.speed
    return BenchRun(
        library=turn.library,
        model=turn.model,
        threads=2,
        repetition=turn.repetition,
        warmup=turn.warmup,
        load_ms=4 * ms,
        first=inferred(3 * ms),  # after a load
        inference=inferred(ms),
        unload_ms=2 * ms,
        switched_from=turn.before,
        switch_ms=6 * ms if turn.before else None,
    )


def ceilings(turn: Turn) -> CeilingSet:
    rates = {"read": 40e9, "int8": 1000e9, "bf16": 500e9, "f32": 250e9}
    slices = {
        kind: [rate * turn.speed * part for part in (0.1, 1.0, 1.2)] for kind, rate in rates.items()
    }  # the median is the middle one
    return CeilingSet(turn.repetition, turn.warmup, 2, slices)


def summary(*turns: Turn, gauged: bool = True) -> BenchSummary:
    return summarise(measurements(*turns, gauged=gauged))


def measurements(*turns: Turn, gauged: bool = True) -> Measurements:
    sets = {turn.repetition: ceilings(turn) for turn in turns} if gauged else {}
    isas = ISAS if gauged else {}
    return Measurements(11.0, isas, tuple(sets.values()), tuple(made(turn) for turn in turns))


def report(repetitions: int, *models: Model) -> BenchReport:
    turns = [Turn(index, model=model.label) for index in range(repetitions) for model in models]
    plan = BenchPlan(
        models=models,
        audio=None,
        threads=(2,),
        max_new_tokens=48,
        repetitions=repetitions,
        warmups=0,
        libraries=("lib.so",),
        gauges=("lib.so",),
        context=None,
        language=None,
        timeout_s=60.0,
    )
    return make_report(plan, measurements(*turns), datetime(2024, 1, 1))


def test_stages_are_held_against_the_ceilings() -> None:
    case = summary(Turn(0), Turn(1), Turn(2)).cases[0]
    prefill = next(stage for stage in case.stages if stage.name == "prefill")
    assert prefill.ms.median == pytest.approx(200)
    assert prefill.operations_per_s and prefill.operations_per_s.median == pytest.approx(500e9)
    assert prefill.bytes_per_s is None
    assert prefill.floor_ms and prefill.floor_ms.median == pytest.approx(100)
    assert prefill.share and prefill.share.median == pytest.approx(0.5)
    mel = case.stages[0]
    assert (mel.name, mel.floor_ms, mel.share, mel.operations_per_s) == ("mel", None, None, None)


def test_the_whole_is_held_against_the_ceilings() -> None:
    case = summary(Turn(0), Turn(1)).cases[0]
    assert case.ttft_source == "engine"
    assert case.ttft_ms and case.ttft_ms.median == pytest.approx(220)
    assert case.first_ttft_ms and case.first_ttft_ms.median == pytest.approx(660)
    assert case.first_callback_ms and case.first_callback_ms.median == pytest.approx(240)
    assert case.ttft_floor_ms and case.ttft_floor_ms.median == pytest.approx(110)
    assert case.ttft_over_floor and case.ttft_over_floor.median == pytest.approx(2)
    assert case.tokens_per_s and case.tokens_per_s.median == pytest.approx(50)  # ten after the first
    assert case.decode_bytes_per_s and case.decode_bytes_per_s.median == pytest.approx(20e9)
    assert case.decode_share and case.decode_share.median == pytest.approx(0.5)
    assert case.rtf.median == pytest.approx(0.6 / 11)


def test_a_machine_that_drifts_changes_both() -> None:
    found = summary(Turn(0), Turn(1, speed=0.5), Turn(2, speed=0.25), Turn(3, speed=2))
    case = found.cases[0]
    for ratio in (case.ttft_over_floor, case.decode_share):
        assert ratio and ratio.high - ratio.low < 1e-9
    assert case.load_ms.low < case.load_ms.high
    read = found.ceilings[0]
    assert read.kind == "read"
    assert read.rate.median == pytest.approx(30e9)
    assert read.highest == pytest.approx(96e9)


def test_warm_ups_do_not_count() -> None:
    found = summary(Turn(0, slow=1000, warmup=True, speed=0.01), Turn(1), Turn(2))
    assert found.cases[0].load_ms.high == pytest.approx(8)
    assert found.cases[0].load_ms.count == 2
    assert all(ceiling.rate.count == 2 for ceiling in found.ceilings)


def test_libraries_are_compared_pair_by_pair() -> None:
    turns = []
    for repetition, speed in enumerate((1.0, 0.5, 0.1, 3.0)):
        turns.append(Turn(repetition, slow=2, library="B", speed=speed))
        turns.append(Turn(repetition, slow=3, library="A", speed=speed))
    found = summary(*turns)
    assert {"load", "unload", "first callback", "stage prefill", "stage decode", "TTFT by stages"} <= {
        item.figure for item in found.ratios
    }
    for item in found.ratios:
        if item.figure != "time a token by callbacks":
            assert item.ratio.low == pytest.approx(item.ratio.high) == pytest.approx(1.5)
    assert [case.library for case in found.cases] == ["A", "B"]


def test_without_a_second_library_there_is_no_ratio() -> None:
    assert summary(Turn(0), Turn(1)).ratios == ()


def test_without_ceilings_the_times_are_still_there() -> None:
    found = summary(Turn(0), gauged=False)
    case = found.cases[0]
    assert found.ceilings == ()
    assert case.ttft_ms and case.ttft_floor_ms is None and case.decode_share is None
    assert all(stage.floor_ms is None for stage in case.stages)


def test_switches_are_told_by_direction() -> None:
    found = summary(
        Turn(0, model="a"), Turn(0, model="b", before="a"), Turn(1, model="a", before="b", slow=4)
    )
    switches = {(item.unloaded, item.loaded): item.ms.median for item in found.switches}
    assert switches == {("a", "b"): pytest.approx(12), ("b", "a"): pytest.approx(24)}


def test_random_weights_are_marked_in_every_format() -> None:
    written = report(2, Model("true", "/t.bin", 1, False), Model("made", "/m.bin", 1, True))
    said = "synthetic weights: speed and memory are true, text is not: made"
    for name in ("text", "md"):
        lines = [line.removeprefix("- ").rstrip() for line in WRITERS[name](written, 160).splitlines()]
        assert said in lines
    models = json.loads(WRITERS["json"](written, 160))["plan"]["models"]
    assert {model["label"]: model["synthetic"] for model in models} == {"true": False, "made": True}
    trained = report(2, Model("true", "/t.bin", 1, False))
    assert not any("synthetic weights" in WRITERS[name](trained, 160) for name in ("text", "md"))


@pytest.mark.parametrize(("repetitions", "interval"), [(5, False), (6, True)])
def test_too_few_repetitions_have_no_interval(repetitions: int, interval: bool) -> None:
    text = WRITERS["text"](report(repetitions, Model("m", "/m.bin", 1, False)), 160)
    assert ("95 % bootstrap intervals" in text) == interval
    assert ("lowest to highest" in text) != interval


def test_a_label_with_square_brackets_is_shown_as_it_is() -> None:
    console = Console(file=io.StringIO(), width=160)
    with console.capture() as captured:
        console.print(*render_text(report(1, Model("a[/b]", "/m.bin", 1, False))))
    assert "stages of a[/b], 2 threads" in captured.get()
