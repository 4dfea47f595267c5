from __future__ import annotations

import io
import re
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from asrswitch.memory.cgroup import ControlGroup
from asrswitch.memory.sampler import Samples
from asrswitch.model import Model
from asrswitch.plan import Strategy
from asrswitch.records import (
    Budget,
    CleanSlate,
    End,
    Failure,
    Load,
    Malloc,
    Prediction,
    Reading,
    Record,
    Release,
    Resume,
    SamplingCost,
    Skip,
    Timeline,
    TornLineWarning,
    Transcription,
    Trim,
    WorkerStarted,
    read_log,
)
from asrswitch.report.console import render_summary, show
from asrswitch.schedule import Release as ReleaseKind
from asrswitch.stats.drift import Pace
from asrswitch.stats.series import MINIMUM_ITERATIONS
from asrswitch.stats.verdict import Word
from asrswitch.summary import Predicted, Spread, Summary, summarise
from helpers.records import MIB, cycle, memory, run_of


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
    run = run_of(1)

    def report(*models: Model) -> str:
        plan = msgspec.structs.replace(run.plan, models=models)
        console = Console(file=io.StringIO(), width=160)
        show(console, render_summary(summarise([msgspec.structs.replace(run, plan=plan), *records[1:]])))
        return console.file.getvalue()

    assert "synthetic" not in report(trained, msgspec.structs.replace(random, synthetic=False))
    mixed = report(trained, random)
    assert "synthetic weights: speed and memory are true, text is not: b\n" in mixed
    assert re.search(r"WER, % +│ +0.0 │ +– │", mixed)
    assert "WER" not in report(random)


def place(index: int, label: str, worker: int = 1) -> dict[str, Any]:
    return {"cycle": index, "iteration": index // 2 + 1, "model": label, "worker": worker}


def with_memory(records: list[Record], point: str, **fields: Any) -> list[Record]:
    """The same records, with other figures in the readings of a point."""
    return [
        msgspec.structs.replace(record, memory=msgspec.structs.replace(record.memory, **fields))
        if isinstance(record, Reading) and record.point == point
        else record
        for record in records
    ]


def lines(summary: Summary, beginning: str) -> list[str]:
    return [line for line in shown(summary).splitlines() if line.startswith(beginning)]


def test_what_a_switch_adds_and_what_it_leaves() -> None:
    trim = Trim(**place(0, "a"), point="after_unload", on="copy", anonymous_before_bytes=10 * MIB + 4096,
        anonymous_bytes=9 * MIB, malloc=None, ms=1.0)  # fmt: skip
    samples = Samples((1.0, 2.0), (20 * MIB, 36 * MIB), (MIB, MIB), 2, 0.1)
    timeline = Timeline(**place(0, "a"), until="after_infer", samples=samples)
    first = cycle(0, "a")
    records = [run_of(2), *first[:4], timeline, *first[4:], trim, *cycle(1, "b"), *cycle(2, "a")]
    a, b = summarise(records).models
    assert a.answer_ms == Spread(2, 106.0, 105.0, 107.0)
    assert a.overhead_ms == Spread(2, 112.0, 110.0, 114.0)
    assert (a.peak_bytes, a.peak_anonymous_bytes, b.peak_anonymous_bytes) == (40 * MIB, 36 * MIB, None)
    assert a.retained_bytes == a.retained_anonymous_bytes == Spread(2, MIB, MIB, MIB)
    assert a.kept_bytes == Spread(2, MIB, MIB, MIB)
    assert (a.trimmed_bytes, b.trimmed_bytes) == (Spread(1, *[MIB + 4096] * 3), None)
    assert a.untrimmed_bytes == Spread(1, -4096, -4096, -4096)


def test_where_models_stay_loaded_the_turns_between_the_first_and_the_last_count() -> None:
    """And what is retained is known once the last of them is gone."""
    records: list[Record] = [run_of(4, strategy=Strategy.RESIDENT)]
    for index in range(8):
        how = ReleaseKind.DESTROY if index > 5 else ReleaseKind.RESTART
        records += cycle(index, "ab"[index % 2], how=how, load=index < 2)
    a, b = summarise(records).models
    assert a.answer_ms == Spread(3, 5.0, 5.0, 5.0)
    assert a.overhead_ms == Spread(2, 13.0, 12.0, 14.0)
    assert b.load_ms == Spread(1, 101.0, 101.0, 101.0)
    assert (a.retained_bytes, b.retained_bytes) == (None, Spread(1, MIB, MIB, MIB))


def test_a_process_that_exits_has_a_baseline_of_its_own_and_its_start_is_no_load() -> None:
    records: list[Record] = [run_of(2, strategy=Strategy.ISOLATE)]
    for index in range(4):
        records.append(WorkerStarted(worker=index + 1, pid=1, log="", start_ms=50.0 + index))
        turn = cycle(index, "ab"[index % 2], worker=index + 1, how=ReleaseKind.EXIT)
        records += [*turn[:-1], msgspec.structs.replace(turn[-1], worker=index + 2)]
    summary = summarise(records)
    assert summary.start_ms == Spread(4, 51.5, 50.0, 53.0)
    for model in summary.models:
        assert model.retained_bytes == Spread(2, MIB, MIB, MIB)
        assert model.overhead_ms is not None and model.overhead_ms.count == 2


def test_two_attempts_at_a_cycle_are_not_mixed() -> None:
    lost = cycle(1, "b", worker=1)[:3]
    records = [run_of(1), *cycle(0, "a"), *lost, *cycle(1, "b", worker=2)]
    b = summarise(records).models[1]
    assert (b.cycles, b.load_ms, b.answer_ms) == (1, Spread(2, 101.0, 101.0, 101.0), Spread(1, *[106.0] * 3))
    assert b.switch_ms == Spread(1, 111.0, 111.0, 111.0)  # the second attempt switched from nothing


def test_a_prediction_is_held_against_the_most_that_was_measured() -> None:
    predictions: list[Record] = [
        Prediction(model="a", weights_bytes=20 * MIB, anonymous_bytes=5 * MIB),
        Prediction(model="b", weights_bytes=20 * MIB, anonymous_bytes=None, failure="no such function"),
    ]
    summary = summarise([run_of(1), *predictions, *cycle(0, "a"), *cycle(1, "b")])
    a, b = (model.prediction for model in summary.models)
    assert a == Predicted(20 * MIB, 5 * MIB, 30 * MIB)
    assert a.error == pytest.approx(0.2)
    assert b is not None and b.error is None
    (line,) = lines(summary, "prediction")
    assert line == (
        "prediction: a 25.0 MiB predicted, 30.0 measured (+20 %); "
        "b at least 20.0 MiB predicted, 30.0 measured"
    )
    early = summarise([run_of(1), *predictions[:1]])
    assert lines(early, "prediction") == ["prediction: a 25.0 MiB predicted, not measured"]


def test_a_peak_of_an_earlier_turn_is_no_models() -> None:
    """Where the kernel does not set its maximum back, what the readings saw is all there is."""
    turns = with_memory(
        [*cycle(0, "a"), *cycle(1, "b")], "after_infer", peak_since="start", peak_rss_bytes=1 << 29
    )
    predicted = Prediction(model="a", weights_bytes=24 * MIB, anonymous_bytes=0)
    a = summarise([run_of(1), predicted, *turns]).models[0]
    assert a.peak_bytes == 34 * MIB
    assert a.prediction is not None and a.prediction.measured_bytes == 24 * MIB


def budget(index: int, label: str, pressure: float, action: Any = "load", **left: int | None) -> Budget:
    room = {"host_bytes": 900 * MIB, "cgroup_bytes": None, "limit_bytes": None, **left}
    return Budget(**place(index, label), need_bytes=100 * MIB, pressure=pressure, action=action, **room)


@pytest.mark.parametrize(("pressure", "warned"), [(0.799, False), (0.8, True)])
def test_a_load_that_leaves_less_than_a_fifth_is_warned_of(pressure: float, warned: bool) -> None:
    tight = budget(0, "a", pressure, cgroup_bytes=110 * MIB, limit_bytes=105 * MIB)
    summary = summarise([run_of(1), tight, budget(1, "b", 0.1)])
    said = [
        "80 % pressure: a needs 100.0 MiB; left before it: 105.0 MiB of the memory limit, "
        "110.0 MiB in the control group, 900.0 MiB on the host; a smaller context, clip or model needs less"
    ]
    assert summary.warnings == said * warned
    assert summary.budgets is not None and summary.budgets.highest == tight


def test_of_several_tight_loads_of_a_model_the_tightest_is_told() -> None:
    budgets: list[Record] = [
        budget(2 * index, "a", pressure) for index, pressure in enumerate([0.85, 0.95, 0.9])
    ]
    (warning,) = summarise([run_of(3), *budgets]).warnings
    assert warning.startswith("95 % pressure: a needs")


def test_room_that_was_made_and_loads_that_were_refused_are_told() -> None:
    refused = Failure(**place(1, "b"), phase="load", kind="refused", message="needs 100 MiB, 50 are left")
    again = Failure(
        **place(1, "b"), attempt=2, phase="load", kind="refused", message="needs 100 MiB, 50 are left"
    )
    skip = Skip(**place(1, "b"), message="failed 2 times in iteration 1")
    budgets = [budget(0, "a", 0.5, "restart"), budget(1, "b", 1.5, "refuse"), budget(1, "b", 1.5, "refuse")]
    summary = summarise([run_of(1), *budgets, refused, again, skip])
    assert summary.budgets is not None
    assert (summary.budgets.highest, summary.budgets.restarts, summary.budgets.refused) == (budgets[0], 1, 2)
    assert lines(summary, "budget") == ["budget: 1 restart of the worker to make room, 2 loads refused"]
    assert lines(summary, "refused") == ["refused: b, load, 2 times: needs 100 MiB, 50 are left"]
    assert not lines(summary, "failed")


@pytest.mark.parametrize(
    ("limit", "group", "said"),
    [
        (100 * MIB, None, "out of memory within a limit of 100.0 MiB: killed"),
        (None, 64 * MIB, "out of memory within a limit of 64.0 MiB: killed"),
        (None, None, "out of memory: killed"),
    ],
)
def test_out_of_memory_is_named_with_its_limit(limit: int | None, group: int | None, said: str) -> None:
    readings = cycle(0, "a")
    if group:
        readings = with_memory(readings, "after_load", cgroup=ControlGroup(50 * MIB, 60 * MIB, group))
    failure = Failure(**place(1, "b"), phase="load", kind="died", message="killed", out_of_memory=True)
    summary = summarise([run_of(1, memory_limit_bytes=limit), *readings, failure])
    assert lines(summary, "failed") == [f"failed: b, load: {said}"]
    assert lines(summary, "control group") == (["control group: peak 60.0 of 64.0 MiB"] if group else [])
    other = msgspec.structs.replace(failure, out_of_memory=False)
    assert lines(summarise([run_of(1, memory_limit_bytes=limit), other]), "failed") == [
        "failed: b, load: killed"
    ]


def test_growth_is_forecast_to_the_limit_of_the_worker() -> None:
    turns = [record for index in range(100) for record in cycle(index, "ab"[index % 2])]
    leaking = held_by([run_of(50), *turns], {"a": MIB // 2, "b": MIB // 2})[1:]
    (of_machine,) = summarise([run_of(50), *leaking]).verdicts
    (of_limit,) = summarise([run_of(50, memory_limit_bytes=100 * MIB), *leaking]).verdicts
    assert of_machine.verdict.iterations_to_limit == 1024 - 61
    assert of_limit.verdict.iterations_to_limit == 100 - 61


@pytest.mark.parametrize(("faults", "warned"), [(4, False), (5, True)])
def test_many_page_faults_are_warned_of_after_the_first_iteration(faults: int, warned: bool) -> None:
    first = with_memory([*cycle(0, "a"), *cycle(1, "b")], "after_load", major_faults=5000)
    later = with_memory([*cycle(2, "a"), *cycle(3, "b")], "after_load", major_faults=faults)
    summary = summarise([run_of(2), *first, *later])
    assert summary.major_faults == 10_000 + 2 * faults
    said = [
        "10 page faults after the first iteration waited for a disk: "
        "the machine cannot keep the weights in memory, times suffer; free memory, or use --lock"
    ]
    assert [warning for warning in summary.warnings if "faults" in warning] == said * warned


def test_swap_is_warned_of() -> None:
    records = with_memory(cycle(0, "a"), "after_infer", swap_bytes=3 * MIB)
    (reason,) = summarise([run_of(1), *records]).invalid
    assert reason.startswith("up to 3.0 MiB of the worker were swapped out")


def test_what_sampling_cost_and_slow_settling_are_told() -> None:
    slates = [
        CleanSlate(**place(index, "a"), clean=True, mapped=False, excess_bytes=0, settle_ms=ms)
        for index, ms in enumerate([1.0, 9.9])
    ]
    end = End(reason="complete", sampling=SamplingCost(1234, 6.4, 0.13))
    quiet = summarise([run_of(1), *slates, end])
    assert quiet.settle_ms == Spread(2, 5.45, 1.0, 9.9)
    assert lines(quiet, "sampling") == ["sampling: 1,234 samples, 6 µs each, 0.013 % of a processor"]
    assert not lines(quiet, "memory came")
    slow = summarise([run_of(1), msgspec.structs.replace(slates[0], settle_ms=10.0), end])
    assert lines(slow, "memory came") == ["memory came to rest 10.0 ms after an unload"]


def test_a_run_that_was_resumed_says_so_and_ends_as_its_last_part_did() -> None:
    resume = Resume(version="0", machine=run_of(1).machine)
    half = [run_of(2), *cycle(0, "a"), *cycle(1, "b")]
    rest = [*cycle(2, "a", worker=2), *cycle(3, "b", worker=2)]
    stopped = End(reason="stopped", signal="SIGINT")
    records = [*half, stopped, resume, *rest]
    summary = summarise([*records, End(reason="complete")])
    assert (summary.finished, summary.resumed, summary.iterations_done) == ("complete", 1, 2)
    assert lines(summary, "resumed") == ["resumed 1 time"]
    assert summarise(records).finished == "cut off"
    assert summarise([*half, stopped]).finished == "stopped by SIGINT"
    assert not lines(summarise(half), "resumed")


def test_a_run_until_its_verdict_says_why_it_ended() -> None:
    def ending(iterations: int, most: int = 1_000_000, reason: Any = "complete", **plan: Any) -> str:
        turns = [record for index in range(2 * iterations) for record in cycle(index, "ab"[index % 2])]
        run = run_of(most, until_decided=True, **plan)
        return shown(summarise([run, *turns, End(reason=reason)])).split("\n\n")[1].splitlines()[0]

    assert ending(12) == "12 of at most 1,000,000 iterations, complete: the verdict is decided"
    assert ending(5, 5) == (
        "5 of at most 5 iterations, complete: the iterations it was given are spent, and the verdict is not "
        "decided"
    )
    assert ending(5, most_s=1800.0) == (
        "5 of at most 1,000,000 iterations, complete: the 1,800 s it was given are spent, and the verdict is "
        "not decided"
    )
    assert ending(5, reason="failed") == "5 of at most 1,000,000 iterations, failed"


@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_real_log_cut_off_anywhere_gives_a_summary_and_its_report(
    run: Callable[..., subprocess.CompletedProcess[str]],
    script: Callable[..., str],
    tmp_path: Path,
    strategy: Strategy,
) -> None:
    models = (script("a", text="one two"), script("b", text="three"))
    run(*models, iterations=3, options=("--strategy", strategy.value))
    path = tmp_path / "out" / "run.jsonl"
    records = read_log(path)
    for length in range(1, len(records) + 1):
        summary = summarise(records[:length])
        assert summary.finished == ("complete" if length == len(records) else "cut off")
        assert shown(summary)
    whole = path.read_bytes()
    for end in range(whole.index(b"\n") + 1, len(whole), 997):  # also within a line
        path.write_bytes(whole[:end])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TornLineWarning)
            assert 0 <= summarise(read_log(path)).iterations_done <= 3


def test_logs_of_before_there_were_budgets_say_nothing_of_them() -> None:
    summary = summarise([run_of(1), *cycle(0, "a"), *cycle(1, "b"), End(reason="complete")])
    unknown = (summary.budgets, summary.group, summary.sampling, summary.settle_ms, summary.start_ms)
    assert unknown == (None,) * 5
    assert (summary.major_faults, summary.memory_limit_bytes, summary.resumed) == (None, None, 0)
    for word in ("prediction", "budget", "control group", "sampling", "memory came", "resumed"):
        assert not lines(summary, word)
