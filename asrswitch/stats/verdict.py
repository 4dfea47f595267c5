"""The verdict on a worker's memory: each series of readings judged, and what they say together.

How often a series without a leak is called one, and a leak found, is measured in
``experiments/verdict-calibration`` and held in ``tests/stats/test_calibration.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from asrswitch.stats.series import MINIMUM_ITERATIONS, SeriesVerdict, Tolerance, Word, judge_series
from asrswitch.stats.trend import Slope, theil_sen

__all__ = [
    "COUNT", "HELD", "RESIDENT", "TOLERANCES", "Finding", "Sample", "Verdict", "Word", "growth_by_model",
    "iterations_needed", "judge", "series_of",
]  # fmt: skip

KIB = 1024
# First calls map code, build tables and start pools; this much of it is not worth calling a plateau.
_WARMUP = 1024 * KIB
# Resident memory moves in pages of 4 KiB: one every second iteration, or sixteen in a short run.
RESIDENT = Tolerance(2 * KIB, 64 * KIB, _WARMUP, 1024 * KIB)
# What malloc's callers hold is counted, not estimated; this leaves room for the worker's own Python objects.
HELD = Tolerance(128, 16 * KIB, _WARMUP, 16 * KIB)
# More than once in a run, since a count is exact; a pool of four threads is not worth calling a plateau.
COUNT = Tolerance(0, 1.5, 4, 0)

TOLERANCES = {
    "threads": COUNT,
    "descriptors": COUNT,
    "heap in use": HELD,
    "anonymous memory": RESIDENT,
    "file-backed memory": RESIDENT,
    "resident memory": RESIDENT,
    "mappings": COUNT,
}
# A lost thread holds a stack, its mapping and some heap; lost heap is anonymous and resident memory: the
# series are told in this order, causes first.
_CAUSES_FIRST = tuple(TOLERANCES)
# What comes to rest is told by how much it is.
_SIZES_FIRST = (
    "resident memory",
    "anonymous memory",
    "file-backed memory",
    "heap in use",
    "threads",
    "descriptors",
    "mappings",
)
SEVERITY = (Word.FLAT, Word.PLATEAU, Word.INCONCLUSIVE, Word.LEAK)
_MEND = {
    "heap in use": "python -m asrswitch leak-check names where it is allocated",
    "heap kept back": "run again with MALLOC_ARENA_MAX=2 or a fixed mmap threshold: it piles up in malloc",
    "mappings": "find what is mapped and not unmapped: /proc/PID/smaps lists it",
    "anonymous memory": "python -m asrswitch leak-check names where it is allocated",
    "file cache": "find the files that stay mapped: /proc/PID/maps names them",
    "threads": "find the threads that are not joined: /proc/PID/task lists them",
    "descriptors": "find the files that stay open: /proc/PID/fd names them",
}
_KEPT = {
    "heap kept back": "plan for this level: malloc keeps the memory for later use; malloc_trim gives it back",
    "file cache": "none is needed: the kernel takes it back under pressure",
}


class Sample(msgspec.Struct, frozen=True):
    """One iteration's reading after its last unload. Heap figures are None where malloc does not tell."""

    resident_bytes: int  # with what was swapped out
    anonymous_bytes: int  # with what was swapped out
    file_bytes: int
    held_bytes: int | None
    kept_bytes: int | None
    counts: dict[str, int]  # mappings, threads, descriptors


class Finding(msgspec.Struct, frozen=True):
    """What one series says, and what to do about it."""

    verdict: SeriesVerdict
    holder: str | None  # who holds what grew; None where nothing did, or where that is not known
    iterations_to_limit: int | None  # at this slope, for memory that leaks
    next_step: str


class Verdict(msgspec.Struct, frozen=True):
    """The worst word of the series, in the words of the series that explains it best."""

    word: Word
    reason: str
    holder: str | None
    next_step: str
    leading: str | None  # the series that explains it; None where there is nothing to explain
    iterations: int
    series: dict[str, Finding]
    iterations_to_limit: int | None  # more, at the fastest of the slopes
    iterations_to_decide: int | None  # in all; where the word is inconclusive

    @property
    def resident(self) -> Slope | None:
        return self._slope("resident memory")

    @property
    def held(self) -> Slope | None:
        return self._slope("heap in use")

    @property
    def counts(self) -> set[str]:
        """The series that are numbers and not bytes."""
        return {name for name in self.series if TOLERANCES[name] is COUNT}

    def _slope(self, name: str) -> Slope | None:
        return self.series[name].verdict.slope if name in self.series else None


def judge(samples: Sequence[Sample], memory_limit_bytes: int, one_process: bool = True) -> Verdict:
    """Judge samples of one worker, or of as many as there are samples, in order."""
    series = series_of(samples)
    verdicts = {name: judge_series(values, TOLERANCES[name], one_process) for name, values in series.items()}
    findings = {
        name: _finding(name, verdict, samples, memory_limit_bytes) for name, verdict in verdicts.items()
    }
    word = max((verdict.word for verdict in verdicts.values()), key=SEVERITY.index, default=Word.INCONCLUSIVE)
    order = _SIZES_FIRST if word is Word.PLATEAU else _CAUSES_FIRST
    named = [name for name in order if name in verdicts and verdicts[name].word is word]
    leading = None if word is Word.FLAT or len(samples) < MINIMUM_ITERATIONS else named[0]
    needed = [v.iterations_to_decide for v in verdicts.values() if v.iterations_to_decide is not None]
    limits = [f.iterations_to_limit for f in findings.values() if f.iterations_to_limit is not None]
    return Verdict(
        word=word,
        reason=_reason(word, {name: verdicts[name] for name in named}, len(samples)),
        holder=findings[leading].holder if leading else None,
        next_step=_next_step(word, findings[leading].holder if leading else None, needed),
        leading=leading,
        iterations=len(samples),
        series=findings,
        iterations_to_limit=min(limits, default=None),
        iterations_to_decide=max(needed, default=MINIMUM_ITERATIONS) if word is Word.INCONCLUSIVE else None,
    )


def iterations_needed(verdict: Verdict) -> int:
    """How many more iterations are likely to decide; 0 once the word is decided.

    For a run that goes on until it knows. Each look is a chance of a false alarm: look again after as many
    iterations as this says, not after each.
    """
    if verdict.word is not Word.INCONCLUSIVE or verdict.iterations_to_decide is None:
        return 0
    return max(1, verdict.iterations_to_decide - verdict.iterations)


def series_of(samples: Sequence[Sample]) -> dict[str, npt.NDArray[np.float64]]:
    """The series that all the samples have, by the names of ``TOLERANCES``."""
    values = [_values(sample) for sample in samples]
    known = set[str]().union(*values).intersection(*values)
    return {name: np.array([value[name] for value in values], float) for name in TOLERANCES if name in known}


def growth_by_model(cycles: Mapping[str, Sequence[tuple[Sample, Sample]]], name: str) -> dict[str, Slope]:
    """The models in whose cycles a series grows, and by how much a cycle.

    A model's series is what its cycles, from before the load to after the unload, add up to: as if no other
    model had been loaded. It is judged like the whole. What malloc's cache holds differs after the cycles of
    different models, so that one seems to grow by what another gives back: who grows by less than a tenth of
    the most, or by less than 2 KiB and a third of the most, is not named.
    """
    grows = {}
    for label, pairs in cycles.items():
        before, after = (
            (series_of(part).get(name) for part in zip(*pairs, strict=True)) if pairs else (None,) * 2
        )
        if before is None or after is None:
            continue
        verdict = judge_series(np.cumsum(after - before), TOLERANCES[name])
        if verdict.word is Word.LEAK and verdict.slope:
            grows[label] = verdict.slope
    most = max((slope.slope for slope in grows.values()), default=0.0)
    least = most / 10
    if TOLERANCES[name] is not COUNT:
        least = max(least, min(most / 3, 2 * KIB))
    return {label: slope for label, slope in grows.items() if slope.slope >= least}


def _values(sample: Sample) -> dict[str, int]:
    values = {
        "resident memory": sample.resident_bytes,
        "anonymous memory": sample.anonymous_bytes,
        "file-backed memory": sample.file_bytes,
        **sample.counts,
    }
    return values if sample.held_bytes is None else {**values, "heap in use": sample.held_bytes}


def _reason(word: Word, verdicts: Mapping[str, SeriesVerdict], iterations: int) -> str:
    """The reasons of the series that have the word; series of one reason together."""
    if word is Word.FLAT:
        return "no growth beyond the tolerances"
    if iterations < MINIMUM_ITERATIONS:
        return f"too few iterations in one process: {iterations}; a verdict needs {MINIMUM_ITERATIONS}"
    names: dict[str, list[str]] = {}
    for name, verdict in verdicts.items():
        names.setdefault(verdict.reason, []).append(name)
    return "; ".join(f"{', '.join(those)}: {reason}" for reason, those in names.items())


def _finding(
    name: str, verdict: SeriesVerdict, samples: Sequence[Sample], memory_limit_bytes: int
) -> Finding:
    holder = None
    if verdict.word in (Word.LEAK, Word.PLATEAU):
        holder = _holder(name, verdict, samples)
    limit = None
    if verdict.word is Word.LEAK and verdict.slope and TOLERANCES[name] is not COUNT:
        room = memory_limit_bytes - samples[-1].resident_bytes
        limit = max(0, int(room / verdict.slope.slope))
    needed = [] if verdict.iterations_to_decide is None else [verdict.iterations_to_decide]
    return Finding(verdict, holder, limit, _next_step(verdict.word, holder, needed))


def _holder(name: str, verdict: SeriesVerdict, samples: Sequence[Sample]) -> str:
    """Who holds most of what grew."""
    if name == "file-backed memory":
        return "file cache"
    if name not in ("resident memory", "anonymous memory"):
        return name
    parts = _holders(samples)
    if name == "anonymous memory":
        del parts["file cache"]
    warmup = verdict.warmup_iterations
    if verdict.word is Word.LEAK:
        growth = {part: theil_sen(values[warmup:]).slope for part, values in parts.items()}
    else:
        growth = {part: float(np.median(values[warmup:]) - values[0]) for part, values in parts.items()}
    return max(growth, key=lambda part: growth[part])


def _holders(samples: Sequence[Sample]) -> dict[str, npt.NDArray[np.float64]]:
    """Resident memory by holder. What the heap keeps back need not be resident; parts need not add up."""
    anonymous = np.array([sample.anonymous_bytes for sample in samples], float)
    parts = {"file cache": np.array([sample.file_bytes for sample in samples], float)}
    held = [sample.held_bytes for sample in samples if sample.held_bytes is not None]
    kept = [sample.kept_bytes for sample in samples if sample.kept_bytes is not None]
    if len(held) == len(kept) == len(samples):
        parts["heap in use"] = np.array(held, float)
        parts["heap kept back"] = np.array(kept, float)
        parts["mappings"] = anonymous - parts["heap in use"] - parts["heap kept back"]
    else:
        parts["anonymous memory"] = anonymous
    return parts


def _next_step(word: Word, holder: str | None, needed: Sequence[int]) -> str:
    if word is Word.LEAK and holder:
        return f"{_MEND[holder]}; until it is mended, restart the worker in time"
    if word is Word.PLATEAU and holder:
        return _KEPT.get(holder, "plan for this level: it does not grow further")
    if word is Word.INCONCLUSIVE:
        return f"run about {max(needed, default=MINIMUM_ITERATIONS):,} iterations"
    return "nothing"
