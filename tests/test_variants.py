from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from asrswitch.errors import UsageError
from asrswitch.plan import CacheState, Options, Plan, Strategy
from asrswitch.variants import make_plans, make_varying

NOW = datetime(2026, 1, 2, 3, 4, 5)


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "m.bin"
    path.write_bytes(b"x")
    return str(path)


def plans_of(
    model: str,
    clip: Path,
    iterations: str = "20",
    strategy: str = "reload",
    allocator: str = "glibc",
    type: str | None = None,
    threads: str | None = None,
    context: str | None = None,
    libraries: tuple[str, ...] = (),
    cache: str = "as-is",
) -> list[Plan]:
    options = Options(iterations=iterations, models=[f"m={model}"], audio=[str(clip)], out="/o")
    varying = make_varying(strategy, allocator, type, threads, context, libraries, cache)
    return make_plans(options, varying, {}, NOW)


def test_one_of_each_is_one_run_with_no_name(model: str, clip: Path) -> None:
    (alone,) = plans_of(model, clip, threads="3", libraries=("/l.so",))
    assert (alone.out, alone.rounds, alone.variant, alone.turn) == ("/o", 1, None, 0)
    assert (alone.threads, alone.library, alone.strategy) == (3, "/l.so", Strategy.RELOAD)


def test_all_strategies_are_runs_of_rounds_that_bear_a_verdict(model: str, clip: Path) -> None:
    plans = plans_of(model, clip, strategy="all", iterations="60")
    assert [plan.strategy for plan in plans] == list(Strategy)
    assert [plan.out for plan in plans] == [f"/o/{strategy.value}" for strategy in Strategy]
    assert {plan.rounds for plan in plans} == {5} and {plan.iterations for plan in plans} == {60}
    assert [plan.turn for plan in plans] == [0, 1, 2, 3]
    for iterations, rounds in (("1", 1), ("23", 1), ("24", 2), ("500", 10)):
        plans = plans_of(model, clip, strategy="all", iterations=iterations)
        assert {plan.rounds for plan in plans} == {rounds}


def test_what_varies_gives_every_combination_a_name(model: str, clip: Path) -> None:
    plans = plans_of(model, clip, strategy="isolate,reload", threads="1-2,4", libraries=("/a.so", "/b.so"))
    assert len({plan.out for plan in plans}) == len(plans) == 12
    assert plans[0].variant == "isolate-threads-1-library-1"
    assert {(p.strategy.value, p.threads, p.library) for p in plans} == {
        (s, t, lib) for s in ("isolate", "reload") for t in (1, 2, 4) for lib in ("/a.so", "/b.so")
    }


def test_types_and_contexts_are_factors(clip: Path, tmp_path: Path) -> None:
    for type in ("q4_0", "q8_0"):
        (tmp_path / f"qwen3-asr-0.6b-{type}.bin").write_bytes(b"x")
    options = Options(iterations="20", models=["0.6B"], audio=[str(clip)], out="/o")
    varying = make_varying(type="q4_0,q8_0", context="256,512")
    plans = make_plans(options, varying, {"ASRSWITCH_MODELS": str(tmp_path)}, NOW)
    assert [plan.variant for plan in plans] == [
        f"{type}-context-{context}" for type in ("q4_0", "q8_0") for context in (256, 512)
    ]
    assert [(Path(plan.models[0].path).name, plan.context) for plan in plans] == [
        (f"qwen3-asr-0.6b-{type}.bin", context) for type in ("q4_0", "q8_0") for context in (256, 512)
    ]
    assert {plan.models[0].label for plan in plans} == {"0.6B"}


def test_cold_and_warm_are_a_factor(model: str, clip: Path) -> None:
    plans = plans_of(model, clip, cache="cold,warm", threads="1,2", iterations="24")
    assert [(plan.variant, plan.threads, plan.cache.value) for plan in plans] == [
        ("threads-1-cold", 1, "cold"),
        ("threads-1-warm", 1, "warm"),
        ("threads-2-cold", 2, "cold"),
        ("threads-2-warm", 2, "warm"),
    ]
    assert {plan.rounds for plan in plans} == {2}
    (alone,) = plans_of(model, clip, cache="cold")
    assert (alone.variant, alone.cache) == (None, CacheState.COLD)
    (plain,) = plans_of(model, clip)
    assert plain.cache is CacheState.AS_IS


def test_allocators_differ_in_the_workers_environment_alone(model: str, clip: Path) -> None:
    plans = {plan.variant: plan for plan in plans_of(model, clip, allocator="all")}
    assert plans["glibc"].environment == {}
    assert plans["arenas-2"].environment == {"MALLOC_ARENA_MAX": "2"}
    assert plans["mmap-128k"].environment == {"MALLOC_MMAP_THRESHOLD_": "131072"}
    for name in {"jemalloc", "tcmalloc"} & plans.keys():
        assert Path(plans[name].environment["LD_PRELOAD"]).is_file()


@pytest.mark.parametrize(
    ("varying", "names"),
    [
        ({"strategy": "reload,pray"}, "--strategy pray"),
        ({"strategy": "reload,reload"}, "--strategy reload,reload"),
        ({"strategy": ""}, "--strategy"),
        ({"strategy": "all,reload"}, "--strategy all"),
        ({"allocator": "malloc"}, "--allocator malloc"),
        ({"cache": "tepid"}, "--cache tepid: use one of as-is, cold, warm"),
        ({"cache": "cold,cold"}, "--cache cold,cold"),
        ({"cache": ""}, "--cache"),
        ({"threads": "1,1"}, "--threads 1,1"),
        ({"threads": "3-1"}, "--threads 3-1"),
        ({"threads": "1,,2"}, "--threads 1,,2"),
        ({"threads": "0"}, "--threads is 0"),
        ({"threads": "two"}, "--threads two"),
        ({"threads": "1-100"}, "--threads 1-100: 100 numbers"),
        ({"threads": "1-9", "context": "1-9"}, "81 combinations"),
        ({"context": "1k"}, "--context 1k"),
        ({"context": "0"}, "--context is 0"),
        ({"type": "q4"}, "--type q4: use q4_0"),
        ({"type": "q4_0,q4_0"}, "--type q4_0,q4_0"),
        ({"type": "q4_0"}, "is a file"),
        ({"strategy": "all", "iterations": "auto"}, "--iters auto"),
        ({"threads": "1,2", "iterations": "auto:30m"}, "--iters auto:30m"),
    ],
)
def test_what_cannot_be_compared_is_named(
    model: str, clip: Path, varying: dict[str, str], names: str
) -> None:
    with pytest.raises(UsageError) as caught:
        plans_of(model, clip, **varying)
    assert names in str(caught.value)


def test_workers_of_other_backends_have_longer_stretches(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "c.toml").write_text('command = ["true", "{model}", "{audio}"]\n', encoding="utf-8")
    (tmp_path / "m").write_bytes(b"m")
    varying = make_varying("reload,isolate")
    for iterations, rounds in (("49", 1), ("99", 1), ("100", 2), ("1000", 10)):
        options = Options(
            iterations,
            models=[f"{tmp_path}/m"],
            audio=[str(clip)],
            backend=f"command:{tmp_path}/c.toml",
        )
        plans = make_plans(options, varying, {"PATH": "/bin:/usr/bin"}, datetime(2026, 1, 1))
        assert {plan.rounds for plan in plans} == {rounds}
