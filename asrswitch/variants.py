"""Runs that are to be compared: one for each combination of what varies, all else alike."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from asrswitch.backend_choice import choose_backend, strategies_of
from asrswitch.catalogue import TYPES
from asrswitch.errors import UsageError
from asrswitch.plan import (
    ALLOCATORS,
    CacheState,
    Options,
    Plan,
    Strategy,
    allocator_environment,
    make_plan,
)

ALL = "all"  # of strategies or allocators
_MOST_ROUNDS = 10
_SHORTEST_ROUND = 12  # iterations; a verdict needs ten in one worker, and the last of a round is another
_LONGER_ROUND = (
    50  # of other backends: their workers take seconds to start, and tens of iterations to warm up
)
_MOST_RUNS = 64


class Varying(msgspec.Struct, frozen=True):
    """What runs differ in: a list of one where they do not."""

    strategies: list[str]  # or ALL, of those that the backend can be run with
    allocators: list[str]
    types: list[str | None]
    threads: list[int | None]
    contexts: list[int | None]
    libraries: list[str | None]
    caches: list[str]
    restart_aboves: list[str | None]


def make_varying(
    strategy: str = Strategy.RELOAD.value,
    allocator: str = ALLOCATORS[0],
    type: str | None = None,
    threads: str | None = None,
    context: str | None = None,
    libraries: Sequence[str] = (),
    cache: str = CacheState.AS_IS.value,
    restart_above: str | None = None,
) -> Varying:
    """Take comma lists apart; ``all`` is all strategies, or all allocators that are installed.

    Raises:
        UsageError: a word twice, an unknown allocator or type, a list of numbers that is none.
    """
    strategies = [ALL] if strategy == ALL else _words("--strategy", strategy)
    allocators = _words("--allocator", allocator)
    if allocator == ALL:
        allocators = [name for name in ALLOCATORS if allocator_environment(name) is not None]
    for name in allocators:
        if name not in ALLOCATORS:
            raise UsageError(f"--allocator {name}: use {', '.join(ALLOCATORS)}, or all")
    types = types_from(type)
    numbers = numbers_from("--threads", threads), numbers_from("--context", context)
    caches = _words("--cache", cache)
    aboves = [None] if restart_above is None else _words("--restart-above", restart_above)
    return Varying(strategies, allocators, types, *numbers, list(libraries) or [None], caches, [*aboves])


def make_plans(options: Options, varying: Varying, environ: Mapping[str, str], now: datetime) -> list[Plan]:
    """The plan of each combination; where there are several, with a name and a directory of its own.

    Raises:
        UsageError: as ``make_plan``; too many combinations, or iterations of no certain number for several.
    """
    replace = msgspec.structs.replace
    plans: list[Plan] = []
    strategies = varying.strategies
    if strategies == [ALL]:
        strategies = strategies_of(choose_backend(options.backend, environ), [s.value for s in Strategy])
    for strategy, allocator, type, threads, context, (number, library), cache, above in itertools.product(
        strategies,
        varying.allocators,
        varying.types,
        varying.threads,
        varying.contexts,
        enumerate(varying.libraries, 1),
        varying.caches,
        varying.restart_aboves,
    ):
        its_own = replace(
            options,
            strategy=strategy,
            allocator=allocator,
            type=type,
            threads=threads,
            context=context,
            library=library,
            cache=cache,
            restart_above=above,
        )
        plan = make_plan(its_own, environ, now)
        names = [
            strategy if len(strategies) > 1 else "",
            allocator if len(varying.allocators) > 1 else "",
            f"{type}" if len(varying.types) > 1 else "",
            f"threads-{threads}" if len(varying.threads) > 1 else "",
            f"context-{context}" if len(varying.contexts) > 1 else "",
            f"library-{number}" if len(varying.libraries) > 1 else "",
            cache if len(varying.caches) > 1 else "",
            f"restart-above-{above}" if len(varying.restart_aboves) > 1 else "",
        ]
        variant = "-".join(name for name in names if name)
        out = str(Path(plan.out, variant))
        plans.append(replace(plan, variant=variant or None, turn=len(plans), out=out))
    if len(plans) > _MOST_RUNS:
        raise UsageError(f"{len(plans)} combinations: compare at most {_MOST_RUNS} at a time")
    if len(plans) > 1 and plans[0].until_decided:
        raise UsageError(f"--iters {options.iterations}: runs that are compared are of one length; give it")
    rounds = 1
    if len(plans) > 1:
        shortest = _SHORTEST_ROUND if plans[0].backend.is_default else _LONGER_ROUND
        rounds = max(1, min(_MOST_ROUNDS, plans[0].iterations // shortest))
    return [replace(plan, rounds=rounds) for plan in plans]


def types_from(word: str | None) -> list[str | None]:
    """Types of matrices with commas between; one that is None where none was given.

    Raises:
        UsageError: an unknown type, or one twice.
    """
    if word is None:
        return [None]
    words = _words("--type", word)
    for type in words:
        if type not in TYPES:
            raise UsageError(f"--type {type}: use {', '.join(TYPES)}")
    return [*words]


def numbers_from(option: str, word: str | None) -> list[int | None]:
    """Numbers with commas between, and ranges such as 1-4; one that is None where none were given.

    Raises:
        UsageError: no number, a number twice, more of them than runs are compared.
    """
    if word is None:
        return [None]
    numbers: list[int | None] = []
    for part in word.split(","):
        first, dash, last = part.partition("-")
        ends = [first, last] if dash else [first]
        if not all(end.isascii() and end.isdecimal() and len(end) <= 8 for end in ends):
            raise UsageError(f"{option} {word}: give a number, or several such as 1,2 or 1-4")
        low, high = int(ends[0]), int(ends[-1])
        if high - low >= _MOST_RUNS:
            raise UsageError(f"{option} {word}: {high - low + 1} numbers; give at most {_MOST_RUNS}")
        numbers += range(low, high + 1)
    if not numbers or len({*numbers}) < len(numbers):
        raise UsageError(f"{option} {word}: give each number once, ranges from low to high")
    return numbers


def _words(option: str, word: str) -> list[str]:
    words = word.split(",")
    if len({*words}) < len(words) or "" in words:
        raise UsageError(f"{option} {word}: give each once, with commas between")
    return words
