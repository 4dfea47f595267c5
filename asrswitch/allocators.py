"""Which part of what stays after an unload is the allocator's: the same plan under several of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

import msgspec

from asrswitch.stats.trend import Slope
from asrswitch.stats.verdict import Word
from asrswitch.summary import Spread, Summary

_MIB = 1024 * 1024
# Less than this is code and tables of first calls: the tolerance that warm-ups have (`stats.verdict`).
_WORTH_TELLING = _MIB
# mallinfo2 and malloc_trim are glibc's, also where another malloc is used: they tell of an empty heap then.
_NOT_GLIBC = ("jemalloc", "tcmalloc", "mimalloc")


class AllocatorFigures(msgspec.Struct, frozen=True):
    """One allocator's run, in bytes and ms; None where it does not tell, or nothing was measured.

    Memory is above that before the first load, of the model that leaves most; times are means over the
    models of their medians.
    """

    name: str
    retained_bytes: float | None
    retained_anonymous_bytes: float | None
    held_growth: Slope | None  # of what malloc's callers hold, an iteration
    held_leaks: bool
    kept_bytes: float | None  # by malloc
    trimmed_bytes: float | None  # anonymous memory that it gives back when asked
    untrimmed_bytes: float | None  # what of the retained anonymous memory is then left
    load_ms: float | None
    ttft_ms: float | None
    word: Word
    failures: int


class AllocatorComparison(msgspec.Struct, frozen=True):
    """The allocators side by side, the first being what the others are compared with; and what follows."""

    allocators: list[AllocatorFigures]
    allocators_part_bytes: float | None  # of the first's retained anonymous memory
    library_part_bytes: float | None  # what is left of it whatever the allocator, and after a trim
    conclusions: list[str]


def compare_allocators(runs: Sequence[tuple[str, Summary]]) -> AllocatorComparison:
    """Compare runs of one plan, each with its allocator's name."""
    figures = [_figures(name, summary) for name, summary in runs]
    first = figures[0].retained_anonymous_bytes if figures else None
    left = [
        (value, where)
        for item in figures
        for value, where in (
            (item.retained_anonymous_bytes, f"under {item.name}"),
            (item.untrimmed_bytes, f"under {item.name} after a trim"),
        )
        if value is not None
    ]
    least = min(left, default=None)
    if first is None or least is None:
        return AllocatorComparison(figures, None, None, ["nothing was retained that could be compared"])
    library = max(least[0], 0.0)
    allocators = max(first - library, 0.0)
    parts = _parts(figures[0].name, first, allocators, library, least[1])
    conclusions = [parts, *_more(figures, first), *_growth(figures)]
    return AllocatorComparison(figures, allocators, library, conclusions)


def _parts(name: str, first: float, allocators: float, library: float, where: str) -> str:
    if first < _WORTH_TELLING:
        return (
            f"next to nothing stays after an unload: {first / _MIB:+.1f} MiB of anonymous memory under {name}"
        )
    said = f"of {first / _MIB:.1f} MiB of anonymous memory that stay after an unload under {name}, "
    if allocators < _WORTH_TELLING:
        return f"{said}none are the allocator's: at least {library / _MIB:.1f} MiB stay in any case"
    mine = f"{said}{allocators / _MIB:.1f} MiB are the allocator's: they go {where}"
    if library < _WORTH_TELLING:
        return f"{mine}; next to nothing is the library's"
    return f"{mine}; {library / _MIB:.1f} MiB stay in any case and are the library's"


def _more(figures: Sequence[AllocatorFigures], first: float) -> list[str]:
    """The allocators under which more stays than under the first: that is theirs."""
    return [
        f"{item.name} adds {(item.retained_anonymous_bytes - first) / _MIB:.1f} MiB to that, its own"
        for item in figures
        if item.retained_anonymous_bytes is not None
        and item.retained_anonymous_bytes - first >= _WORTH_TELLING
    ]


def _growth(figures: Sequence[AllocatorFigures]) -> list[str]:
    """What grows is told apart from what stays: no allocator frees what its caller holds."""
    known = [(item.name, item.held_growth) for item in figures if item.held_leaks and item.held_growth]
    if known:
        grows = ", ".join(f"{slope.slope / 1024:+,.1f} KiB under {name}" for name, slope in known)
        return [f"heap in use grows an iteration: {grows}; that is the library's, and no allocator mends it"]
    leaking = [item.name for item in figures if item.word is Word.LEAK]
    sound = [item.name for item in figures if item.word in (Word.FLAT, Word.PLATEAU)]
    if leaking and sound:
        return [
            f"memory grows under {', '.join(leaking)} and not under {', '.join(sound)}, and heap in use does "
            "not: what grows is the allocator's"
        ]
    if leaking:
        return [f"memory grows under {', '.join(leaking)}: it is not known to be the allocator's"]
    undecided = [item.name for item in figures if item.word is Word.INCONCLUSIVE]
    if undecided:
        return [f"whether memory grows under {', '.join(undecided)} is not decided: run more iterations"]
    return []


def _figures(name: str, summary: Summary) -> AllocatorFigures:
    models = summary.models
    told = not any(other in name.casefold() for other in _NOT_GLIBC)
    held = [item.verdict.series["heap in use"].verdict for item in summary.verdicts
            if told and "heap in use" in item.verdict.series]  # fmt: skip
    slopes = [verdict.slope for verdict in held if verdict.slope]
    return AllocatorFigures(
        name=name,
        retained_bytes=_most(model.retained_bytes for model in models),
        retained_anonymous_bytes=_most(model.retained_anonymous_bytes for model in models),
        held_growth=max(slopes, key=lambda slope: slope.slope, default=None),
        held_leaks=any(verdict.word is Word.LEAK for verdict in held),
        kept_bytes=_most(model.kept_bytes for model in models) if told else None,
        trimmed_bytes=_most(model.trimmed_bytes for model in models) if told else None,
        untrimmed_bytes=_most(model.untrimmed_bytes for model in models) if told else None,
        load_ms=_average(model.load_ms for model in models),
        ttft_ms=_average(model.ttft_ms for model in models),
        word=summary.word,
        failures=len(summary.failures),
    )


def _most(spreads: Iterable[Spread | None]) -> float | None:
    return max((spread.median for spread in spreads if spread), default=None)


def _average(spreads: Iterable[Spread | None]) -> float | None:
    """None unless all are known: of some models it would compare unlike things."""
    medians = [spread.median if spread else None for spread in spreads]
    known = [median for median in medians if median is not None]
    return statistics.fmean(known) if known and len(known) == len(medians) else None
