"""What is to be said about a run besides its figures: each warning with what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from asrswitch.conditions import Conditions
from asrswitch.judged import asks_server, capabilities_in
from asrswitch.memory.budget import HIGH_PRESSURE
from asrswitch.plan import CacheState, Order, Plan, Strategy
from asrswitch.records import (
    Budget,
    Cache,
    CleanSlate,
    End,
    Eviction,
    Holder,
    Reading,
    Record,
    Resume,
    Run,
    Skip,
    Transcription,
)

_MIB = 1024 * 1024
# An iteration; each takes from 0.1 ms (SSD) to 10 ms (disk). The first iteration reads the weights and may.
_MANY_FAULTS = 10
_LEAST_PART = 0.1  # of a model's size that its server must grow by
_BUSY = 0.5  # processes that run besides ours, before the run
_STOLEN = 0.01  # of the processors' time
_FIRST_SLOWER, _NOTICEABLE_MS = 1.5, 20  # times the median of the others, and by as much
_ENOUGH_CHUNKS = 4
_NAMED = 3  # processes, at most


class Advice(msgspec.Struct, frozen=True):
    """A warning. ``invalid`` where the run's figures are not to be trusted for it."""

    text: str
    remedy: str
    invalid: bool = False

    @property
    def line(self) -> str:
        return f"{self.text}; {self.remedy}" if self.remedy else self.text


def advise(records: Sequence[Record]) -> list[Advice]:
    """Everything that a log gives reason to say, the gravest first."""
    run = records[0]
    assert isinstance(run, Run)
    readings = [record for record in records if isinstance(record, Reading)]
    spoken = [record for record in records if isinstance(record, Transcription)]
    found = [
        *_texts(run.plan, spoken),
        *_swapping(records, readings),
        *_conditions(records),
        *_left_out(records),
        *_unclean(records),
        *_caches(records),
        *_servers(run, records, readings),
        # Models that stay loaded as far as there is room are meant to fill it.
        *([] if run.plan.order is Order.PACKED else _pressure(records)),
        *([] if run.plan.cache is CacheState.COLD else _disk(run, readings)),
        *_speeds(run.plan, spoken),
        *_unknown(records, readings),
        *_sandbox(run),
    ]
    return sorted(found, key=lambda advice: not advice.invalid)


def _texts(plan: Plan, spoken: Sequence[Transcription]) -> Iterator[Advice]:
    """Decoding is greedy: the same clip gives the same text. Random weights may well say nothing."""
    synthetic = {model.label for model in plan.models if model.synthetic}
    texts: dict[tuple[str, str], set[str]] = {}
    for record in spoken:
        texts.setdefault((record.model, record.clip), set()).add(record.raw)
    for (model, clip), those in texts.items():
        if plan.backend.configuration.get("distinct_prompts"):
            continue
        if len(those) > 1 and plan.prompts:  # a server may compute in another order beside other work
            yield Advice(
                f"{model} gave {len(those)} different texts for {clip}",
                "greedy decoding gives one: compare them in the log",
            )
        elif len(those) > 1:
            yield Advice(
                f"{model} gave {len(those)} different texts for {clip}",
                "greedy decoding gives one: compare them in the log, and doubt library and memory",
                invalid=True,
            )
    silent = {(r.model, r.clip) for r in spoken if not r.text and r.gives == "text"}
    for model, clip in sorted(pair for pair in silent if pair[0] not in synthetic):
        yield Advice(
            f"{model} gave no text for {clip}",
            "times of an empty answer say nothing: see the server's log, or give more --max-new-tokens"
            if plan.prompts
            else "times of an empty transcription say nothing: try another clip, or --language",
            invalid=not plan.prompts,
        )


def _swapping(records: Sequence[Record], readings: Sequence[Reading]) -> Iterator[Advice]:
    swapped = max((reading.memory.swap_bytes for reading in readings), default=0)
    if swapped:
        served = asks_server(records)  # which may have been there for long, and some of it long unused
        whose = (
            "MiB of worker and server were swapped out" if served else "MiB of the worker were swapped out"
        )
        yield Advice(
            f"up to {swapped / _MIB:.1f} {whose}: memory was short, times suffer",
            "free memory, or switch swap off",
            invalid=not served,
        )


def _conditions(records: Sequence[Record]) -> Iterator[Advice]:
    """Each stretch from a start, or a resumption, to its end."""
    stretches: list[tuple[Conditions, Conditions]] = []
    begin: Conditions | None = None
    for record in records:
        if isinstance(record, Run | Resume):
            begin = record.conditions
            if begin and begin.load_average is not None and begin.load_average >= _BUSY:
                yield Advice(
                    f"the machine was busy before the run (load average {begin.load_average:.1f})",
                    "times are worse for it: end other work, or wait",
                )
        elif isinstance(record, End) and record.conditions and begin:
            stretches.append((begin, record.conditions))
    throttled = sum((b.throttled or 0) - (a.throttled or 0) for a, b in stretches)
    if throttled > 0:
        yield Advice(
            f"the processor was slowed {throttled:,} times for its temperature",
            "cool it, or set a lower frequency for all of the run",
            invalid=True,
        )
    stolen = sum((b.stolen_ticks or 0) - (a.stolen_ticks or 0) for a, b in stretches)
    ticks = sum((b.all_ticks or 0) - (a.all_ticks or 0) for a, b in stretches)
    if ticks > 0 and stolen / ticks >= _STOLEN:
        yield Advice(
            f"the host took {stolen / ticks:.0%} of the processors' time for others",
            "compare only what was measured in turns",
        )


def _left_out(records: Sequence[Record]) -> Iterator[Advice]:
    for record in records:
        if isinstance(record, Skip):
            where = f"from iteration {record.iteration} on"
            renews = any(can.get("renews") for can in capabilities_in(records))
            remedy = (
                ""
                if renews or not asks_server(records)
                else (
                    "a server that asrswitch is told how to restart (restart or docker in the backend's "
                    "configuration) is restarted and asked again"
                )
            )
            yield Advice(f"{record.model} is left out {where}: it {record.message}", remedy)


def _unclean(records: Sequence[Record]) -> Iterator[Advice]:
    left: dict[str, list[str]] = {}
    for record in records:
        if isinstance(record, Transcription) and record.left_behind:
            left.setdefault(record.model, []).extend(record.left_behind)
    for model, names in left.items():
        yield Advice(
            f"transcriptions of {model} left processes behind, which were ended: {len(names):,} in all, "
            f"{', '.join(sorted({*names})[:_NAMED])}",
            "they would have kept their memory; the program is to end what it starts",
        )
    slates = [record for record in records if isinstance(record, CleanSlate)]
    if unclean := [record for record in slates if not record.clean]:
        most = max(record.excess_bytes for record in unclean)
        more = f": up to {most / _MIB:.1f} MiB more than before the first load" if most > 0 else ""
        mapped = " or its file was still mapped" if any(record.mapped for record in unclean) else ""
        resident = sorted({label for record in unclean for label in record.resident})
        still = f"; the backend says itself that it still has {', '.join(resident)}" if resident else ""
        yield Advice(
            f"after {len(unclean)} of {len(slates)} unloads something of a model was left"
            f"{more}{mapped}{_held(unclean)}{still}",
            "the verdict says whether it grows",
        )


def _held(unclean: Sequence[CleanSlate]) -> str:
    """After which model it was left first, and which process holds it: it may still be there later."""
    found: dict[int, tuple[CleanSlate, Holder]] = {}
    later: Counter[int] = Counter()
    for record in unclean:
        for holder in record.holders:
            later[holder.pid] += holder.pid in found
            found.setdefault(holder.pid, (record, holder))
    said = []
    for pid, (record, holder) in list(found.items())[:_NAMED]:
        more = f", and still after {later[pid]:,} more" if later[pid] else ""
        size = f"{holder.excess_bytes / _MIB:,.1f} MiB"
        said.append(f"{holder.name} (process {pid}) held {size} after {record.model}{more}")
    return f"; {'; '.join(said)}" if said else ""


def _servers(run: Run, records: Sequence[Record], readings: Sequence[Reading]) -> Iterator[Advice]:
    """Whether a server's memory is read at all, and whether it was empty before models were loaded."""
    if not asks_server(records):
        return
    if unfound := [reading for reading in readings if not reading.processes]:
        every = len(unfound) == len(readings)
        yield Advice(
            "no process of the server was found: memory is the worker's alone, and the verdict is on that"
            if every
            else f"in {len(unfound):,} of {len(readings):,} readings no process of the server was found",
            "run it as root or as the server's user, on its machine; check docker or pid, if one is given",
            invalid=every,
        )
    before = [reading for reading in readings if reading.point == "before_load"]
    if any(can.get("keeps") for can in capabilities_in(records)):
        before = []
    if run.plan.strategy not in (Strategy.RELOAD, Strategy.ISOLATE):  # others keep theirs loaded
        before = [*{reading.worker: reading for reading in reversed(before)}.values()]
    if full := [reading for reading in before if reading.resident]:
        labels = sorted({label for reading in full for label in reading.resident or ()})
        yield Advice(
            f"before {len(full):,} of {len(before):,} loads the server already had {', '.join(labels)}",
            "figures are of several models at once, and it is not known what unloads leave there: see that "
            "nobody else uses it",
        )
    by_itself = Counter(r.evicted for r in records if isinstance(r, Eviction) and r.by == "server")
    if by_itself:
        said = ", ".join(f"{label} ({count:,})" for label, count in sorted(by_itself.items()))
        yield Advice(
            f"the server let go of models by itself, so many times: {said}",
            "they were loaded again; it may hold fewer at a time than there are",
        )
    yield from _small(run, readings)


def _small(run: Run, readings: Sequence[Reading]) -> Iterator[Advice]:
    """Each model for which the processes that were read grew by next to nothing."""
    before: dict[tuple[int, int], int] = {}
    for model in run.plan.models:
        grew = []
        for reading in readings:
            place = reading.cycle, reading.worker
            if reading.model == model.label and reading.point == "before_load":
                before[place] = reading.memory.rss_bytes
            elif reading.model == model.label and reading.point == "after_infer" and place in before:
                grew.append(reading.memory.rss_bytes - before[place])
        on_gpu = any(reading.gpu and reading.gpu.used_bytes for reading in readings)
        if grew and model.bytes and not on_gpu and max(grew) < _LEAST_PART * model.bytes:
            yield Advice(
                f"the server's processes never grew by more than {max(max(grew), 0) / _MIB:,.1f} MiB for "
                f"{model.label}, which has {model.bytes / _MIB:,.1f} MiB",
                "perhaps another process holds it, and a proxy listens: name it by docker or pid",
            )


def _caches(records: Sequence[Record]) -> Iterator[Advice]:
    """Each model whose file was not always as `--cache` wants it."""
    by_model: dict[str, list[Cache]] = {}
    for record in records:
        if isinstance(record, Cache):
            by_model.setdefault(record.model, []).append(record)
    for model, prepared in by_model.items():
        unproven = [record for record in prepared if not record.proven]
        if unproven:
            yield Advice(
                f"{model}'s file was not proven {unproven[0].wanted.value} before {len(unproven):,} of "
                f"{len(prepared):,} loads",
                unproven[-1].reason or "",
                invalid=len(unproven) > len(prepared) / 2,
            )


def _pressure(records: Sequence[Record]) -> Iterator[Advice]:
    """Each model whose load left less than a fifth of host, control group or limit."""
    tight: dict[str, Budget] = {}
    for record in records:
        if isinstance(record, Budget) and record.action != "refuse" and record.pressure >= HIGH_PRESSURE:
            before = tight.get(record.model)
            tight[record.model] = max(record, before or record, key=lambda budget: budget.pressure)
    for model, budget in tight.items():
        places = (
            ("on the host", budget.host_bytes),
            ("in the control group", budget.cgroup_bytes),
            ("of the memory limit", budget.limit_bytes),
        )
        left = sorted((free, where) for where, free in places if free is not None)
        needed = f"{model} needs {budget.need_bytes / _MIB:,.1f} MiB"
        said = ", ".join(f"{free / _MIB:,.1f} MiB {where}" for free, where in left)
        yield Advice(
            f"{budget.pressure * 100:.0f} % pressure: {needed}; left before it: {said}",
            "a smaller context, clip or model needs less",
        )


def _disk(run: Run, readings: Sequence[Reading]) -> Iterator[Advice]:
    later = [reading for reading in readings if reading.iteration > 1]
    faults = sum(reading.memory.major_faults or 0 for reading in later)
    iterations = len({reading.iteration for reading in later})
    if iterations and faults >= _MANY_FAULTS * iterations:
        yield Advice(
            f"{faults:,} page faults after the first iteration waited for a disk: "
            "the machine cannot keep the weights in memory, times suffer",
            "free memory, or use --lock" if run.plan.backend.is_default else "free memory",
        )


def _speeds(plan: Plan, spoken: Sequence[Transcription]) -> Iterator[Advice]:
    for model in plan.models:
        its_own = [record for record in spoken if record.model == model.label]
        times = [(r.iteration, r.figures.ttft_ms) for r in its_own if r.figures.ttft_ms is not None]
        first = [ms for iteration, ms in times if iteration == 1]
        others = sorted(ms for iteration, ms in times if iteration > 1)
        usual = others[len(others) // 2] if others else 0.0
        if first and others and max(first) > max(_FIRST_SLOWER * usual, usual + _NOTICEABLE_MS):
            ratio = max(first) / usual
            yield Advice(
                f"{model.label}'s first TTFT took {ratio:.1f} times as long as the later ones'",
                "it makes tables and maps pages, or reads the file: medians hardly feel it"
                + (", --preload helps" if plan.backend.is_default else ""),
            )
        chunks = [record.figures.text_callbacks for record in its_own if record.text]
        # A program that prints all at its end has no chars/s at all.
        at_once = not plan.backend.is_default and max(chunks, default=0) == 1
        if chunks and max(chunks) < _ENOUGH_CHUNKS and not at_once and not plan.prompts:
            yield Advice(
                f"{model.label} gave its text in {max(chunks)} pieces or fewer: chars/s is of little worth",
                "use a longer clip",
            )


def _sandbox(run: Run) -> Iterator[Advice]:
    if run.sandbox and not run.sandbox.files:
        yield Advice(
            "code in answers could read all files that you can: this kernel has no Landlock",
            "run as a user who may read little, or choose prompts without code",
        )


def _unknown(records: Sequence[Record], readings: Sequence[Reading]) -> Iterator[Advice]:
    if any(reading.memory.peak_since == "start" for reading in readings):
        yield Advice(
            "peak memory is since the worker's start: the kernel did not let it be set back at each reading",
            "`doctor` says what it needs",
        )
    if any(reading.memory.source == "status" for reading in readings):
        yield Advice("PSS and USS are unknown: this kernel has no smaps_rollup, or hides it", "")
    if any(reading.malloc is None for reading in readings) and not asks_server(records):
        yield Advice(
            "who holds the heap is unknown: the C library has no mallinfo2, or another allocator took over",
            "",
        )
