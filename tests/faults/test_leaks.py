"""Leaks of chosen size are found and attributed; what comes back, or ends, is never called one."""

from __future__ import annotations

import msgspec
import pytest
from injected import Inject, Outcome, Settings

from asrswitch.stats.verdict import Verdict, Word

pytestmark = pytest.mark.slow

KIB, MIB = 1 << 10, 1 << 20
BLOCK_HEADER = 16  # bytes that malloc adds to a block, at most


class Leak(msgspec.Struct, frozen=True):
    """What is lost in each cycle, and what the verdict is to make of it."""

    settings: Settings
    amount: float  # a cycle: bytes, or a number
    series: str  # where the amount shows
    holder: str
    leading: tuple[str, ...]
    extra: float = 0  # that may be found beyond the amount


def leaking_map(size: int) -> Leak:
    # The kernel may merge neighbours, and then their number does not rise.
    series = ("anonymous memory", "mappings")
    return Leak({"leak_map": size}, size, "anonymous memory", "mappings", series)


def leaking_heap(settings: Settings, blocks: int) -> Leak:
    """4 KiB in so many blocks a cycle."""
    name = "heap in use"
    return Leak(settings, 4 * KIB, name, name, (name,), blocks * BLOCK_HEADER)


PER_TOKEN = leaking_heap({"leak_token": 512}, 8)  # eight callbacks
LEAKS = {
    "heap": leaking_heap({"leak": 4 * KIB}, 1),
    "tokens": PER_TOKEN,
    "mapping": leaking_map(4 * KIB),
    "thread": Leak({"leak_thread": 1}, 1, "threads", "threads", ("threads",)),
    "descriptor": Leak({"leak_fd": 1}, 1, "descriptors", "descriptors", ("descriptors",)),
}
EVERYTHING: Settings = {"leak": MIB, "leak_map": MIB, "leak_thread": 1, "leak_fd": 1}


def only_verdict(outcome: Outcome) -> Verdict:
    (item,) = outcome.summary.verdicts
    return item.verdict


def is_amount(leak: Leak, slope: float) -> bool:
    """Whether it is what the script loses, with malloc's headers; 2 % are for what else moves."""
    return 0.98 * leak.amount <= slope <= 1.02 * leak.amount + leak.extra


def is_amount_of_a_model(leak: Leak, slope: float) -> bool:
    """What malloc's cache holds differs after cycles of different models: by less than 1 KiB."""
    cached = KIB if leak.series == "heap in use" else 0
    return 0.98 * leak.amount - cached <= slope <= 1.02 * leak.amount + leak.extra + cached


def assert_leak(verdict: Verdict, leak: Leak) -> None:
    assert (verdict.word, verdict.holder) == (Word.LEAK, leak.holder), verdict.reason
    assert verdict.leading in leak.leading
    slope = verdict.series[leak.series].verdict.slope
    assert slope and is_amount(leak, slope.slope)


@pytest.mark.parametrize(
    ("kind", "guilty_first"),
    [
        ("heap", True),
        ("heap", False),
        ("tokens", True),
        ("mapping", False),
        ("thread", True),
        ("descriptor", False),
    ],
)
def test_a_leak_is_found_in_50_iterations_and_its_model_named(
    kind: str, guilty_first: bool, inject: Inject
) -> None:
    leak = LEAKS[kind]
    models: list[tuple[str, Settings]] = [("guilty", leak.settings), ("benign", {})]
    outcome = inject(dict(models if guilty_first else reversed(models)), options=("--check",))
    assert outcome.code == 3, outcome.errors
    assert_leak(only_verdict(outcome), leak)
    growth = outcome.summary.verdicts[0].growth_by_model
    assert list(growth) == ["guilty"]
    if only_verdict(outcome).leading == leak.series:
        assert is_amount_of_a_model(leak, growth["guilty"].slope)
    assert "grows in cycles of guilty (" in outcome.output


def test_a_larger_mapping_in_each_cycle_is_told_with_its_size(inject: Inject) -> None:
    leak = leaking_map(300 * KIB)
    outcome = inject({"benign": {}, "guilty": leak.settings}, iterations=20)
    assert_leak(only_verdict(outcome), leak)
    assert list(outcome.summary.verdicts[0].growth_by_model) == ["guilty"]


def test_a_leak_is_found_beside_a_pool_two_thousand_times_its_size(inject: Inject) -> None:
    models = {"guilty": LEAKS["heap"].settings, "benign": {"pool": f"{MIB},{10 * MIB}"}}
    outcome = inject(models)
    assert_leak(only_verdict(outcome), LEAKS["heap"])
    assert list(outcome.summary.verdicts[0].growth_by_model) == ["guilty"]


def test_among_resident_models_tokens_that_leak_are_found_and_loads_that_lost_once_are_not(
    inject: Inject,
) -> None:
    models = {"loads": {"leak": 4 * MIB}, "tokens": PER_TOKEN.settings}
    outcome = inject(models, options=("--strategy", "resident"))
    assert_leak(only_verdict(outcome), PER_TOKEN)  # and not a byte of the 4 MiB
    assert "loads" not in outcome.summary.verdicts[0].growth_by_model


def test_of_models_that_stay_loaded_in_turn_the_one_that_leaks_is_named(inject: Inject) -> None:
    models = {"tokens": PER_TOKEN.settings, "loads": {"leak": 4 * MIB}}
    outcome = inject(models, options=("--strategy", "restart"))
    verdicts = {item.subject: item.verdict for item in outcome.summary.verdicts}
    assert_leak(verdicts["tokens"], PER_TOKEN)
    assert verdicts["loads"].word is Word.FLAT
    assert outcome.summary.word is Word.LEAK


@pytest.mark.parametrize("strategy", ["resident", "restart"])
def test_what_loads_lose_is_lost_once_where_models_stay_loaded(strategy: str, inject: Inject) -> None:
    outcome = inject({"a": EVERYTHING, "b": EVERYTHING}, iterations=20, options=("--strategy", strategy))
    assert {item.verdict.word for item in outcome.summary.verdicts} == {Word.FLAT}


def test_what_an_isolated_cycle_loses_dies_with_its_process(inject: Inject) -> None:
    outcome = inject({"a": EVERYTHING}, iterations=12, options=("--strategy", "isolate"))
    verdict = only_verdict(outcome)
    # Processes differ by some pages of files, and twelve of them are few.
    assert verdict.word in (Word.FLAT, Word.INCONCLUSIVE)
    assert not any(finding.verdict.word is Word.LEAK for finding in verdict.series.values())
    assert verdict.held and abs(verdict.held.slope) < KIB


@pytest.mark.parametrize(
    ("settings", "word", "holder"),
    [
        # Lost before the first reading, and never again.
        ({"leak_once": 100 * KIB}, Word.FLAT, None),
        ({"leak_once": 10 * MIB}, Word.FLAT, None),
        # Ten teeth, lower than what a run may grow.
        ({"sawtooth": f"{4 * KIB},5"}, Word.FLAT, None),
        # Teeth far higher than that, of which the run sees six, or two and a half: it says it cannot tell.
        ({"sawtooth": f"{MIB},8"}, Word.INCONCLUSIVE, None),
        ({"sawtooth": f"{MIB},20"}, Word.INCONCLUSIVE, None),
        # Kept back by malloc since the first unload, and used again by each load.
        ({"retain": 64}, Word.FLAT, None),
        ({"retain": 4 * KIB}, Word.FLAT, None),
        ({"retain": 64 * KIB}, Word.FLAT, None),
        # As much as the largest load until then took.
        ({"retain": f"{KIB},{16 * KIB}"}, Word.PLATEAU, "heap kept back"),
        # A pool that is full after 16 loads, or after ten.
        ({"pool": f"{4 * KIB},{64 * KIB}"}, Word.FLAT, None),
        ({"pool": f"{MIB},{10 * MIB}"}, Word.PLATEAU, "heap in use"),
        # Full after 30 of 50: what follows is too short to speak for it.
        ({"pool": f"{MIB},{30 * MIB}"}, Word.INCONCLUSIVE, None),
    ],
)
def test_what_comes_back_or_ends_is_never_called_a_leak(
    settings: Settings, word: Word, holder: str | None, inject: Inject
) -> None:
    outcome = inject({"a": settings})
    verdict = only_verdict(outcome)
    assert (verdict.word, verdict.holder) == (word, holder), verdict.reason
    assert outcome.summary.verdicts[0].growth_by_model == {}


def test_retention_that_differs_from_cycle_to_cycle_is_not_called_a_leak(inject: Inject) -> None:
    """A trim after each reading gives back what malloc kept; the next keeps what its own load took."""
    outcome = inject({"a": {"retain": f"{KIB},{16 * KIB}"}}, options=("--trim", "always"))
    verdict = only_verdict(outcome)
    assert verdict.word in (Word.FLAT, Word.INCONCLUSIVE)
    assert verdict.series["heap in use"].verdict.word is Word.FLAT


def test_models_that_leak_different_things_are_each_named(inject: Inject) -> None:
    outcome = inject({"aaaa": {"leak_thread": 1}, "bbbb": {"leak": 64 << 10}, "cccc": {}}, 30)
    (item,) = outcome.summary.verdicts
    assert item.verdict.leading == "threads"
    assert item.growth["threads"].keys() == {"aaaa"}
    assert item.growth["heap in use"].keys() >= {"bbbb"} and "cccc" not in item.growth["heap in use"]
    assert "heap in use grows in cycles of" in outcome.output and "threads grows in" in outcome.output


def test_a_model_that_stays_loaded_and_leaks_with_each_token_is_named(inject: Inject) -> None:
    outcome = inject({"aaaa": {}, "bbbb": {"leak_token": 1024}}, 40, ("--strategy", "resident"))
    (item,) = outcome.summary.verdicts
    assert item.verdict.leading == "heap in use" and item.growth_by_model.keys() == {"bbbb"}
