"""A leak check as text or JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from asrswitch import __version__, machine
from asrswitch.errors import printable
from asrswitch.leak_check.massif import TOLERANCE_BYTES, HeapCurve
from asrswitch.leak_check.measure import Measured
from asrswitch.leak_check.memcheck import Mistake
from asrswitch.leak_check.plan import LeakCheckPlan, Tool
from asrswitch.leak_check.sites import Holder, Site, Stack, Tally, before_python, holder_of, judge
from asrswitch.machine import Machine
from asrswitch.stats.series import Word

SCHEMA = 1
_MOST_SITES = 10  # of each kind in the text; JSON has all
_COLUMNS = 72  # of the curve
_BARS = "▁▂▃▄▅▆▇█"
_VALGRIND = "valgrind knows no AVX-512"


class HolderTotal(msgspec.Struct, frozen=True):
    """One holder's blocks at the end of the runs."""

    holder: Holder
    once: Tally  # of sites that both runs ended with alike
    bytes_per_cycle: float  # of sites that grew, less what others shrank
    blocks_per_cycle: float


class FoundMistake(msgspec.Struct, frozen=True):
    """An error of memcheck's, and whose code it is in."""

    holder: Holder
    mistake: Mistake


class LeakCheckReport(msgspec.Struct, frozen=True):
    """Everything of a leak check: what was to be done, where, what was found, and the verdict."""

    schema: int
    version: str
    started_at: str
    machine: Machine
    plan: LeakCheckPlan
    valgrind: str
    instruction_sets: tuple[str, ...]
    native_instruction_sets: tuple[str, ...]
    word: Word
    totals: tuple[HolderTotal, ...]
    sites: tuple[Site, ...]  # of the library and what it brought in, and whatever of Python's grew
    mistakes: tuple[FoundMistake, ...]
    curve: HeapCurve | None

    @property
    def library_mistakes(self) -> tuple[Mistake, ...]:
        """Those that are not in Python's own code."""
        return tuple(found.mistake for found in self.mistakes if found.holder is not Holder.PYTHON)


def make_report(plan: LeakCheckPlan, measured: Measured, started_at: datetime) -> LeakCheckReport:
    """Judge and describe what was measured."""
    library = Path(plan.library)
    return LeakCheckReport(
        schema=SCHEMA,
        version=__version__,
        started_at=started_at.astimezone().isoformat(timespec="seconds"),
        machine=machine.describe(),
        plan=plan,
        valgrind=measured.valgrind,
        instruction_sets=measured.instruction_sets,
        native_instruction_sets=measured.native_instruction_sets,
        word=measured.curve.word if measured.curve else judge(measured.sites),
        totals=() if measured.curve else tuple(_total(holder, measured.sites) for holder in Holder),
        sites=tuple(
            site for site in measured.sites if site.holder is not Holder.PYTHON or site.bytes_per_cycle > 0
        ),
        mistakes=tuple(FoundMistake(holder_of(item.stack, library), item) for item in measured.mistakes),
        curve=measured.curve,
    )


def render_json(report: LeakCheckReport) -> str:
    """Everything, for other programs."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1).decode() + "\n"


def render_text(report: LeakCheckReport) -> str:
    """Lines for people."""
    library = Path(report.plan.library)
    lines = [*_heading(report), f"verdict: {_verdict(report)}"]
    if report.curve:
        lines += _curve_lines(report.curve)
    else:
        grown = [
            site for site in report.sites if site.bytes_per_cycle > 0 and site.holder is not Holder.PYTHON
        ]
        lines += _listed("sites that grew", grown, library, _grown_site)
        if report.plan.tool is Tool.DHAT:
            busiest = sorted(report.sites, key=lambda site: -site.allocated_bytes_per_cycle)
            busy = [site for site in busiest if site.allocated_bytes_per_cycle > 0]
            lines += _listed("sites that allocate in every cycle, the most first", busy, library, _busy_site)
        lines += _holder_lines(report.totals)
    if report.plan.tool is Tool.MEMCHECK:
        lines += _mistake_lines(report)
    return "\n".join(printable(line) for line in lines) + "\n"


WRITERS: dict[str, Callable[[LeakCheckReport], str]] = {"text": render_text, "json": render_json}


def _heading(report: LeakCheckReport) -> Iterator[str]:
    plan = report.plan
    who = plan.driver or "our worker"
    labels = " and ".join(model.label for model in plan.models)
    runs = " and ".join(str(cycles) for cycles in plan.cycles)
    runs = f"runs of {runs}" if len(plan.cycles) > 1 else f"a run of {runs}"
    yield f"{report.valgrind} {plan.tool.value}: {plan.library}"
    threads = "" if plan.driver else f", {plan.threads} thread{'s' * (plan.threads > 1)}"
    yield f"{who}: {runs} cycles of {labels} (load, transcribe, unload){threads}"
    yield _instruction_set_line(report)
    yield "seen: the heap. Not seen: mappings, threads and open files, which a run's verdict covers"


def _instruction_set_line(report: LeakCheckReport) -> str:
    ran, native = ", ".join(report.instruction_sets), ", ".join(report.native_instruction_sets)
    if not ran:
        return f"instruction set: not told; {_VALGRIND}: code for it, if there is any, was not what ran"
    if ran == native:
        return f"instruction set: {ran}, as without valgrind"
    why = f"{_VALGRIND}: " if "avx512" in native else ""
    return f"instruction set: {ran}; {why}{native}, which this machine would have chosen, was not what ran"


def _verdict(report: LeakCheckReport) -> str:
    per = "cycle" if len(report.plan.models) == 1 else f"cycle of each of {len(report.plan.models)} models"
    longer = f"--cycles {report.plan.cycles[-1] * 3} decides it"
    if report.curve:
        growth = report.curve.growth_bytes_per_cycle
        seen = "too few snapshots" if growth is None else f"heap {growth:+,.0f} bytes per {per} after warm-up"
        seen += f" (tolerance {TOLERANCE_BYTES:,})"
        if report.word is Word.LEAK:
            seen += "; --tool memcheck names the sites"
        return f"{report.word.value}, {seen}{'; ' + longer if report.word is Word.INCONCLUSIVE else ''}"
    if report.word is Word.FLAT:
        return f"flat, no block of the library's is added by a {per}"
    grown = [item for item in report.totals if item.holder is not Holder.PYTHON and item.bytes_per_cycle > 0]
    whose = ", ".join(
        f"{item.holder.value}: {_amount(item.bytes_per_cycle, item.blocks_per_cycle)}" for item in grown
    )
    if report.word is Word.LEAK:
        return f"leak, per {per} {whose}"
    return f"inconclusive, something grew, but not in every cycle ({whose} on average): {longer}"


def _grown_site(site: Site) -> str:
    amount = _amount(site.bytes_per_cycle, site.blocks_per_cycle)
    whole = f"{site.short.bytes:,} bytes at the end of the shorter run, {site.long.bytes:,} of the longer"
    every = "" if site.every_cycle else ", not in every cycle"
    return f"{amount} per cycle{every}, {' and '.join(site.kinds)}, {site.holder.value}: {whole}"


def _busy_site(site: Site) -> str:
    amount = _amount(site.allocated_bytes_per_cycle, site.allocated_blocks_per_cycle)
    return f"{amount} asked for per cycle, {site.holder.value}; {site.long.bytes:,} bytes left at exit"


def _listed(
    title: str, sites: Sequence[Site], library: Path, describe: Callable[[Site], str]
) -> Iterator[str]:
    if not sites:
        return
    yield f"{title}:"
    for site in sites[:_MOST_SITES]:
        yield f"  {describe(site)}"
        yield from _stack_lines(site.stack, library)
    if len(sites) > _MOST_SITES:
        yield f"  and {len(sites) - _MOST_SITES} more; --format json has all"


def _stack_lines(stack: Stack, library: Path) -> Iterator[str]:
    """The frames down to where Python called: what is further out is the same everywhere."""
    native = before_python(stack, library)
    for frame in native:
        name = frame.function or f"0x{frame.offset:x}"
        object_name = Path(frame.object).name if frame.object else "?"
        yield f"    {name} ({f'{frame.source}, ' if frame.source else ''}{object_name})"
    if len(native) < len(stack):
        yield f"    called by Python ({len(stack) - len(native)} frames)"


def _holder_lines(totals: Iterable[HolderTotal]) -> Iterator[str]:
    for item in totals:
        if item.holder is not Holder.LIBRARY and not (item.once.blocks or item.blocks_per_cycle):
            continue
        once = f"{_amount(item.once.bytes, item.once.blocks)} made once"
        grown = _amount(item.bytes_per_cycle, item.blocks_per_cycle)
        yield f"{item.holder.value}: {once} and left at exit; {grown} more in each further cycle"


def _mistake_lines(report: LeakCheckReport) -> Iterator[str]:
    found = report.library_mistakes
    python = len(report.mistakes) - len(found)
    yield f"errors: {len(found)}" + (f"; another {python} in Python's own code" if python else "")
    for mistake in found[:_MOST_SITES]:
        yield f"  {mistake.what} ({mistake.kind}), {mistake.count:,} times"
        yield from _stack_lines(mistake.stack, Path(report.plan.library))
    if len(found) > _MOST_SITES:
        yield f"  and {len(found) - _MOST_SITES} more; --format json has all"


def _curve_lines(curve: HeapCurve) -> Iterator[str]:
    most = max((item.heap_bytes for item in curve.snapshots), default=0)
    seconds = curve.snapshots[-1].at_ms / 1000
    yield f"heap over {seconds:.1f} s, highest {most:,} bytes:"
    yield f"  {_bars(curve)}"
    yield f"  {'cycle':>5}  {'peak, bytes':>14}  {'after unload':>14}  {'rise':>12}  model"
    before: dict[str, int | None] = {}
    for number, cycle in enumerate(curve.cycles, 1):
        last = before.get(cycle.model)
        rise = "" if last is None or cycle.after_bytes is None else f"{cycle.after_bytes - last:+,}"
        peak, after = (
            "–" if value is None else f"{value:,}" for value in (cycle.peak_bytes, cycle.after_bytes)
        )
        yield f"  {number:>5}  {peak:>14}  {after:>14}  {rise:>12}  {cycle.model}"
        before[cycle.model] = cycle.after_bytes


def _bars(curve: HeapCurve) -> str:
    """The highest snapshot of each stretch of time; a stretch without one is as the one before."""
    end = curve.snapshots[-1].at_ms + 1
    most = max(1, *(item.heap_bytes for item in curve.snapshots)) if curve.snapshots else 1
    heights = [-1] * _COLUMNS
    for item in curve.snapshots:
        column = item.at_ms * _COLUMNS // end
        heights[column] = max(heights[column], item.heap_bytes)
    bars, height = "", 0
    for found in heights:
        height = found if found >= 0 else height
        bars += _BARS[min(height * len(_BARS) // most, len(_BARS) - 1)]
    return bars


def _total(holder: Holder, sites: Iterable[Site]) -> HolderTotal:
    own = [site for site in sites if site.holder is holder]
    once = sum((site.long for site in own if site.long == site.short), Tally())
    return HolderTotal(
        holder, once, sum(site.bytes_per_cycle for site in own), sum(site.blocks_per_cycle for site in own)
    )


def _amount(n_bytes: float, n_blocks: float) -> str:
    """``1,024 bytes in 1 block``; a part of one where it was not each cycle."""
    unit = "block" if n_blocks == 1 else "blocks"
    return f"{_number(n_bytes)} bytes in {_number(n_blocks)} {unit}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.2f}"
