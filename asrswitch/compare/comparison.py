"""Sides held against a baseline, figure by figure: plain values, for whoever shows them.

How often it is right is measured in ``experiments/comparison-calibration``.
"""

from __future__ import annotations

import enum
import math
import statistics as middles
from collections.abc import Callable, Sequence

import msgspec

from asrswitch.compare.figures import (
    HEAP_SLOPE,
    LEAST_MS,
    MEASURES,
    At,
    Kind,
    Measure,
    Sample,
    Unit,
    places_of,
    read_at,
    samples_of,
)
from asrswitch.compare.runs import (
    LoggedRun,
    Side,
    common_models,
    followed_one_another,
    of_one_command,
    took_turns,
    what_differs,
    what_else_differs,
)
from asrswitch.compare.statistics import (
    CONFIDENCE,
    FAMILY,
    STRETCHES,
    Difference,
    between,
    carried_over,
    from_intervals,
    holm,
    p_value,
    smallest_seen,
    stretches,
    with_unseen,
    within_pairs,
)
from asrswitch.stats.drift import Pace
from asrswitch.stats.trend import Slope
from asrswitch.stats.verdict import HELD
from asrswitch.summary import ModelSummary

_FEWEST_TURNS = 2 * STRETCHES
_FEWEST_PAIRS = 3
# By how much runs of one build differ, as a standard deviation: in times, and in memory. Single runs do not
# show it.
RUN_TO_RUN = 0.02
_RUN_TO_RUN_MEMORY = 0.005
# Log ratios beyond are shown as this: more than any figure differs by, and no number that overflows.
_MOST_LOG = 100.0


class Word(enum.Enum):
    """What is said of a figure of the other side, held against the baseline's."""

    FASTER = "faster"
    SLOWER = "slower"
    HIGHER = "higher"
    LOWER = "lower"
    NO_DIFFERENCE = "no difference seen"
    NOT_COMPARABLE = "not comparable"


class Evidence(enum.Enum):
    """What the figures of two sides were taken from."""

    INTERLEAVED = "interleaved"  # pairs of stretches of runs that took turns
    GROUPS = "groups"  # several runs on each side
    SINGLE = "single runs"  # stretches of one run on each side


class Figure(msgspec.Struct, frozen=True):
    """A figure of one model on both sides.

    ``change`` is the ratio of the other side's to the baseline's, or the difference of those that are levels;
    ``low`` and ``high`` are its interval. It need not be the quotient of the two values, which are over all
    turns: pairs are compared pair by pair. ``smallest`` is the least true change, up or down, that had a
    chance of ``POWER`` to be seen: a part of the baseline's figure (0.1 for 10 %), or in the unit of a level.
    """

    model: str
    key: str
    title: str
    at: At
    kind: Kind
    unit: Unit
    baseline: float | None
    other: float | None
    change: float | None
    low: float | None
    high: float | None
    p: float | None  # adjusted for all figures of the comparison; None where nothing was to be tested
    smallest: float | None
    word: Word
    reason: str | None  # why it is not comparable

    @property
    def differs(self) -> bool:
        return self.word not in (Word.NO_DIFFERENCE, Word.NOT_COMPARABLE)

    @property
    def beyond(self) -> float | None:
        """The change from none: a part of the baseline's figure, or in the unit of a level."""
        return self.change - 1 if self.change is not None and self.kind.by_ratio else self.change


class Pair(msgspec.Struct, frozen=True):
    """The baseline and another side."""

    baseline: str
    other: str
    evidence: Evidence
    trust: str  # what this evidence is worth, in a sentence
    differs: list[str]  # that makes figures those of different things
    differs_too: list[str]  # that may be what the comparison is about
    notes: list[str]
    figures: list[Figure]


class Comparison(msgspec.Struct, frozen=True):
    """Everything that was compared; the chance of calling anything different by chance is ``FAMILY``."""

    pairs: list[Pair]
    confidence: float  # of each interval
    family: float


class _Test(msgspec.Struct):
    """A figure before the chances of all are adjusted."""

    model: str
    measure: Measure
    at: At = At.MEDIAN
    baseline: float | None = None
    other: float | None = None
    difference: Difference | None = None
    least: float = 0.0
    reason: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether chance has a say in it: what is the same in each unit of both sides is no test."""
        return self.difference is not None and not (self.difference.certain and self.difference.estimate == 0)


def compare(sides: Sequence[Side]) -> Comparison:
    """Compare each further side with the first; whether they should be is told, and left to the caller."""
    pairs = [_pair(sides[0], other) for other in sides[1:]]
    tests = [test for _, those in pairs for test in those if test.is_open]
    chances = [p_value(test.difference, test.least) for test in tests if test.difference]
    adjusted = {id(test): chance for test, chance in zip(tests, holm(chances), strict=True)}
    level = FAMILY / max(1, len(tests))
    return Comparison(
        pairs=[
            msgspec.structs.replace(
                pair, figures=[_figure(test, adjusted.get(id(test)), level) for test in those]
            )
            for pair, those in pairs
        ],
        confidence=CONFIDENCE,
        family=FAMILY,
    )


def _pair(baseline: Side, other: Side) -> tuple[Pair, list[_Test]]:
    evidence, trust = _evidence(baseline, other)
    labels = common_models(baseline, other)
    tests = [
        _test(measure, at, label, baseline, other, evidence)
        for label in labels
        for measure in MEASURES
        if measure is not HEAP_SLOPE
        for at in places_of(measure)
    ]
    pair = Pair(
        baseline=baseline.name,
        other=other.name,
        evidence=evidence,
        trust=trust,
        differs=what_differs(baseline, other),
        differs_too=what_else_differs(baseline, other),
        notes=_notes(baseline, other, labels),
        figures=[],
    )
    return pair, [*tests, *_heap_slopes(baseline, other)]


def _evidence(baseline: Side, other: Side) -> tuple[Evidence, str]:
    if len(baseline.runs) > 1:
        return Evidence.GROUPS, (
            f"{len(baseline.runs)} runs against {len(other.runs)}: each counts once, so that intervals hold "
            "what differs from run to run. Make them in turns: what the machine does must meet both sides."
        )
    first, second = baseline.runs[0], other.runs[0]
    if took_turns(first, second) and len(_rounds(first, second)) >= _FEWEST_PAIRS:
        return Evidence.INTERLEAVED, (
            f"the runs took turns in {len(_rounds(first, second))} rounds, and stretches that followed one "
            "another are compared: what the machine did meanwhile met both. This is the comparison to trust."
        )
    if of_one_command(first, second):
        return Evidence.SINGLE, (
            f"one run a side: {len(_rounds(first, second))} rounds of the turns can be paired, and it takes "
            f"{_FEWEST_PAIRS}; run more iterations. By how much runs of one build differ is taken to be "
            f"{RUN_TO_RUN:.0%}."
        )
    return Evidence.SINGLE, (
        "one run a side, one after the other: what changed on the machine in between looks like a change of "
        f"the build. By how much runs of one build differ is taken to be {RUN_TO_RUN:.0%}. Give several runs "
        "a side (--group), or make runs that take turns (run --library A --library B)."
    )


def _rounds(first: LoggedRun, second: LoggedRun) -> list[int]:
    """The rounds whose stretches can be compared as a pair."""
    of_both = {first.rounds[t.cycle] for t in first.turns} & {second.rounds[t.cycle] for t in second.turns}
    return sorted(number for number in of_both if followed_one_another(first, second, number))


def _test(measure: Measure, at: At, label: str, baseline: Side, other: Side, evidence: Evidence) -> _Test:
    test = _Test(label, measure, at)
    sampled = [
        [samples_of(measure, label, run.turns, run.plan.inputs) for run in side.runs]
        for side in (baseline, other)
    ]
    values = [[sample.value for run in side for sample in run] for side in sampled]
    test.baseline, test.other = (read_at(at, measure, side) if side else None for side in values)
    test.reason = _not_comparable(measure, label, baseline, other, values)
    if test.reason is None:
        test.difference = _DIFFERENCES[evidence](test, sampled, baseline, other)
    if test.reason is None and test.difference is None:
        counts = " and ".join(str(len(side)) for side in values)
        test.reason = _TOO_FEW[evidence].format(counts)
    test.least = measure.least
    if measure.unit is Unit.MS and test.baseline and test.other:
        test.least = max(test.least, LEAST_MS / min(test.baseline, test.other))
    if measure.kind.by_ratio:
        test.least = math.log1p(test.least)
    return test


_TOO_FEW = {
    Evidence.INTERLEAVED: f"measured {{}} times: too seldom for {_FEWEST_PAIRS} rounds of both: "
    "run more iterations",
    Evidence.GROUPS: "measured {} times: too seldom for two runs a side: name more runs",
    Evidence.SINGLE: f"measured {{}} times: it takes {_FEWEST_TURNS} on each side: run more iterations",
}


def _not_comparable(
    measure: Measure, label: str, baseline: Side, other: Side, values: Sequence[Sequence[float]]
) -> str | None:
    missing = [side.name for side, those in zip((baseline, other), values, strict=True) if not those]
    if measure.unit is Unit.SHARE:
        models = [model for side in (baseline, other) for model in side.plan.models if model.label == label]
        if any(model.synthetic for model in models):
            return "synthetic weights: the text means nothing"
    if missing:
        return f"not measured in {' and '.join(missing)}"
    if measure.key == "tokens_per_s" and _pieces_differ(label, baseline, other):
        return "the same text comes in other pieces, which are what is counted; see chars/s"
    return None


def _of_pairs(
    test: _Test, sampled: Sequence[Sequence[list[Sample]]], baseline: Side, other: Side
) -> Difference | None:
    runs = (baseline.runs[0], other.runs[0])
    by_round: list[dict[int, list[float]]] = []
    for run, (samples,) in zip(runs, sampled, strict=True):
        found: dict[int, list[float]] = {}
        for sample in samples:
            found.setdefault(run.rounds[sample.cycle], []).append(sample.value)
        by_round.append(found)
    first, second = by_round
    pairs = [
        _scaled(test, second[number]) - _scaled(test, first[number])
        for number in _rounds(*runs)
        if number in first and number in second
    ]
    return within_pairs(pairs) if len(pairs) >= _FEWEST_PAIRS else None


def _of_runs(
    test: _Test, sampled: Sequence[Sequence[list[Sample]]], baseline: Side, other: Side
) -> Difference | None:
    units = [[_scaled(test, [s.value for s in run]) for run in side if run] for side in sampled]
    return between(units[0], units[1]) if min(map(len, units)) > 1 else None


def _of_stretches(
    test: _Test, sampled: Sequence[Sequence[list[Sample]]], baseline: Side, other: Side
) -> Difference | None:
    series = [[sample.value for sample in side[0]] for side in sampled]
    if min(map(len, series)) < _FEWEST_TURNS:
        return None
    units = [[_scaled(test, part) for part in stretches(values)] for values in series]
    difference = between(units[0], units[1], (carried_over(series[0]), carried_over(series[1])))
    if not test.measure.kind.by_ratio:
        return difference
    memory = test.measure.kind is Kind.AMOUNT
    return with_unseen(difference, _RUN_TO_RUN_MEMORY if memory else RUN_TO_RUN)


_DIFFERENCES: dict[
    Evidence, Callable[[_Test, Sequence[Sequence[list[Sample]]], Side, Side], Difference | None]
] = {
    Evidence.INTERLEAVED: _of_pairs,
    Evidence.GROUPS: _of_runs,
    Evidence.SINGLE: _of_stretches,
}


def _scaled(test: _Test, values: Sequence[float]) -> float:
    """The figure of a unit, as a logarithm where a ratio is asked for."""
    found = read_at(test.at, test.measure, values)
    return math.log(found) if test.measure.kind.by_ratio else found


def _heap_slopes(baseline: Side, other: Side) -> list[_Test]:
    """What malloc's callers hold more of an iteration, by the verdicts of both sides."""
    subjects = [[_slopes(run) for run in side.runs] for side in (baseline, other)]
    names = dict.fromkeys(name for side in subjects for run in side for name in run)
    return [_heap_slope(name, [[run.get(name) for run in side] for side in subjects], baseline, other)
            for name in names]  # fmt: skip


def _slopes(run: LoggedRun) -> dict[str, Slope]:
    found = {}
    for item in run.summary.verdicts:
        finding = item.verdict.series.get("heap in use")
        if finding and finding.verdict.slope:
            found[item.subject] = finding.verdict.slope
    return found


def _heap_slope(name: str, slopes: Sequence[Sequence[Slope | None]], baseline: Side, other: Side) -> _Test:
    test = _Test(name, HEAP_SLOPE)
    known = [[slope for slope in side if slope is not None] for side in slopes]
    means = [middles.fmean(slope.slope for slope in side) if side else None for side in known]
    test.baseline, test.other = means
    runs = [run for side in (baseline, other) for run in side.runs]
    test.least = max(HELD.slope(max(1, run.summary.iterations_done)) for run in runs)
    if any(len(side) < len(all_) for side, all_ in zip(known, slopes, strict=True)):
        test.reason = "no slope in one of them: too few iterations in a worker, or malloc does not tell"
    elif len(slopes[0]) > 1:
        first, second = ([slope.slope for slope in side] for side in known)
        test.difference = between(first, second)
    else:
        ends = [(slope.slope, slope.low, slope.high) for slope in (known[0][0], known[1][0])]
        test.difference = from_intervals(ends[0], ends[1])
    return test


def _pieces_differ(label: str, baseline: Side, other: Side) -> bool:
    """Whether the same texts came in numbers of callbacks that differ."""
    first, second = (_pieces(label, side) for side in (baseline, other))
    return any(clip in second and second[clip] != pieces for clip, pieces in first.items())


def _pieces(label: str, side: Side) -> dict[tuple[int, str], float]:
    """Callbacks of a clip and text, the middle of all turns."""
    counts: dict[tuple[int, str], list[int]] = {}
    for run in side.runs:
        clips = run.plan.inputs
        for turn in run.turns:
            for record in turn.transcriptions if turn.model == label else []:
                if record.clip in clips:
                    key = (clips.index(record.clip), record.raw)
                    counts.setdefault(key, []).append(record.figures.callbacks)
    return {key: middles.median(those) for key, those in counts.items()}


def _notes(baseline: Side, other: Side, labels: Sequence[str]) -> list[str]:
    notes = []
    logs = [run.path.resolve() for side in (baseline, other) for run in side.runs]
    if len({*logs}) < len(logs):
        notes.append("a log stands on both sides, or twice on one")
    libraries = {run.head.sha256.get(run.head.library) for side in (baseline, other) for run in side.runs}
    if len(libraries) == 1 and None not in libraries:
        what = "program" if baseline.plan.backend.program else "library"
        notes.append(f"the {what} is the same on both sides, bit for bit")
    for label in labels:
        first, second = ({text for _, text in _pieces(label, side)} for side in (baseline, other))
        if first and second and first != second:
            notes.append(f"{label}: texts differ: other words take other times")
    for side in (baseline, other):
        for run in side.runs:
            name = side.name if len(side.runs) == 1 else str(run.path.parent)
            summary = run.summary
            if summary.finished != "complete":
                done, planned = summary.iterations_done, summary.iterations_planned
                notes.append(f"{name}: {summary.finished} after {done} of {planned} iterations")
            if summary.failures:
                notes.append(f"{name}: had {len(summary.failures)} failures; see `report`")
            notes += [f"{name}: not to be trusted: {reason}" for reason in summary.invalid]
            notes += [f"{name}: {line}" for model in summary.models for line in _drifts(model)]
    return notes


def _drifts(model: ModelSummary) -> list[str]:
    return [
        f"{title} of {model.label} drifts by {drift.change.slope:+.0%} over the run, and perhaps between runs"
        for title, drift in model.drifts.items()
        if drift.pace is Pace.DRIFTS
    ]


def _figure(test: _Test, p: float | None, level: float) -> Figure:
    measure, difference = test.measure, test.difference
    shown: Callable[[float], float] = _ratio if measure.kind.by_ratio else float
    word = Word.NOT_COMPARABLE
    smallest = None
    if difference:
        significant = p is not None and p <= FAMILY
        word = _word(measure.kind, difference.estimate) if significant else Word.NO_DIFFERENCE
        smallest = smallest_seen(difference, test.least, level)
        smallest = shown(smallest) - 1 if measure.kind.by_ratio else smallest
    return Figure(
        model=test.model,
        key=measure.key,
        title=measure.title,
        at=test.at,
        kind=measure.kind,
        unit=measure.unit,
        baseline=test.baseline,
        other=test.other,
        change=shown(difference.estimate) if difference else None,
        low=shown(difference.low) if difference else None,
        high=shown(difference.high) if difference else None,
        p=p,
        smallest=smallest,
        word=word,
        reason=test.reason,
    )


def _word(kind: Kind, estimate: float) -> Word:
    if kind in (Kind.TIME, Kind.SPEED):
        return Word.FASTER if (estimate > 0) is (kind is Kind.SPEED) else Word.SLOWER
    return Word.HIGHER if estimate > 0 else Word.LOWER


def _ratio(logarithm: float) -> float:
    return math.exp(max(-_MOST_LOG, min(_MOST_LOG, logarithm)))
