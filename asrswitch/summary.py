"""What a run's records say: a pure function of them, so that a report can be made again from an old log."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from asrswitch.advice import advise
from asrswitch.judged import capabilities_in, judged_readings, sample_of
from asrswitch.model import Model
from asrswitch.plan import CacheState, Order, Plan, Strategy
from asrswitch.records import (
    Budget,
    Cache,
    CleanSlate,
    End,
    Eviction,
    Failure,
    Load,
    OfCycle,
    Prediction,
    Reading,
    Record,
    Renewal,
    Resume,
    Run,
    SamplingCost,
    Transcription,
    WorkerStarted,
)
from asrswitch.schedule import Release as ReleaseKind
from asrswitch.stats.drift import Drift, judge_pace
from asrswitch.stats.trend import Slope
from asrswitch.stats.verdict import SEVERITY, Sample, Verdict, Word, growth_by_model, iterations_needed, judge
from asrswitch.turns import Turn, switch_ms, turns_of


class Spread(msgspec.Struct, frozen=True):
    """Some figures and their middle."""

    count: int
    median: float
    minimum: float
    maximum: float


class Predicted(msgspec.Struct, frozen=True):
    """What a model was predicted to need, and what it took."""

    weights_bytes: int
    anonymous_bytes: int | None  # None where the library does not predict it
    measured_bytes: int | None  # most resident memory from load to release, above that before the load

    @property
    def need_bytes(self) -> int:
        return self.weights_bytes + (self.anonymous_bytes or 0)

    @property
    def error(self) -> float | None:
        """What was measured beyond the prediction, as a part of it; None where one of them is not whole."""
        if self.anonymous_bytes is None or self.measured_bytes is None or not self.need_bytes:
            return None
        return self.measured_bytes / self.need_bytes - 1


class CacheProof(msgspec.Struct, frozen=True):
    """Before how many loads a model's file was made cold or warm, and before how many it is proven to be."""

    wanted: CacheState
    loads: int
    proven: int


class ModelSummary(msgspec.Struct, frozen=True):
    """One model's figures over its cycles; None where nothing was measured. Memory is resident memory."""

    label: str
    synthetic: bool  # random weights: speed and memory are true, text is not
    cycles: int  # that ran to their end
    load_ms: Spread | None
    switch_ms: Spread | None
    unload_ms: Spread | None
    restart_ms: Spread | None
    first_callback_ms: Spread | None
    ttft_ms: Spread | None
    inference_ms: Spread | None  # of embeddings, which have no first text
    first_inference_ms: Spread | None  # likewise, of the first input after a load
    chars_per_s: Spread | None
    tokens_per_s: Spread | None
    rtf: Spread | None
    wer: float | None  # mean over transcriptions that have a reference
    cer: float | None
    checked: int  # answers to prompts that have a check
    passed: int  # of these
    load_overhead_bytes: Spread | None
    unload_release_bytes: Spread | None
    net_growth_bytes: Spread | None
    gpu_overhead_bytes: Spread | None  # GPU memory after the first answers, above that before the load
    gpu_growth_bytes: Spread | None  # after the unload, above that before the load
    # Of a turn as the strategy has it again and again: where models stay loaded, not the first and the last.
    answer_ms: Spread | None  # load and TTFT: what a user waits who asks for a model that has no turn
    overhead_ms: Spread | None  # load and release: what switching adds to transcribing
    peak_bytes: int | None  # from load to release
    peak_above_load_bytes: int | None  # above what there was before the load
    peak_anonymous_bytes: int | None  # likewise, as far as readings and samples saw it; None without samples
    # Above what the worker had before its first load, once no model is loaded any more.
    retained_bytes: Spread | None
    retained_anonymous_bytes: Spread | None
    # The part that is not retained of what there was above that while the model was loaded; not of a process
    # that ended instead.
    reclaimed: Spread | None
    reclaimed_anonymous: Spread | None
    kept_bytes: Spread | None  # by malloc, then; not only of what was retained
    trimmed_bytes: Spread | None  # anonymous memory that malloc gave back, or would
    untrimmed_bytes: Spread | None  # what of the retained anonymous memory would then be left
    prediction: Predicted | None
    drifts: dict[str, Drift]  # of what was measured often enough: TTFT, tokens/s, load
    read_bytes: Spread | None  # from disks, by turns that load, until the transcriptions are over
    cache: CacheProof | None  # None where files are taken as they are
    reported: dict[str, Spread]  # what its program says of itself, by name


class Resident(msgspec.Struct, frozen=True):
    """Resident memory of the workers over the run, in bytes."""

    first: int
    last: int
    peak: int


class Packed(msgspec.Struct, frozen=True):
    """What came of keeping models loaded as far as there is room."""

    turns: int
    loads: int
    evictions: int
    by_server: int  # of these
    saved_ms: float  # loads and unloads that there would have been, by each model's quickest

    @property
    def hits(self) -> int:
        """Turns that found their model loaded."""
        return self.turns - self.loads


class Budgets(msgspec.Struct, frozen=True):
    """What the budgets before the loads said and did."""

    highest: Budget  # of the loads that were made, or else of all
    restarts: int  # of the worker, to make room
    refused: int  # loads


class GroupMemory(msgspec.Struct, frozen=True):
    """Memory of the worker's control group, in bytes; other processes and page cache are in it."""

    highest: int
    peak: int | None  # since the group was made
    limit: int | None


class SubjectVerdict(msgspec.Struct, frozen=True):
    """A verdict and what it is about: all models taking turns, or the one that stayed loaded."""

    subject: str
    verdict: Verdict
    # A cycle, by the model in whose cycles it grows: of the leading series, and of further ones that leak in
    # cycles of other models.
    growth: dict[str, dict[str, Slope]]

    @property
    def growth_by_model(self) -> dict[str, Slope]:
        """Of the leading series."""
        return self.growth.get(self.verdict.leading or "", {})


class Summary(msgspec.Struct, frozen=True):
    """A run in numbers."""

    iterations_planned: int  # the most, where the run went on until its verdict was decided
    iterations_done: int
    finished: str  # complete, stopped by SIGINT, failed, cut off
    until_decided: bool
    decided: str | None  # of a run until decided that is complete: why it ended there
    resumed: int  # times
    models: list[ModelSummary]
    resident: Resident | None
    memory_limit_bytes: int | None  # of the worker, or of its control group
    group: GroupMemory | None
    budgets: Budgets | None
    packed: Packed | None  # None of other orders
    start_ms: Spread | None  # of a worker, until it was ready
    renewals: dict[str, int]  # how often a server was started anew, by reason
    renew_ms: Spread | None
    cycles_s: float | None  # of all cycles, with what failed in them and the start of workers and servers
    settle_ms: Spread | None  # from an unload until memory was back, or had stopped sinking
    sampling: SamplingCost | None
    major_faults: int | None  # in all; each waited for a disk
    verdicts: list[SubjectVerdict]
    failures: list[Failure]
    warnings: list[str]
    invalid: list[str]  # why the run's figures are not to be trusted
    loads: bool  # whether models are loaded to stay; else TTFT counts from the start of a process that loads
    keeps: bool  # or a server keeps them, and is not told to: a TTFT may have a load in it

    @property
    def word(self) -> Word:
        """The worst of the verdicts."""
        return worst_word(self.verdicts)

    @property
    def iterations_needed(self) -> int:
        """How many more are likely to decide every verdict; 0 once all are decided."""
        return max((iterations_needed(item.verdict) for item in self.verdicts), default=0)


def worst_word(verdicts: Sequence[SubjectVerdict]) -> Word:
    """A leak is worse than not knowing."""
    return max((item.verdict.word for item in verdicts), key=SEVERITY.index, default=Word.INCONCLUSIVE)


def summarise(records: Sequence[Record]) -> Summary:
    """Summarise a log, complete or cut off; its first record is the run's."""
    run = records[0]
    assert isinstance(run, Run)
    readings = [record for record in records if isinstance(record, Reading)]
    failures = [record for record in records if isinstance(record, Failure)]
    turns = turns_of(records)
    verdicts = verdicts_of(records)
    done = _iterations_done(run.plan, records, readings)
    finished = _finished(records[-1])
    needed = max((iterations_needed(item.verdict) for item in verdicts), default=0)
    predictions = {record.model: record for record in records if isinstance(record, Prediction)}
    group = _group(readings)
    advised = advise(records)
    return Summary(
        iterations_planned=run.plan.iterations,
        iterations_done=done,
        finished=finished,
        until_decided=run.plan.until_decided,
        decided=_decided(run.plan, done, needed) if finished == "complete" else None,
        resumed=sum(isinstance(record, Resume) for record in records),
        models=[
            _model(model, run.plan, turns, predictions.get(model.label), _cache_proof(model.label, records))
            for model in run.plan.models
        ],
        resident=_resident(readings, turns),
        memory_limit_bytes=run.plan.memory_limit_bytes or (group.limit if group else None),
        group=group,
        budgets=_budgets(records),
        packed=_packed(turns, records) if run.plan.order is Order.PACKED else None,
        start_ms=_spread(record.start_ms for record in records if isinstance(record, WorkerStarted)),
        renewals=dict(Counter(record.reason for record in records if isinstance(record, Renewal))),
        renew_ms=_spread(record.ms for record in records if isinstance(record, Renewal)),
        cycles_s=_cycles_s(records),
        settle_ms=_spread(record.settle_ms for record in records if isinstance(record, CleanSlate)),
        sampling=next((record.sampling for record in reversed(records) if isinstance(record, End)), None),
        major_faults=_sum(reading.memory.major_faults for reading in readings),
        verdicts=verdicts,
        failures=failures,
        warnings=[advice.line for advice in advised if not advice.invalid],
        invalid=[advice.line for advice in advised if advice.invalid],
        keeps=any(can.get("keeps", False) for can in capabilities_in(records)),
        loads=all(can["loads"] for can in capabilities_in(records)),
    )


def _iterations_done(plan: Plan, records: Sequence[Record], readings: Sequence[Reading]) -> int:
    """How many iterations there are in which every model transcribed every clip and was let go."""
    released = {(reading.iteration, reading.model) for reading in readings if reading.point == "after_unload"}
    turns = released & _all_transcribed(records, set(plan.inputs))
    return sum(count == len(plan.models) for count in Counter(iteration for iteration, _ in turns).values())


def _decided(plan: Plan, done: int, needed: int) -> str | None:
    """Why a run that was to go on until its verdict is decided ended where it did."""
    if not plan.until_decided:
        return None
    if needed == 0:
        return "the verdict is decided"
    if plan.most_s is not None and done < plan.iterations:
        return f"the {plan.most_s:,.0f} s it was given are spent, and the verdict is not decided"
    return "the iterations it was given are spent, and the verdict is not decided"


def _finished(last: Record) -> str:
    if not isinstance(last, End):
        return "cut off"
    return f"stopped by {last.signal}" if last.reason == "stopped" else last.reason


def _all_transcribed(records: Sequence[Record], clips: set[str]) -> set[tuple[int, str]]:
    """The iterations and models in which every clip was transcribed, be it in the second attempt."""
    spoken: dict[tuple[int, str], set[str]] = {}
    for record in records:
        if isinstance(record, Transcription):
            spoken.setdefault((record.iteration, record.model), set()).add(record.clip)
    return {turn for turn, those in spoken.items() if those >= clips}


def _cycles_s(records: Sequence[Record]) -> float | None:
    """What the cycles took from their first record to their last; None where records have no time.

    Where runs take turns, what the others took is not in it. A worker's start, and a server's, that stand
    before a cycle's first reading are its own.
    """
    total = 0.0
    before: tuple[int, datetime] | None = None
    for record in records:
        if isinstance(record, WorkerStarted):
            total += (record.start_ms or 0) / 1e3
            before = None
            continue
        if not isinstance(record, OfCycle):
            continue
        try:
            now = datetime.fromisoformat(record.at or "")
        except ValueError:
            return None
        if before and before[0] == record.cycle:
            total += max((now - before[1]).total_seconds(), 0.0)
        elif isinstance(record, Renewal):
            total += record.ms / 1e3
        elif isinstance(record, Eviction):
            total += record.release_ms / 1e3
        before = record.cycle, now
    return total


def _resident(readings: Sequence[Reading], turns: Sequence[Turn]) -> Resident | None:
    if not readings:
        return None
    peak = max(reading.memory.peak_rss_bytes for reading in readings)
    peak = max(peak, _highest(turn.peak_rss_bytes for turn in turns) or 0)
    return Resident(readings[0].memory.rss_bytes, readings[-1].memory.rss_bytes, peak)


def _group(readings: Sequence[Reading]) -> GroupMemory | None:
    groups = [reading.memory.cgroup for reading in readings if reading.memory.cgroup]
    if not groups:
        return None
    peaks = [group.peak_bytes for group in groups if group.peak_bytes is not None]
    highest = max(group.current_bytes for group in groups)
    return GroupMemory(highest, max(peaks, default=None), groups[-1].limit_bytes)


def _budgets(records: Sequence[Record]) -> Budgets | None:
    budgets = [record for record in records if isinstance(record, Budget)]
    if not budgets:
        return None
    actions = Counter(budget.action for budget in budgets)
    loaded = [budget for budget in budgets if budget.action != "refuse"]
    highest = max(loaded or budgets, key=lambda budget: budget.pressure)
    return Budgets(highest, actions["restart"], actions["refuse"])


def _packed(turns: Sequence[Turn], records: Sequence[Record]) -> Packed:
    evictions = [record for record in records if isinstance(record, Eviction)]
    complete = [turn for turn in turns if turn.release]
    saved_ms = 0.0
    for label in {turn.model for turn in complete}:
        its_own = [turn for turn in complete if turn.model == label]
        loads = [turn.load_ms for turn in its_own if turn.load_ms is not None]
        unloads = [turn.unload_ms for turn in its_own if turn.unload_ms is not None]
        unloads += [r.release_ms for r in evictions if r.evicted == label and r.by == "runner"]
        switch_ms = sum(min(those) for those in (loads, unloads) if those)
        saved_ms += switch_ms * (len(its_own) - len(loads))
    return Packed(
        turns=len(complete),
        loads=sum(turn.load is not None for turn in complete),
        evictions=len(evictions),
        by_server=sum(record.by == "server" for record in evictions),
        saved_ms=saved_ms,
    )


def _model(
    model: Model,
    plan: Plan,
    all_turns: Sequence[Turn],
    prediction: Prediction | None,
    cache: CacheProof | None,
) -> ModelSummary:
    turns = [turn for turn in all_turns if turn.model == model.label]
    spoken = [record for turn in turns for record in turn.transcriptions]
    unloads = [turn for turn in turns if turn.release and turn.release.how is not ReleaseKind.RESTART]
    restarts = [turn for turn in turns if turn.release and turn.release.how is ReleaseKind.RESTART]
    processes = [turn for turn in turns if turn.is_process]
    # After a restart the model is still loaded: what an unload gives back is known only where there was one.
    destroyed = [turn for turn in turns if turn.release and turn.release.how is ReleaseKind.DESTROY]
    stays = plan.strategy in (Strategy.RESTART, Strategy.RESIDENT) and plan.order is not Order.PACKED
    usual = restarts if stays else [*restarts, *unloads]
    answering = [turn for turn in turns if not (stays and turn.load)]
    return ModelSummary(
        label=model.label,
        synthetic=model.synthetic,
        cycles=sum("after_unload" in turn.readings for turn in turns),
        load_ms=_spread(turn.load_ms for turn in turns),
        switch_ms=_spread(
            switch_ms(before, turn)
            for before, turn in itertools.pairwise(all_turns)
            if turn.model == model.label
        ),
        unload_ms=_spread(turn.unload_ms for turn in turns),
        restart_ms=_spread(turn.release_ms for turn in restarts),
        first_callback_ms=_spread(record.figures.first_callback_ms for record in spoken),
        ttft_ms=_spread(record.figures.ttft_ms for record in spoken),
        inference_ms=_embedding_ms(spoken),
        first_inference_ms=_embedding_ms(
            [turn.transcriptions[0] for turn in turns if turn.load and turn.transcriptions]
        ),
        chars_per_s=_spread(record.figures.chars_per_s for record in spoken),
        tokens_per_s=_spread(record.figures.tokens_per_s for record in spoken),
        rtf=_spread(record.figures.rtf for record in spoken),
        wer=None if model.synthetic else _mean(record.wer for record in spoken),
        cer=None if model.synthetic else _mean(record.cer for record in spoken),
        checked=sum(record.check is not None for record in spoken),
        passed=sum(record.check is not None and record.check.passed for record in spoken),
        load_overhead_bytes=_spread(turn.rss_above(["after_load"], "before_load") for turn in turns),
        unload_release_bytes=_spread(
            turn.rss_above(["after_load", "after_infer"], "after_unload") for turn in destroyed
        ),
        net_growth_bytes=_spread(
            turn.rss_above(["after_unload"], "before_load") for turn in [*destroyed, *processes]
        ),
        gpu_overhead_bytes=_spread(
            turn.gpu_above("after_infer", "before_load") for turn in turns if turn.load
        ),
        gpu_growth_bytes=_spread(
            turn.gpu_above("after_unload", "before_load") for turn in [*destroyed, *processes]
        ),
        answer_ms=_spread(turn.answer_ms for turn in answering),
        overhead_ms=_spread(turn.overhead_ms for turn in [*usual, *processes] if not (stays and turn.load)),
        peak_bytes=_highest(turn.peak_rss_bytes for turn in turns),
        peak_above_load_bytes=_highest(turn.peak_above_load_bytes for turn in turns),
        peak_anonymous_bytes=_highest(turn.peak_anonymous_bytes for turn in turns),
        retained_bytes=_spread(turn.retained_bytes for turn in turns),
        retained_anonymous_bytes=_spread(turn.retained_anonymous_bytes for turn in turns),
        reclaimed=_spread(turn.reclaimed for turn in destroyed),
        reclaimed_anonymous=_spread(turn.reclaimed_anonymous for turn in destroyed),
        kept_bytes=_spread(turn.kept_bytes for turn in turns),
        trimmed_bytes=_spread(turn.trimmed_bytes for turn in turns),
        untrimmed_bytes=_spread(turn.untrimmed_bytes for turn in turns),
        prediction=_predicted(prediction, turns) if prediction and prediction.weights_bytes else None,
        drifts=_drifts([turn.load for turn in turns if turn.load], spoken),
        read_bytes=_spread(turn.read_bytes for turn in turns),
        cache=cache,
        reported=_reported(spoken),
    )


def _embedding_ms(spoken: Sequence[Transcription]) -> Spread | None:
    return _spread(record.answered_ms for record in spoken if record.gives == "embedding")


def _reported(spoken: Sequence[Transcription]) -> dict[str, Spread]:
    names = dict.fromkeys(name for record in spoken for name in record.reported)
    spreads = {name: _spread(record.reported.get(name) for record in spoken) for name in names}
    return {name: spread for name, spread in spreads.items() if spread}


def _cache_proof(label: str, records: Sequence[Record]) -> CacheProof | None:
    prepared = [record for record in records if isinstance(record, Cache) and record.model == label]
    if not prepared:
        return None
    return CacheProof(prepared[0].wanted, len(prepared), sum(record.proven for record in prepared))


def _predicted(prediction: Prediction, turns: Sequence[Turn]) -> Predicted:
    measured = _highest(turn.peak_above_load_bytes for turn in turns)
    return Predicted(prediction.weights_bytes, prediction.anonymous_bytes, measured)


def _drifts(loads: Sequence[Load], spoken: Sequence[Transcription]) -> dict[str, Drift]:
    """Each speed's drift, where it was measured in enough iterations. Of several clips, the middle counts."""
    measured: dict[str, list[tuple[int, float | None]]] = {
        "TTFT": [(record.iteration, record.figures.ttft_ms) for record in spoken],
        "inference": [(record.iteration, record.answered_ms) for record in spoken if record.gives != "text"],
        "tokens/s": [(record.iteration, record.figures.tokens_per_s) for record in spoken],
        "load": [(record.iteration, record.load_ms) for record in loads],
    }
    drifts = {}
    for name, pairs in measured.items():
        by_iteration: dict[int, list[float]] = {}
        for iteration, value in pairs:
            if value is not None:
                by_iteration.setdefault(iteration, []).append(value)
        drift = judge_pace([statistics.median(those) for those in by_iteration.values()])
        if drift:
            drifts[name] = drift
    return drifts


def verdicts_of(records: Sequence[Record]) -> list[SubjectVerdict]:
    """What the readings of a run say so far; its first record is the run's."""
    run = records[0]
    assert isinstance(run, Run)
    readings = [record for record in records if isinstance(record, Reading)]
    judged = judged_readings(records)
    own = run.plan.memory_limit_bytes
    limit = min(run.machine.memory_limit_bytes, own or run.machine.memory_limit_bytes)
    return [
        _subject_verdict(name, those, readings, limit, judged.one_process)
        for name, those in judged.subjects.items()
    ]


def _subject_verdict(
    subject: str, judged: Sequence[Reading], readings: Sequence[Reading], limit: int, one_process: bool
) -> SubjectVerdict:
    verdict = judge([sample_of(reading) for reading in judged], limit, one_process)
    if verdict.word is not Word.LEAK or verdict.leading is None:
        return SubjectVerdict(subject, verdict, {})
    its_own = [r for r in readings if r.worker == judged[0].worker and r.cycle <= judged[-1].cycle]
    cycles = _cycles(its_own)
    growth: dict[str, dict[str, Slope]] = {}
    named: set[str] = set()
    leaking = [name for name, finding in verdict.series.items() if finding.verdict.word is Word.LEAK]
    for name in dict.fromkeys([verdict.leading, *leaking]):
        grows = growth_by_model(cycles, name)
        if not named.issuperset(grows):
            growth[name] = grows
            named.update(grows)
    return SubjectVerdict(subject, verdict, growth)


def _cycles(readings: Iterable[Reading]) -> dict[str, list[tuple[Sample, Sample]]]:
    """By model, the cycles of one worker as read before and after.

    Where models stay loaded there is no load to read before: what counts are the cycles that follow another.
    """
    reloaded: dict[str, list[tuple[Sample, Sample]]] = {}
    kept: dict[str, list[tuple[Sample, Sample]]] = {}
    before: Reading | None = None
    for reading in readings:
        if reading.point == "after_unload" and before:
            pair = (sample_of(before), sample_of(reading))
            cycles = reloaded if before.cycle == reading.cycle else kept
            cycles.setdefault(reading.model, []).append(pair)
        if reading.point in ("before_load", "after_unload"):
            before = reading
    return kept or reloaded


def _spread(values: Iterable[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread(len(known), statistics.median(known), min(known), max(known)) if known else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _highest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
