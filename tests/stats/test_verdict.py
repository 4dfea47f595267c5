from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrswitch.stats.series import MINIMUM_ITERATIONS
from asrswitch.stats.verdict import (
    HELD,
    RESIDENT,
    Sample,
    Verdict,
    Word,
    growth_by_model,
    iterations_needed,
    judge,
)

GIB = 1 << 30
MIB = 1 << 20


def samples(
    resident: np.ndarray, held: np.ndarray | None = None, kept: np.ndarray | None = None, threads: object = 4
) -> list[Sample]:
    count = len(resident)
    held = np.full(count, 2 * MIB) if held is None else held
    kept = np.full(count, MIB) if kept is None else kept
    numbers = np.broadcast_to(np.asarray(threads), count)
    return [
        Sample(int(r), int(r) - 5 * MIB, 5 * MIB, int(h), int(k), {"threads": int(t)})
        for r, h, k, t in zip(resident, held, kept, numbers, strict=True)
    ]


def judged(resident: np.ndarray, **parts: object) -> Verdict:
    return judge(samples(resident, **parts), GIB)  # type: ignore[arg-type]


seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(30, 120), st.floats(4, 400))
def test_a_leak_that_is_put_in_is_found(seed: int, count: int, leak_kib: float) -> None:
    noise = np.random.default_rng(seed).normal(0, 4096, count)
    leak = leak_kib * 1024 * np.arange(count)
    verdict = judged(20 * MIB + leak + noise, held=2 * MIB + leak)
    assert verdict.word is Word.LEAK
    assert verdict.holder == "heap in use"
    assert verdict.held is not None
    assert verdict.held.slope == pytest.approx(leak_kib * 1024, rel=0.01)
    assert verdict.iterations_to_limit is not None


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(20, 120), st.integers(0, 20_000))
def test_noise_that_is_small_beside_the_tolerance_is_never_a_leak(seed: int, count: int, sigma: int) -> None:
    noise = np.random.default_rng(seed).normal(0, sigma, count)
    verdict = judged(20 * MIB + noise)
    assert verdict.word in (Word.FLAT, Word.INCONCLUSIVE)
    assert verdict.iterations_to_limit is None


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(40, 100), st.integers(1, 10), st.integers(2, 500))
def test_growth_that_ends_is_a_plateau_and_names_who_keeps_it(
    seed: int, count: int, knee: int, mib: int
) -> None:
    noise = np.random.default_rng(seed).normal(0, 2000, count)
    rise = np.minimum(np.arange(count) / knee, 1) * mib * MIB
    verdict = judged(20 * MIB + rise + noise, kept=MIB + rise)
    assert verdict.word is Word.PLATEAU
    assert verdict.holder == "heap kept back"
    assert verdict.leading == "resident memory"
    growth = verdict.series["resident memory"].verdict.warmup_growth
    assert growth == pytest.approx(mib * MIB, rel=0.2)
    assert growth > RESIDENT.warmup
    assert "malloc_trim" in verdict.next_step


def test_a_leak_that_hides_in_freed_memory_is_seen_in_what_is_held() -> None:
    count = 40
    held = 2 * MIB + 100 * 1024 * np.arange(count)
    verdict = judged(np.full(count, 400.0 * MIB), held=held, kept=100 * MIB - held)
    assert (verdict.word, verdict.holder) == (Word.LEAK, "heap in use")


def test_a_pool_that_fills_for_ever_is_a_leak_by_what_is_kept_back() -> None:
    rise = 200 * 1024 * np.arange(40)
    verdict = judged(20 * MIB + rise, kept=MIB + rise)
    assert (verdict.word, verdict.holder) == (Word.LEAK, "heap kept back")


def test_mappings_and_files_are_told_apart() -> None:
    rise = 200 * 1024 * np.arange(40)
    assert judged(20 * MIB + rise).holder == "mappings"
    series = samples(20 * MIB + rise)
    files = [Sample(s.resident_bytes, 15 * MIB, s.resident_bytes - 15 * MIB, None, None, {}) for s in series]
    verdict = judge(files, GIB)
    assert (verdict.word, verdict.holder, verdict.held) == (Word.LEAK, "file cache", None)


def test_threads_that_stay_are_a_leak() -> None:
    verdict = judged(np.full(30, 20.0 * MIB), threads=4 + np.arange(30))
    assert (verdict.word, verdict.holder) == (Word.LEAK, "threads")
    assert "threads" in verdict.reason


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("count", [20, 30, 50, 200])
def test_a_count_that_rises_every_few_iterations_is_a_leak(every: int, count: int) -> None:
    verdict = judged(np.full(count, 20.0 * MIB), threads=4 + np.arange(count) // every)
    assert (verdict.word, verdict.holder) == (Word.LEAK, "threads")


@given(st.integers(12, 60), st.data())
def test_a_count_that_rises_late_is_never_flat(count: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(3 * count // 4, count - 1))
    verdict = judged(np.full(count, 20.0 * MIB), threads=4 + np.maximum(np.arange(count) - at + 1, 0))
    assert verdict.word in (Word.LEAK, Word.INCONCLUSIVE)
    one = judged(np.full(count, 20.0 * MIB), threads=4 + (np.arange(count) >= at))
    assert one.word is Word.INCONCLUSIVE
    assert "threads" in one.reason


@given(st.integers(12, 60), st.data())
def test_a_count_that_settles_early_or_is_given_back_is_flat(count: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(1, count // 2))
    assert judged(np.full(count, 20.0 * MIB), threads=4 + (np.arange(count) >= at)).word is Word.FLAT
    spike = 4 + (np.arange(count) == data.draw(st.integers(0, count - 2)))
    assert judged(np.full(count, 20.0 * MIB), threads=spike).word is Word.FLAT


def test_what_is_held_must_be_known_well_enough() -> None:
    noise = np.random.default_rng(1).normal(0, 64 * 1024, 30)
    verdict = judged(np.full(30, 20.0 * MIB), held=2 * MIB + noise)
    assert verdict.word is Word.INCONCLUSIVE
    assert verdict.leading == "heap in use"
    assert verdict.reason.startswith("heap in use: strays too much")
    assert str(verdict.iterations_to_decide) in verdict.next_step
    assert verdict.iterations_to_decide is not None and verdict.iterations_to_decide > 30


@pytest.mark.parametrize("start", [30, 40, 45, 48])
def test_what_is_held_and_begins_to_grow_late_is_never_flat(start: int) -> None:
    rise = 20_000 * np.maximum(np.arange(50) - start, 0)
    verdict = judged(np.full(50, 20.0 * MIB), held=2 * MIB + rise)
    assert verdict.word in (Word.LEAK, Word.INCONCLUSIVE)


@given(st.integers(20, 120), st.lists(st.integers(0, 900), min_size=10, max_size=10))
def test_a_few_kib_of_heap_in_the_first_iterations_are_flat(count: int, steps: list[int]) -> None:
    held = 2 * MIB + np.cumsum([*steps, *[0] * (count - len(steps))])
    assert judged(np.full(count, 20.0 * MIB), held=held).word is Word.FLAT


@pytest.mark.parametrize("count", range(10, 41))
def test_small_steps_of_the_heap_do_not_make_a_run_of_any_length_inconclusive(count: int) -> None:
    """The shape of a real run: 8 KiB in the first iterations, one step of 2.5 KiB later, and level."""
    index = np.arange(count)
    held = 2 * MIB + np.minimum(index, 6) * 1300 + (index >= 8) * 56 + (index >= 18) * 2512
    assert judged(np.full(count, 20.0 * MIB), held=held).word is Word.FLAT


def test_a_very_long_run_is_judged_in_little_memory_and_time() -> None:
    noise = np.random.default_rng(1).normal(0, 4096, 50_000)
    assert judged(20 * MIB + noise).word is Word.FLAT
    leak = judged(20 * MIB + noise, held=2 * MIB + 2048.0 * np.arange(50_000))
    assert (leak.word, leak.holder) == (Word.LEAK, "heap in use")
    assert leak.held is not None and leak.held.slope == pytest.approx(2048)


def test_a_flat_run_says_what_it_could_have_seen() -> None:
    verdict = judged(np.full(30, 20.0 * MIB))
    assert verdict.word is Word.FLAT
    seen = {name: finding.verdict.detectable for name, finding in verdict.series.items()}
    assert seen["resident memory"] == RESIDENT.slope(30)
    assert seen["heap in use"] == HELD.slope(30)
    assert (verdict.leading, verdict.holder, verdict.next_step) == (None, None, "nothing")
    assert iterations_needed(verdict) == 0


def test_what_a_run_of_two_hundred_iterations_could_have_seen() -> None:
    """The shape of a real run: eight steps of the heap in the first iterations, and level."""
    held = 2 * MIB + np.minimum(np.arange(200), 8) * 300
    finding = judged(np.full(200, 20.0 * MIB), held=held).series["heap in use"].verdict
    assert (finding.word, finding.warmup_iterations) == (Word.FLAT, 8)
    assert finding.slope is not None and finding.slope.slope == 0
    assert finding.detectable is not None and finding.detectable <= 256


@pytest.mark.parametrize(
    ("holder", "every"),
    [
        *((holder, 1) for holder in ("heap in use", "mappings", "file cache", "threads", "descriptors")),
        *((holder, 3) for holder in ("heap in use", "threads", "descriptors")),
    ],
)
def test_a_leak_of_4_kib_or_of_one_is_found_in_50_iterations(holder: str, every: int) -> None:
    lost = np.arange(50) // every
    pages = 4096 * lost
    series = [
        Sample(
            20 * MIB + (int(page) if holder in ("heap in use", "mappings", "file cache") else 0),
            15 * MIB + (int(page) if holder in ("heap in use", "mappings") else 0),
            5 * MIB + (int(page) if holder == "file cache" else 0),
            2 * MIB + (int(page) if holder == "heap in use" else 0),
            MIB,
            {name: 4 + (int(number) if holder == name else 0) for name in ("threads", "descriptors")},
        )
        for page, number in zip(pages, lost, strict=True)
    ]
    verdict = judge(series, GIB)
    assert (verdict.word, verdict.holder) == (Word.LEAK, holder)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["sawtooth", "plateau", "step", "swells"]), st.integers(20, 120), st.integers(1, 500))
def test_what_malloc_keeps_back_is_never_called_a_leak(shape: str, count: int, mib: int) -> None:
    index = np.arange(count)
    rise = {
        "sawtooth": index % max(3, count // 5) / max(3, count // 5),
        "plateau": 1 - np.exp(-index * 12 / count),
        "step": (index >= count // 2).astype(float),
        "swells": np.abs(np.sin(index)),
    }[shape]
    assert judged(20 * MIB + rise * mib * MIB, kept=MIB + rise * mib * MIB).word is not Word.LEAK


def test_the_model_whose_cycles_grow_is_named() -> None:
    """Models in turn; the first loses 4 KiB a cycle, the second is heavier and loses nothing."""

    def sample(held: int) -> Sample:
        return Sample(20 * MIB + held, 15 * MIB + held, 5 * MIB, held, MIB, {})

    cycles: dict[str, list[tuple[Sample, Sample]]] = {"small": [], "large": []}
    held = 2 * MIB
    for _ in range(50):
        cycles["small"].append((sample(held), sample(held + 4096)))
        held += 4096
        cycles["large"].append((sample(held), sample(held)))
    grows = growth_by_model(cycles, "heap in use")
    assert list(grows) == ["small"]
    assert grows["small"].slope == pytest.approx(4096)
    assert list(growth_by_model(dict(reversed(cycles.items())), "resident memory")) == ["small"]
    assert growth_by_model(cycles, "descriptors") == growth_by_model({}, "heap in use") == {}
    assert growth_by_model({"small": cycles["small"][:9]}, "heap in use") == {}


def test_the_cause_leads_and_memory_runs_out_at_the_fastest_slope() -> None:
    lost = np.arange(50)
    verdict = judged(20 * MIB + 80 * 1024 * lost, held=2 * MIB + 1024 * lost, threads=4 + lost)
    assert (verdict.leading, verdict.holder) == ("threads", "threads")
    assert verdict.series["resident memory"].holder == "mappings"
    room = GIB - 20 * MIB - 80 * 1024 * 49
    assert verdict.iterations_to_limit == room // (80 * 1024)
    assert "/proc/PID/task" in verdict.next_step


def correlated(random: np.random.Generator, count: int, carried: float) -> np.ndarray:
    """A first-order process with steps of 1 MiB from its steady state; a random walk when all is carried."""
    steps = random.normal(0, MIB, count)
    series = np.empty(count)
    series[0] = steps[0] / np.sqrt(1 - carried**2) if carried < 1 else steps[0]
    for index in range(1, count):
        series[index] = carried * series[index - 1] + steps[index]
    return series


@pytest.mark.parametrize("carried", [0.0, 0.5, 0.9, 1.0])
def test_false_alarms_on_series_that_only_wander(carried: float) -> None:
    runs = 200
    words = [
        judged(200 * MIB + correlated(np.random.default_rng(seed), 20, carried)).word for seed in range(runs)
    ]
    assert words.count(Word.LEAK) / runs <= 0.02
    assert words.count(Word.INCONCLUSIVE) / runs > 0.8


def test_as_many_iterations_as_an_inconclusive_run_asks_for_decide_nine_times_in_ten() -> None:
    undecided = decided = 0
    for seed in range(60):
        few = judged(400 * MIB + np.random.default_rng(seed).normal(0, 300 * 1024, 20))
        if few.word is Word.INCONCLUSIVE:
            assert few.iterations_to_decide is not None and few.iterations_to_decide > 20
            noise = np.random.default_rng(10_000 + seed).normal(0, 300 * 1024, few.iterations_to_decide)
            undecided += 1
            decided += judged(400 * MIB + noise).word is not Word.INCONCLUSIVE
    assert undecided > 30
    assert decided / undecided >= 0.9


@pytest.mark.parametrize("count", [12, 20, 50])
def test_a_step_is_never_called_flat_however_late_it_comes(count: int) -> None:
    for at in range(1, count):
        verdict = judged(20 * MIB + 4.0 * MIB * (np.arange(count) >= at))
        assert verdict.word in (Word.PLATEAU, Word.INCONCLUSIVE), at
        if verdict.word is Word.INCONCLUSIVE:
            assert verdict.iterations_to_decide is not None and verdict.iterations_to_decide > count


@pytest.mark.parametrize("count", [12, 20, 50])
@pytest.mark.parametrize("height", [1, 2, 30])
def test_after_a_late_step_as_many_iterations_again_tell_whether_another_follows(
    count: int, height: int
) -> None:
    threads = 20 + height * (np.arange(count) >= count - 2)
    verdict = judged(np.full(count, 20.0 * MIB), threads=threads)
    assert (verdict.word, verdict.leading) == (Word.INCONCLUSIVE, "threads")
    assert verdict.iterations_to_decide == 2 * count


@given(st.integers(0, MINIMUM_ITERATIONS - 1))
def test_few_iterations_decide_nothing(count: int) -> None:
    verdict = judged(np.full(count, 20.0 * MIB))
    assert verdict.word is Word.INCONCLUSIVE
    assert str(MINIMUM_ITERATIONS) in verdict.reason
    assert iterations_needed(verdict) == max(1, MINIMUM_ITERATIONS - count)


@pytest.mark.parametrize(
    ("of_a", "of_b", "named"), [(3792, 320, ["a"]), (3152, 960, ["a"]), (4096, 2048, ["a", "b"])]
)
def test_a_model_is_not_named_for_what_malloc_s_cache_holds_after_it(
    of_a: int, of_b: int, named: list[str]
) -> None:
    """What is held after cycles of one model and not after those of the other adds up over cycles."""

    def pairs(growth: int) -> list[tuple[Sample, Sample]]:
        held = np.array([2 * MIB, 2 * MIB + growth])
        before, after = samples(np.full(2, 100 * MIB), held=held)
        return [(before, after)] * 60

    assert list(growth_by_model({"a": pairs(of_a), "b": pairs(of_b)}, "heap in use")) == named
