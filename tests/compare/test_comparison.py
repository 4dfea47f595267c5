from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import changed, compared, figure, make_run, side

from asrswitch.compare.comparison import RUN_TO_RUN, Comparison, Evidence, Word
from asrswitch.compare.runs import LoggedRun
from asrswitch.model import Model
from asrswitch.plan import Strategy
from asrswitch.records import Failure, Transcription
from helpers.records import MIB

TURNS: dict[str, Any] = {"rounds": 6, "iterations": 36}


def in_turns(**of_second: Any) -> tuple[LoggedRun, LoggedRun]:
    """Two runs of one command, on a machine that is now slow and now quick."""
    machine = (1.0, 2.0, 1.1, 3.0, 0.8, 1.7)
    first = make_run("D/one", variant="one", machine=machine, begins=(0, 1, 2, 3, 4, 5), **TURNS)
    begins = tuple(hour + 0.5 for hour in range(6))
    second = {"machine": machine, "begins": begins, "seed": 1, **TURNS, **of_second}
    return first, make_run("D/two", variant="two", **second)


spreads = st.floats(0, 0.5)
seeds = st.integers(0, 99)


@settings(deadline=None, max_examples=10)
@given(spreads, seeds, st.sampled_from(Strategy), st.integers(1, 20), st.integers(1, 400))
def test_a_run_does_not_differ_from_itself_wherever_it_was_cut_off(
    spread: float, seed: int, strategy: Strategy, iterations: int, length: int
) -> None:
    run = make_run(iterations=iterations, seed=seed, spread=spread, strategy=strategy)
    cut = LoggedRun(run.path, run.records[:length])
    comparison = compared(cut, cut)
    assert changed(comparison) == set()
    for found in comparison.pairs[0].figures:
        assert found.word is Word.NOT_COMPARABLE or found.beyond == pytest.approx(0)
        assert (found.reason is None) is (found.word is Word.NO_DIFFERENCE)


@settings(deadline=None, max_examples=10)
@given(spreads, st.floats(0.5, 2), st.floats(0.5, 2), seeds)
def test_swapped_sides_invert_ratios_and_words(spread: float, ttft: float, decode: float, seed: int) -> None:
    one = make_run("A", seed=seed, spread=spread, iterations=16)
    other = make_run("B", seed=seed + 1, spread=spread, iterations=20, ttft=ttft, decode=decode)
    opposite = {
        Word.FASTER: Word.SLOWER, Word.SLOWER: Word.FASTER, Word.HIGHER: Word.LOWER, Word.LOWER: Word.HIGHER
    }  # fmt: skip
    there, back = compared(one, other), compared(other, one)
    for forth, returned in zip(there.pairs[0].figures, back.pairs[0].figures, strict=True):
        assert returned.word is opposite.get(forth.word, forth.word)
        assert (returned.baseline, returned.other) == (forth.other, forth.baseline)
        assert returned.p == pytest.approx(forth.p)
        if forth.change is not None and forth.low is not None and forth.high is not None:
            undone = [-forth.change, -forth.high, -forth.low]
            if forth.kind.by_ratio:
                undone = [1 / forth.change, 1 / forth.high, 1 / forth.low]
            assert [returned.change, returned.low, returned.high] == pytest.approx(undone)


def test_what_is_slower_is_said_to_be() -> None:
    comparison = compared(make_run("A"), make_run("B", seed=1, ttft=1.2, decode=1.2))
    assert changed(comparison) == {
        ("ttft", "slower"), ("rtf", "slower"), ("tokens_per_s", "slower"), ("chars_per_s", "slower")
    }  # fmt: skip
    ttft = figure(comparison, "ttft")
    assert ttft.baseline == pytest.approx(50, rel=0.02)
    assert ttft.other == pytest.approx(60, rel=0.02)
    assert ttft.change == pytest.approx(1.2, rel=0.02)
    assert ttft.low is not None and ttft.high is not None
    assert 1.12 < ttft.low < 1.2 < ttft.high < 1.28
    assert ttft.p is not None and ttft.p < 0.001
    assert figure(comparison, "tokens_per_s").change == pytest.approx(1 / 1.2, rel=0.02)


def test_single_runs_do_not_tell_what_may_be_run_to_run() -> None:
    """However little noise there is within each."""
    comparison = compared(make_run("A", spread=1e-4), make_run("B", spread=1e-4, seed=1, ttft=1.05))
    assert comparison.pairs[0].evidence is Evidence.SINGLE
    assert "one run a side" in comparison.pairs[0].trust
    assert changed(comparison) == set()
    found = figure(comparison, "ttft")
    assert found.smallest is not None and found.low is not None
    assert 3 * RUN_TO_RUN < found.smallest < 8 * RUN_TO_RUN
    assert found.low < 1.05 - 2 * RUN_TO_RUN


def test_runs_that_took_turns_tell_a_difference_the_machine_would_hide() -> None:
    first, second = in_turns(ttft=1.08)
    comparison = compared(first, second)
    assert comparison.pairs[0].evidence is Evidence.INTERLEAVED
    assert "6 rounds" in comparison.pairs[0].trust
    assert changed(comparison) == {("ttft", "slower"), ("rtf", "slower")}
    assert changed(compared(*in_turns())) == set()


def test_what_runs_that_took_turns_differ_in_is_no_reproach() -> None:
    first, second = in_turns(strategy=Strategy.ISOLATE, threads=2)
    assert compared(first, second).pairs[0].differs == []
    alone = compared(make_run("A"), make_run("B", strategy=Strategy.ISOLATE, threads=2))
    assert alone.pairs[0].differs == ["threads: 1 against 2", "strategy: reload against isolate"]


@pytest.mark.parametrize(
    ("begins", "why"),
    [
        (tuple(hour + 0.01 for hour in range(6)), "at once"),
        (tuple(hour + 10.5 for hour in range(6)), "long after"),
    ],
)
def test_rounds_that_did_not_follow_one_another_are_no_pairs(begins: tuple[float, ...], why: str) -> None:
    first, second = in_turns(begins=begins)
    evidence = compared(first, second).pairs[0].evidence
    # A stretch that lasts into the other's, or lies behind all others.
    assert evidence is Evidence.SINGLE, why


def test_a_run_that_was_cut_off_is_compared_as_far_as_it_came() -> None:
    first, second = in_turns(ttft=1.5)
    cut = LoggedRun(second.path, second.records[: len(second.records) * 2 // 3])
    comparison = compared(first, cut)
    assert "4 rounds" in comparison.pairs[0].trust
    assert ("ttft", "slower") in changed(comparison)
    assert "two: cut off after 24 of 36 iterations" in [
        n.removeprefix("D/") for n in comparison.pairs[0].notes
    ]


def test_of_groups_each_run_counts_once() -> None:
    def group(name: str, ttft: float, spread: float, first_seed: int) -> Any:
        levels = (1.0, 1 + spread, 1 - spread, 1 + spread / 2)
        return side(
            *(make_run(f"{name}{i}", seed=first_seed + i, ttft=ttft * x) for i, x in enumerate(levels)),
            name=name,
        )

    found = compared(group("before", 1, 0.01, 0), group("after", 1.1, 0.01, 9))
    assert found.pairs[0].evidence is Evidence.GROUPS
    assert changed(found) == {("ttft", "slower"), ("rtf", "slower")}
    assert changed(compared(group("before", 1, 0.2, 0), group("after", 1.1, 0.2, 9))) == set()


def test_more_memory_is_higher() -> None:
    comparison = compared(make_run("A"), make_run("B", held_a_cycle=4096, seed=1))
    assert changed(comparison) == {("heap_slope", "higher")}
    slope = figure(comparison, "heap_slope", "a + b")
    assert slope.change == pytest.approx(2 * 4096)
    assert slope.smallest is not None and slope.smallest < 2 * 4096
    few = compared(make_run("A", iterations=5), make_run("B", iterations=5, held_a_cycle=4096))
    assert few.pairs[0].figures[-1].word is Word.NOT_COMPARABLE or figure(few, "heap_slope", "a + b").reason


def test_texts_are_exact() -> None:
    comparison = compared(make_run("A", wer=0.1), make_run("B", wer=0.2, seed=1))
    assert changed(comparison) == {("wer", "higher"), ("cer", "higher")}
    assert figure(comparison, "wer").change == pytest.approx(0.1)


def test_errors_of_synthetic_weights_are_not_compared() -> None:
    models = (Model("a", "/a", synthetic=True), Model("b", "/b"))
    comparison = compared(make_run("A", wer=0.1, models=models), make_run("B", wer=0.2, models=models))
    assert figure(comparison, "wer").reason == "synthetic weights: the text means nothing"
    assert figure(comparison, "wer", "b").word is Word.HIGHER


def spoken_otherwise(run: LoggedRun, callbacks: int | None = None, text: str | None = None) -> LoggedRun:
    """The run with its texts in other pieces, or with another text."""

    def change(record: Any) -> Any:
        if not isinstance(record, Transcription):
            return record
        figures = msgspec.structs.replace(record.figures, callbacks=callbacks or record.figures.callbacks)
        return msgspec.structs.replace(record, figures=figures, raw=text or record.raw)

    return LoggedRun(run.path, [change(record) for record in run.records])


def test_tokens_are_not_compared_where_the_same_text_comes_in_other_pieces() -> None:
    one, other = make_run("A"), make_run("B", seed=1, decode=2)
    comparison = compared(one, spoken_otherwise(other, callbacks=9))
    tokens = figure(comparison, "tokens_per_s")
    assert tokens.word is Word.NOT_COMPARABLE
    assert tokens.reason is not None and "other pieces" in tokens.reason
    assert figure(comparison, "chars_per_s").word is Word.SLOWER


def test_texts_that_differ_are_told() -> None:
    comparison = compared(make_run("A"), spoken_otherwise(make_run("B"), text="xyz"))
    assert "a: texts differ: other words take other times" in comparison.pairs[0].notes
    assert figure(comparison, "tokens_per_s").word is Word.NO_DIFFERENCE


def test_a_failure_is_told_and_the_rest_compared() -> None:
    run = make_run("B")
    lost = Failure(cycle=9, iteration=5, model="b", worker=1, phase="load", kind="died", message="gone")
    records = [r for r in run.records if getattr(r, "cycle", None) != 9]
    comparison = compared(make_run("A"), LoggedRun(run.path, [*records, lost]))
    assert any("failure" in note for note in comparison.pairs[0].notes)
    assert figure(comparison, "load", "b").word is Word.NO_DIFFERENCE


def test_a_drift_is_told() -> None:
    run = make_run("B", iterations=40, rounds=40, machine=tuple(1 + 0.01 * i for i in range(40)))
    notes = compared(make_run("A", iterations=40), run).pairs[0].notes
    assert any(note.startswith("B: TTFT of a drifts by +") for note in notes)
    assert not any(note.startswith("A:") for note in notes)


def test_what_was_not_measured_is_not_compared() -> None:
    comparison = compared(make_run("A", strategy=Strategy.RESIDENT), make_run("B"))
    load, switch = (figure(comparison, key) for key in ("load", "switch"))
    assert load.reason == "measured 1 and 24 times: it takes 12 on each side: run more iterations"
    assert switch.word is Word.NOT_COMPARABLE
    assert figure(comparison, "retained").word is Word.NOT_COMPARABLE


def test_few_turns_are_told_with_the_remedy() -> None:
    first, second = (
        make_run(f"in/{name}", iterations=14, rounds=2, variant=name, begins=(turn, turn + 2.0))
        for turn, name in enumerate("AB")
    )
    pair = compared(first, second).pairs[0]
    assert pair.evidence is Evidence.SINGLE
    assert "2 rounds of the turns can be paired, and it takes 3; run more iterations" in pair.trust


def test_models_that_only_one_side_has_are_left_out() -> None:
    comparison = compared(make_run("A"), make_run("B", models=(Model("a", "/a"),)))
    assert {f.model for f in comparison.pairs[0].figures if f.key == "ttft"} == {"a"}
    assert "model b: there against not there" in comparison.pairs[0].differs


def test_it_is_plain_values() -> None:
    comparison = compared(make_run("A"), make_run("B", seed=1, spread=3.0))
    encoded = msgspec.json.encode(comparison)
    assert msgspec.json.decode(encoded, type=Comparison) == comparison
    assert figure(comparison, "retained").baseline == MIB
