from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrswitch.allocators import AllocatorComparison, compare_allocators
from asrswitch.plan import Plan, Strategy
from asrswitch.records import End, Failure, Malloc, Reading, Record, Trim, WorkerStarted
from asrswitch.schedule import Release as ReleaseKind
from asrswitch.stats.verdict import Word
from asrswitch.strategies import Comparison, compare_strategies
from asrswitch.summary import Spread, Summary, summarise
from helpers.records import MIB, MODELS, cycle, memory, run_of

RELOAD, RESTART, RESIDENT, ISOLATE = Strategy
OUT_OF_MEMORY = Failure(
    cycle=1, iteration=1, model="b", worker=1, phase="load", kind="died", message="gone", out_of_memory=True
)


def spread(value: float) -> Spread:
    return Spread(1, value, value, value)


def run(
    strategy: Strategy,
    turn_ms: float | None,
    peak: float | None,
    word: Word = Word.FLAT,
    left: int | None = None,
    **fields: Any,
) -> tuple[Plan, Summary]:
    """A run of two models whose turns take so long, of which a tenth is TTFT, with a peak in MiB."""
    plan = run_of(20, strategy=strategy).plan
    summary = summarise([run_of(20), *cycle(0, "a")])
    turn = {"ttft_ms": None, "overhead_ms": None, "answer_ms": None}
    if turn_ms is not None:
        turn = {"ttft_ms": spread(turn_ms / 10), "overhead_ms": spread(turn_ms * 9 / 10), "answer_ms": None}
    resident = msgspec.structs.replace(summary.resident, peak=int((peak or 0) * MIB))
    verdict = msgspec.structs.replace(summary.verdicts[0].verdict, word=word, iterations_to_limit=left)
    changed = {
        "models": [msgspec.structs.replace(model, **turn) for model in summary.models],
        "resident": None if peak is None else resident,
        "verdicts": [msgspec.structs.replace(summary.verdicts[0], verdict=verdict)],
        **fields,
    }
    return plan, msgspec.structs.replace(summary, **changed)


def compare(*runs: tuple[Plan, Summary], limit: float | None = None, rate: float | None = None) -> Comparison:
    return compare_strategies(runs, None if limit is None else int(limit * MIB), rate)


# A second a turn, and 100 MiB; or nothing, and 300 MiB: as good until 36 switches an hour.
SLOW, QUICK = run(RELOAD, 1001.0, 100), run(RESIDENT, 1.0, 300)


@pytest.mark.parametrize(
    ("rate", "best"), [(36.0, RELOAD), (36.01, RESIDENT), (0.1, RELOAD), (1e6, RESIDENT)]
)
def test_up_to_a_hundredth_of_the_hour_the_lower_peak_is_worth_the_longer_turn(
    rate: float, best: Strategy
) -> None:
    assert compare(SLOW, QUICK, limit=1000, rate=rate).recommended is best


@pytest.mark.parametrize(("limit", "best"), [(300, RESIDENT), (299.99, RELOAD), (100, RELOAD), (99.99, None)])
def test_what_peaks_above_the_limit_is_out(limit: float, best: Strategy | None) -> None:
    comparison = compare(SLOW, QUICK, limit=limit, rate=1000.0)
    assert comparison.recommended is best
    if best is None:
        assert comparison.recommendation == (
            "no strategy fits 100.0 MiB: reload takes the least, 100.0 MiB at its peak"
        )
    elif best is RELOAD:
        assert comparison.notes[0].startswith("resident is out: its peak of 300.0 MiB is above the limit of")


@pytest.mark.parametrize(("peak", "best"), [(101.0, RESIDENT), (101.02, RELOAD)])
def test_peaks_that_are_the_same_leave_it_to_the_turns(peak: float, best: Strategy) -> None:
    quick = run(RESIDENT, 1.0, peak)
    assert compare(run(RELOAD, 2.0, 100), quick, limit=1000, rate=10.0).recommended is best


def test_the_reason_has_the_figures() -> None:
    def reason(*runs: tuple[Plan, Summary], rate: float = 10.0) -> str:
        return compare(*runs, limit=400, rate=rate).recommendation

    assert reason(SLOW, QUICK) == (
        "reload is the best at 10 switches an hour within 400.0 MiB: its peak is 100.0 MiB, that of "
        "resident, the quickest, 300.0 MiB, and its turns take 1.00 s instead of 1.0 ms: 10.0 s more an hour"
    )
    assert reason(SLOW, QUICK, rate=60.0) == (
        "resident is the best at 60 switches an hour within 400.0 MiB: its turns are the quickest (1.0 ms), "
        "and its peak is 300.0 MiB; reload takes 100.0 MiB, but 1.00 s a turn: 60.0 s more an hour"
    )
    assert reason(SLOW, run(RESIDENT, 2000.0, 300)) == (
        "reload is the best at 10 switches an hour within 400.0 MiB: its turns are the quickest (1.00 s), "
        "and no other's peak is noticeably lower (100.0 MiB)"
    )
    assert reason(SLOW) == (
        "reload is the best at 10 switches an hour within 400.0 MiB: no other is a choice; its turns take "
        "1.00 s, its peak is 100.0 MiB"
    )


FIGURES = (
    "Their turns (load, first text, release) and peaks: "
    "resident 1.0 ms and 300.0 MiB, reload 1.00 s and 100.0 MiB"
)


@pytest.mark.parametrize(
    ("limit", "rate", "said"),
    [
        (None, None, "best: resident where there are at least 300.0 MiB and models are switched more than "
         "36 times an hour; else reload. "),
        (400.0, None, "best within 400.0 MiB: resident where models are switched more than 36 times an hour; "
         "else reload. "),
        (None, 60.0, "best at 60 switches an hour: resident where there are at least 300.0 MiB; "
         "else reload. "),
    ],
)  # fmt: skip
def test_without_limit_or_rate_the_thresholds_are_told(
    limit: float | None, rate: float | None, said: str
) -> None:
    comparison = compare(SLOW, QUICK, limit=limit, rate=rate)
    assert comparison.recommended is None
    assert comparison.recommendation == said + FIGURES


def test_without_limit_and_rate_one_may_be_the_best_everywhere() -> None:
    comparison = compare(SLOW, run(ISOLATE, 1002.0, 100))
    assert comparison.recommended is RELOAD
    assert compare(SLOW, QUICK, rate=10.0).recommended is RELOAD


def test_a_strategy_that_never_switches_is_there_to_compare_with() -> None:
    baseline = run(RESTART, 0.5, 50)
    comparison = compare(baseline, SLOW, QUICK, limit=1000, rate=10.0)
    assert comparison.recommended is RELOAD
    assert "restart is out: it never switches, and is here to compare with" in comparison.notes
    assert (
        "a turn without switching (restart) takes 0.5 ms; with it: reload +1.00 s, resident +0.5 ms"
        in comparison.notes
    )
    plan, summary = baseline
    alone = (msgspec.structs.replace(plan, models=MODELS[:1]), summary)
    assert compare(alone, SLOW, limit=1000, rate=10.0).recommended is RESTART


def test_a_leak_is_out_unless_nothing_else_is_left() -> None:
    leak = run(RELOAD, 1.0, 100, Word.LEAK, left=1234)
    sound = compare(leak, run(ISOLATE, 100_000.0, 400), limit=400, rate=1000.0)
    assert sound.recommended is ISOLATE
    assert "no other is a choice" in sound.recommendation
    assert sound.notes == ["reload is out: it leaks memory"]
    tight = compare(leak, run(ISOLATE, 100_000.0, 400), limit=399, rate=1000.0)
    assert tight.recommended is RELOAD
    assert tight.notes[0] == (
        "reload leaks memory and runs out after 1,234 more iterations, and nothing else is left: "
        "restart the process in time"
    )
    assert compare(run(RELOAD, 1.0, 100, Word.LEAK)).notes[0].startswith("reload leaks memory, and nothing")


def test_what_is_not_known_of_the_recommended_is_said() -> None:
    mishap = msgspec.structs.replace(OUT_OF_MEMORY, out_of_memory=False)
    unsure = run(RELOAD, 1.0, 100, Word.INCONCLUSIVE, failures=[mishap])
    other = run(RESIDENT, 2.0, 300, Word.INCONCLUSIVE)
    assert compare(unsure, other, limit=1000, rate=1.0).notes == [
        "whether reload leaks memory is not decided: run more iterations",
        "reload had 1 failure: see its run",
    ]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (run(RESIDENT, 1.0, 50, failures=[OUT_OF_MEMORY]), "it ran out of memory"),
        (
            run(RESIDENT, 1.0, 50, failures=[msgspec.structs.replace(OUT_OF_MEMORY, kind="refused")]),
            "a load was refused for want of memory",
        ),
        (run(RESIDENT, None, 50), "not every model's turn was measured; "
         "it takes three iterations in a worker"),
        (run(RESIDENT, None, None, failures=[msgspec.structs.replace(OUT_OF_MEMORY, out_of_memory=False)]),
         "not every model's turn was measured"),
        (run(ISOLATE, None, 50), "not every model's turn was measured"),
    ],
)  # fmt: skip
def test_a_strategy_that_was_not_measured_as_a_whole_is_out(other: tuple[Plan, Summary], why: str) -> None:
    comparison = compare(SLOW, other, limit=1000, rate=1000.0)
    assert comparison.recommended is RELOAD
    assert comparison.notes == [f"{other[0].strategy.value} is out: {why}"]


def test_nothing_measured_is_no_recommendation() -> None:
    empty = [(run_of(1, strategy=strategy).plan, summarise([run_of(1)])) for strategy in Strategy]
    for limit, rate in itertools.product((None, MIB), (None, 1.0)):
        for runs in (empty, []):
            comparison = compare_strategies(runs, limit, rate)
            assert comparison.recommendation == "no strategy can be recommended: none was measured as a whole"
            assert (comparison.rules, comparison.recommended) == ([], None)


def test_figures_are_means_over_the_models() -> None:
    """Of records: reload loads for 100 ms, unloads for 10, each plus the cycle's number."""
    records: list[Record] = [run_of(2), WorkerStarted(worker=1, pid=1, log="", start_ms=60.0)]
    for index in range(4):
        records += cycle(index, "ab"[index % 2])
    (figures,) = compare(((run_of(2).plan), summarise([*records, End(reason="complete")]))).strategies
    assert (figures.ttft_ms, figures.answer_ms, figures.overhead_ms) == (5.0, 106.5, 113.0)
    assert (figures.turn_ms, figures.switch_ms) == (118.0, (113.0 + 113.0) / 2)
    assert (figures.start_ms, figures.peak_bytes, figures.retained_bytes) == (60.0, 40 * MIB, MIB)
    assert (figures.word, figures.failures, figures.out) == (Word.INCONCLUSIVE, 0, None)
    part = summarise([run_of(2), *cycle(0, "a")])  # of one model alone: unlike the others'
    assert compare((run_of(2).plan, part)).strategies[0].ttft_ms is None


WORDS = st.sampled_from(Word)
MAYBE_TURN = st.none() | st.floats(0.01, 1e6)
MAYBE_PEAK = st.none() | st.floats(1, 1e5)
RUNS = st.lists(
    st.tuples(st.sampled_from(Strategy), MAYBE_TURN, MAYBE_PEAK, WORDS, st.none() | st.integers(0, 9)),
    max_size=4,
    unique_by=lambda run: run[0],
)


@given(RUNS, st.none() | st.floats(1, 1e5), st.none() | st.floats(0.01, 1e6))
def test_whatever_was_measured_the_recommended_is_open_and_none_that_is_as_good_peaks_lower(
    given_runs: list[tuple[Any, ...]], limit: float | None, rate: float | None
) -> None:
    comparison = compare(*(run(*item) for item in given_runs), limit=limit, rate=rate)
    items = {item.strategy: item for item in comparison.strategies}
    fits = [
        item for item in items.values()
        if item.out is None and (limit is None or (item.peak_bytes or 0) <= int(limit * MIB))
    ]  # fmt: skip
    assert bool(comparison.rules) is bool(fits)
    assert {rule.strategy for rule in comparison.rules} <= {item.strategy for item in fits}
    assert comparison.recommendation
    if comparison.recommended and limit is not None and rate is not None:
        best = items[comparison.recommended]
        sound = [item for item in fits if item.word is not Word.LEAK] or fits
        assert best in sound
        quickest = min(item.turn_ms or 0 for item in sound)
        longer = (best.turn_ms or 0) - quickest
        assert longer * rate <= 36_000 * (1 + 1e-9) or longer <= quickest / 100 * (1 + 1e-9)
        for other in sound:
            as_good = ((other.turn_ms or 0) - quickest) * rate <= 36_000 * (1 - 1e-9)
            peak = other.peak_bytes or 0
            assert not as_good or (best.peak_bytes or 0) <= peak + max(peak / 100, MIB)


@given(RUNS, st.floats(1, 1e5), st.floats(0.01, 1e6))
def test_the_thresholds_say_what_the_choice_would_be(
    given_runs: list[tuple[Any, ...]], limit: float, rate: float
) -> None:
    """At any limit that is the peak of one, and any rate, the first rule that applies is the choice there."""
    runs = [run(*item) for item in given_runs]
    peaks = sorted({item[2] for item in given_runs if item[2] is not None})
    distinct = all(b > a + max(a / 50, 2) for a, b in itertools.pairwise(peaks))
    rules = compare(*runs).rules
    for at in [limit, *peaks]:
        there = compare(*runs, limit=at, rate=rate)
        first = next((r for r in rules if r.least_bytes <= int(at * MIB) and rate > r.above_per_hour), None)
        if distinct:
            assert (first.strategy if first else None) is there.recommended
        by_rate = compare(*runs, limit=at).rules
        at_rate = next((r for r in by_rate if rate > r.above_per_hour), None)
        assert (at_rate.strategy if at_rate else None) is there.recommended


def allocator_run(
    retained: float = 0, trimmed: float | None = 0, leak: int = 0, iterations: int = 20
) -> Summary:
    """A run with so many MiB of anonymous memory left, of which a trim takes some; heap is lost a cycle."""
    records: list[Record] = [run_of(iterations)]
    for index in range(2 * iterations):
        label = "ab"[index % 2]
        for record in cycle(index, label):
            if isinstance(record, Reading):
                lost = leak * (index + (record.point == "after_unload"))
                above = int(retained * MIB) if record.point == "after_unload" or index else 0
                rss = 10 * MIB + above + lost
                record = msgspec.structs.replace(
                    record, memory=memory(rss, rss), malloc=Malloc(MIB + lost, 7 * MIB, 8 * MIB, 0)
                )
            records.append(record)
        if trimmed is not None:
            place = {"cycle": index, "iteration": index // 2 + 1, "model": label, "worker": 1}
            records.append(
                Trim(**place, point="after_unload", on="copy", anonymous_before_bytes=200 * MIB,
                     anonymous_bytes=200 * MIB - int(trimmed * MIB), malloc=None, ms=1.0)  # type: ignore[arg-type]
            )  # fmt: skip
    return summarise(records)


def test_what_a_trim_gives_back_is_the_allocators() -> None:
    comparison = compare_allocators([("glibc", allocator_run(40, 38))])
    assert (comparison.allocators_part_bytes, comparison.library_part_bytes) == (38 * MIB, 2 * MIB)
    assert comparison.conclusions[0] == (
        "of 40.0 MiB of anonymous memory that stay after an unload under glibc, 38.0 MiB are the "
        "allocator's: they go under glibc after a trim; 2.0 MiB stay in any case and are the library's"
    )


def test_what_another_allocator_does_not_retain_is_the_allocators() -> None:
    runs = [("glibc", allocator_run(40, 0)), ("jemalloc", allocator_run(0.5, 30))]
    comparison = compare_allocators(runs)
    assert comparison.conclusions[0] == (
        "of 40.0 MiB of anonymous memory that stay after an unload under glibc, 39.5 MiB are the "
        "allocator's: they go under jemalloc; next to nothing is the library's"
    )
    glibc, jemalloc = comparison.allocators
    assert (glibc.kept_bytes, glibc.trimmed_bytes, glibc.untrimmed_bytes) == (7 * MIB, 0, 40 * MIB)
    assert glibc.held_growth is not None and glibc.held_growth.slope == 0
    unknown = (jemalloc.kept_bytes, jemalloc.trimmed_bytes, jemalloc.untrimmed_bytes, jemalloc.held_growth)
    assert unknown == (None,) * 4  # glibc's figures say nothing of another malloc
    assert (jemalloc.load_ms, jemalloc.ttft_ms) == (120 - 0.5, 5.0)


def test_what_stays_whatever_the_allocator_is_the_librarys() -> None:
    runs = [
        ("glibc", allocator_run(40, 0)),
        ("arenas-2", allocator_run(41, 1)),
        ("tcmalloc", allocator_run(60)),
    ]
    comparison = compare_allocators(runs)
    assert comparison.library_part_bytes == 40 * MIB
    assert comparison.conclusions[:3] == [
        "of 40.0 MiB of anonymous memory that stay after an unload under glibc, none are the "
        "allocator's: at least 40.0 MiB stay in any case",
        "arenas-2 adds 1.0 MiB to that, its own",
        "tcmalloc adds 20.0 MiB to that, its own",
    ]


@pytest.mark.parametrize(("retained", "told"), [(0.999, False), (1, True)])
def test_less_than_a_mebibyte_is_not_divided(retained: float, told: bool) -> None:
    (said,) = compare_allocators([("glibc", allocator_run(retained, retained))]).conclusions
    assert said.startswith("of 1.0 MiB" if told else "next to nothing stays after an unload: +1.0 MiB")


def test_heap_in_use_that_grows_is_the_librarys() -> None:
    comparison = compare_allocators(
        [("glibc", allocator_run(2, 0, leak=4096)), ("jemalloc", allocator_run(2, 0))]
    )
    assert comparison.conclusions[-1] == (
        "heap in use grows an iteration: +8.0 KiB under glibc; that is the library's, "
        "and no allocator mends it"
    )


def only_leaks(summary: Summary, word: Word) -> Summary:
    item = summary.verdicts[0]
    verdict = msgspec.structs.replace(item.verdict, word=word)
    return msgspec.structs.replace(summary, verdicts=[msgspec.structs.replace(item, verdict=verdict)])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((Word.LEAK, Word.FLAT), "memory grows under glibc and not under jemalloc, and heap in use does not: "
         "what grows is the allocator's"),
        ((Word.LEAK, Word.LEAK), "memory grows under glibc, jemalloc: it is not known to be the allocator's"),
        ((Word.FLAT, Word.INCONCLUSIVE), "whether memory grows under jemalloc is not decided: "
         "run more iterations"),
        ((Word.FLAT, Word.PLATEAU), None),
    ],
)  # fmt: skip
def test_growth_is_the_allocators_where_another_has_none(words: tuple[Word, Word], said: str | None) -> None:
    steady = allocator_run(0, 0)
    runs = [(name, only_leaks(steady, word)) for name, word in zip(("glibc", "jemalloc"), words, strict=True)]
    assert compare_allocators(runs).conclusions[1:] == ([said] if said else [])


def test_an_allocator_whose_run_failed_is_none_the_less_there() -> None:
    failed = summarise([run_of(1), OUT_OF_MEMORY])
    comparison = compare_allocators([("glibc", failed), ("tcmalloc", allocator_run(0))])
    assert comparison.conclusions == ["nothing was retained that could be compared"]
    assert [item.failures for item in comparison.allocators] == [1, 0]
    assert (
        compare_allocators([("glibc", allocator_run(40, 0)), ("tcmalloc", failed)]).library_part_bytes
        == 40 * MIB
    )
    assert compare_allocators([]) == AllocatorComparison(
        [], None, None, ["nothing was retained that could be compared"]
    )


def test_strategies_of_real_schedules_are_compared() -> None:
    """Resident models are not measured by their first and last turns; isolated ones by their exits."""
    resident: list[Record] = [run_of(4, strategy=RESIDENT)]
    isolate: list[Record] = [run_of(4, strategy=ISOLATE)]
    for index in range(8):
        label = "ab"[index % 2]
        how = ReleaseKind.DESTROY if index > 5 else ReleaseKind.RESTART
        resident += cycle(index, label, how=how, load=index < 2)
        isolate += cycle(index, label, worker=index + 1, how=ReleaseKind.EXIT)
    runs = [(run_of(4, strategy=RESIDENT).plan, summarise(resident)),
            (run_of(4, strategy=ISOLATE).plan, summarise(isolate))]  # fmt: skip
    comparison = compare_strategies(runs, None, 1000.0)
    turns = {item.strategy: item.turn_ms for item in comparison.strategies}
    assert turns == {RESIDENT: 5.0 + 13.5, ISOLATE: 5.0 + 110.0 + 7.0}
    assert comparison.recommended is RESIDENT
