"""From measurements to figures with intervals: pure functions.

Warm-ups do not count. What is held against a ceiling is held against that of its own repetition, so that a
machine whose speed drifts changes both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

import msgspec

from asrswitch.bench.floors import CEILING_KINDS, READ, floor_ms, total_floor_ms
from asrswitch.bench.measure import BenchRun, CeilingSet, Inference, Measurements
from asrswitch.bench.plan import LIBRARY_NAMES
from asrswitch.bench.statistics import Estimate, estimate
from asrswitch.stages import DECODE, STAGES


class CeilingSummary(msgspec.Struct, frozen=True):
    """One ceiling, in bytes or operations a second."""

    kind: str
    isa: str
    threads: int
    rate: Estimate  # of the repetitions' medians
    highest: float  # of all slices


class StageSummary(msgspec.Struct, frozen=True):
    """One stage. None where nothing was counted, or no ceiling is known."""

    name: str
    ms: Estimate
    operations: dict[str, int]  # of one input
    bytes: int
    operations_per_s: Estimate | None
    bytes_per_s: Estimate | None
    floor_ms: Estimate | None
    share: Estimate | None  # of the ceiling: floor over time


class CaseSummary(msgspec.Struct, frozen=True):
    """One library with one model and one number of threads. ``first_ttft_ms`` is after a load."""

    library: str
    model: str
    threads: int
    load_ms: Estimate
    unload_ms: Estimate
    ttft_ms: Estimate | None
    ttft_source: str  # "engine": its stages up to the first token; "callback": the first text callback
    first_ttft_ms: Estimate | None
    first_callback_ms: Estimate | None
    ttft_floor_ms: Estimate | None
    ttft_over_floor: Estimate | None
    inference_ms: Estimate
    rtf: Estimate
    generated_tokens: int | None
    tokens_per_s: Estimate | None  # decoded after the first
    decode_bytes_per_s: Estimate | None
    decode_share: Estimate | None  # of the read ceiling
    stages: tuple[StageSummary, ...]


class SwitchSummary(msgspec.Struct, frozen=True):
    """Unloading one model and loading another."""

    library: str
    unloaded: str
    loaded: str
    threads: int
    ms: Estimate


class RatioSummary(msgspec.Struct, frozen=True):
    """A time of library A over the same of library B, pair by pair."""

    model: str
    threads: int
    figure: str
    ratio: Estimate


class BenchSummary(msgspec.Struct, frozen=True):
    """All figures of a benchmark."""

    ceilings: tuple[CeilingSummary, ...]
    cases: tuple[CaseSummary, ...]
    switches: tuple[SwitchSummary, ...]
    ratios: tuple[RatioSummary, ...]


def summarise(measured: Measurements) -> BenchSummary:
    """Work out the figures; models and threads in the order in which they were measured, A before B."""
    sets = [item for item in measured.ceilings if not item.warmup]
    runs = sorted((run for run in measured.runs if not run.warmup), key=lambda run: run.library)
    ceilings = {(item.repetition, item.threads): _medians(item) for item in sets}
    places = dict.fromkeys((run.model, run.threads) for run in runs)
    libraries = dict.fromkeys(run.library for run in runs)
    cases = [(*place, library) for place in places for library in libraries]
    return BenchSummary(
        ceilings=_ceilings(sets, measured.isas),
        cases=tuple(
            _case([run for run in runs if _key(run) == key], ceilings, measured.clip_s) for key in cases
        ),
        switches=_switches(runs),
        ratios=_ratios(runs),
    )


def _key(run: BenchRun) -> tuple[str, int, str]:
    return run.model, run.threads, run.library


def _medians(item: CeilingSet) -> dict[str, float]:
    return {kind: median(rates) for kind, rates in item.rates.items()}


def _ceilings(sets: Sequence[CeilingSet], isas: dict[str, str]) -> tuple[CeilingSummary, ...]:
    summaries = []
    for threads in dict.fromkeys(item.threads for item in sets):
        for kind in CEILING_KINDS:
            slices = [item.rates[kind] for item in sets if item.threads == threads and kind in item.rates]
            rate = estimate([median(rates) for rates in slices])
            if rate:
                highest = max(max(rates) for rates in slices)
                summaries.append(CeilingSummary(kind, isas[kind], threads, rate, highest))
    return tuple(summaries)


def _case(
    runs: Sequence[BenchRun], ceilings: dict[tuple[int, int], dict[str, float]], clip_s: float
) -> CaseSummary:
    known = [ceilings.get((run.repetition, run.threads), {}) for run in runs]
    inputs = [run.inference for run in runs]
    engine_tells = all(item.account.to_first_token() for item in inputs)
    ttft = _engine_ttft_ms if engine_tells else _callback_ttft_ms
    floors = [
        total_floor_ms(item.account.to_first_token(), rates)
        for item, rates in zip(inputs, known, strict=True)
    ]
    stages = _stages(inputs, known)
    decode = next((stage for stage in stages if stage.name == DECODE), None)
    tokens = {item.account.generated_tokens for item in inputs}
    return CaseSummary(
        library=runs[0].library,
        model=runs[0].model,
        threads=runs[0].threads,
        load_ms=_sure(estimate([run.load_ms for run in runs])),
        unload_ms=_sure(estimate([run.unload_ms for run in runs])),
        ttft_ms=estimate([ttft(item) for item in inputs]),
        ttft_source="engine" if engine_tells else "callback",
        first_ttft_ms=estimate([ttft(run.first) for run in runs]),
        first_callback_ms=estimate([item.first_callback_ms for item in inputs]),
        ttft_floor_ms=estimate(floors),
        ttft_over_floor=estimate([_over(ttft(i), floor) for i, floor in zip(inputs, floors, strict=True)]),
        inference_ms=_sure(estimate([item.inference_ms for item in inputs])),
        rtf=_sure(estimate([item.inference_ms / 1e3 / clip_s for item in inputs])),
        generated_tokens=tokens.pop() if len(tokens) == 1 else None,
        tokens_per_s=estimate([_tokens_per_s(item) for item in inputs]),
        decode_bytes_per_s=decode.bytes_per_s if decode else None,
        decode_share=estimate([_read_share(i, rates) for i, rates in zip(inputs, known, strict=True)]),
        stages=stages,
    )


def _stages(inputs: Sequence[Inference], known: Sequence[dict[str, float]]) -> tuple[StageSummary, ...]:
    """Stages that every input has."""
    summaries = []
    for name in STAGES:
        stages = [stage for item in inputs if (stage := item.account.stage(name))]
        if len(stages) < len(inputs):
            continue
        floors = [floor_ms(stage, rates) for stage, rates in zip(stages, known, strict=True)]
        operations = [sum(stage.operations.values()) for stage in stages]
        summaries.append(
            StageSummary(
                name=name,
                ms=_sure(estimate([stage.ms for stage in stages])),
                operations=stages[-1].operations,
                bytes=stages[-1].bytes,
                operations_per_s=estimate([_per_s(n, s.ms) for n, s in zip(operations, stages, strict=True)]),
                bytes_per_s=estimate([_per_s(stage.bytes, stage.ms) for stage in stages]),
                floor_ms=estimate(floors),
                share=estimate([_over(floor, s.ms) for floor, s in zip(floors, stages, strict=True)]),
            )
        )
    return tuple(summaries)


def _switches(runs: Sequence[BenchRun]) -> tuple[SwitchSummary, ...]:
    """By the load's repetition: the unload before it may have been the last of the warm-ups."""
    counted = [run for run in runs if run.switched_from is not None]
    keys = dict.fromkeys((run.library, run.switched_from, run.model, run.threads) for run in counted)
    summaries = []
    for library, unloaded, loaded, threads in keys:
        spans = [
            run.switch_ms
            for run in counted
            if (run.library, run.switched_from, run.model, run.threads)
            == (library, unloaded, loaded, threads)
        ]
        summaries.append(SwitchSummary(library, str(unloaded), loaded, threads, _sure(estimate(spans))))
    return tuple(summaries)


def _ratios(runs: Sequence[BenchRun]) -> tuple[RatioSummary, ...]:
    name_a, name_b = LIBRARY_NAMES
    partners = {(run.model, run.threads, run.repetition): run for run in runs if run.library == name_b}
    pairs = [
        (run, partners[run.model, run.threads, run.repetition])
        for run in runs
        if run.library == name_a and partners
    ]
    figures: list[tuple[str, Callable[[BenchRun], float | None]]] = [
        ("load", lambda run: run.load_ms),
        ("unload", lambda run: run.unload_ms),
        ("TTFT by stages", lambda run: _engine_ttft_ms(run.inference)),
        ("first callback", lambda run: run.inference.first_callback_ms),
        ("first callback after load", lambda run: run.first.first_callback_ms),
        ("whole input", lambda run: run.inference.inference_ms),
        ("time a token by callbacks", lambda run: _over(1.0, run.inference.tokens_per_s)),
        *((f"stage {name}", _stage_reader(name)) for name in STAGES),
    ]
    summaries = []
    for model, threads in dict.fromkeys((a.model, a.threads) for a, _ in pairs):
        chosen = [pair for pair in pairs if (pair[0].model, pair[0].threads) == (model, threads)]
        for figure, read in figures:
            ratio = estimate([_over(read(a), read(b)) for a, b in chosen])
            if ratio:
                summaries.append(RatioSummary(model, threads, figure, ratio))
    return tuple(summaries)


def _stage_reader(name: str) -> Callable[[BenchRun], float | None]:
    def read(run: BenchRun) -> float | None:
        stage = run.inference.account.stage(name)
        return stage.ms if stage else None

    return read


def _engine_ttft_ms(item: Inference) -> float | None:
    stages = item.account.to_first_token()
    return sum(stage.ms for stage in stages) if stages else None


def _callback_ttft_ms(item: Inference) -> float | None:
    return item.first_callback_ms


def _tokens_per_s(item: Inference) -> float | None:
    """Tokens after the first: by the engine's account, or else by callbacks."""
    stage, count = item.account.stage(DECODE), item.account.generated_tokens
    if stage and count is not None:
        return _per_s(count - 1, stage.ms)
    return item.tokens_per_s


def _read_share(item: Inference, rates: dict[str, float]) -> float | None:
    stage = item.account.stage(DECODE)
    if stage is None or READ not in rates:
        return None
    return _over(_per_s(stage.bytes, stage.ms), rates[READ])


def _per_s(count: int, ms: float) -> float | None:
    return count / ms * 1e3 if count > 0 and ms > 0 else None


def _over(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _sure(value: Estimate | None) -> Estimate:
    assert value is not None  # its values are never None, and a case has at least one run
    return value
