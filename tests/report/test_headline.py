from __future__ import annotations

import re
from pathlib import Path

import pytest
from report_examples import killed_records, replace, run_records, write_log

from asrswitch.plan import Strategy
from asrswitch.records import Record, Transcription
from asrswitch.report.headline import Headline, headline
from asrswitch.report.runs import read_report
from helpers.records import MIB


def of(tmp_path: Path, records: list[Record]) -> Headline:
    return headline(read_report(write_log(tmp_path, records)))


def test_no_growth(tmp_path: Path) -> None:
    said = of(tmp_path, run_records(20))
    assert (said.mood, said.title) == ("good", "No leak: memory does not grow")
    sentence, cost = said.sentences
    assert re.fullmatch(
        r"Over 20 iterations of a \+ b, resident memory stayed where it was "
        r"\(95 % interval 0 B to 0 B\); growth of 3\.2 KiB an iteration would have shown\.",
        sentence,
    )
    assert cost == (
        "Medians: switch to a 149.0 ms, first text 5.0 ms; switch to b 149.0 ms, first text 5.0 ms. "
        "Memory peaked at 40.0 MiB. "
        "After an unload it is +1.0 MiB from where it was before the first load."
    )


def test_a_leak_is_told_with_its_size_and_whose_it_is(tmp_path: Path) -> None:
    said = of(tmp_path, run_records(30, leak_bytes=64 << 10))
    assert (said.mood, said.title) == ("bad", "Memory leaks: +64.0 KiB heap in use an iteration")
    sentence = said.sentences[0]
    assert "heap in use grows by +64.0 KiB an iteration" in sentence
    assert "in cycles of b;" in sentence
    assert "more iterations" in sentence
    assert "leak-check" in sentence


def test_too_few_iterations(tmp_path: Path) -> None:
    said = of(tmp_path, run_records(3))
    assert said.mood == "open"
    assert said.title.startswith("Not decided")
    assert "too few iterations" in said.sentences[0]


def test_a_killed_worker_comes_first(tmp_path: Path) -> None:
    said = of(tmp_path, killed_records(30))
    assert said.mood == "bad"
    assert said.title.startswith("1 cycle failed. No leak")
    assert (
        "First failure, in iteration 4 of a: the worker was ended by SIGKILL in transcribe." in said.sentences
    )


def test_a_run_that_was_cut_off_says_so(tmp_path: Path) -> None:
    said = of(tmp_path, run_records(30)[:-20])
    assert said.mood == "open"
    assert any("cut off after" in sentence for sentence in said.sentences)


def test_figures_that_are_not_to_be_trusted(tmp_path: Path) -> None:
    records = run_records(20)
    at = next(index for index, record in enumerate(records) if isinstance(record, Transcription))
    records[at] = replace(records[at], raw="other")
    said = of(tmp_path, records)
    assert (said.mood, said.title[:8]) == ("bad", "INVALID:")
    assert any("different texts" in sentence for sentence in said.sentences)


@pytest.mark.parametrize(("leak_bytes", "mood"), [(0, "good"), (MIB, "bad")])
def test_several_runs_say_what_comparing_them_says(tmp_path: Path, leak_bytes: int, mood: str) -> None:
    for turn, (strategy, leak) in enumerate(((Strategy.ISOLATE, leak_bytes), (Strategy.RELOAD, 0))):
        records = run_records(20, leak_bytes=leak, strategy=strategy, variant=strategy.value, turn=turn)
        write_log(tmp_path / strategy.value, records)
    said = headline(read_report(tmp_path))
    assert said.mood == mood
    best = "reload" if leak_bytes else "isolate"  # the first of those with the same peak
    assert said.title == f"Best of 2 strategies here: {best}"
    assert said.sentences[0].startswith(f"{best.capitalize()} is the best")
    assert ("Memory leaks with isolate." in said.sentences) is bool(leak_bytes)
