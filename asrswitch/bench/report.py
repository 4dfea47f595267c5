"""A benchmark as text, markdown or JSON."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from asrswitch import __version__, machine
from asrswitch.bench.measure import Measurements
from asrswitch.bench.plan import LIBRARY_NAMES, BenchPlan
from asrswitch.bench.statistics import LEAST_FOR_INTERVAL, Estimate
from asrswitch.bench.summary import BenchSummary, CaseSummary, StageSummary, summarise
from asrswitch.errors import printable
from asrswitch.machine import Machine
from asrswitch.report.console import show

SCHEMA = 1
_NONE = "–"


class BenchReport(msgspec.Struct, frozen=True):
    """Everything of a benchmark: what was to be done, where, every measurement, and the figures."""

    schema: int
    version: str
    started_at: str
    machine: Machine
    plan: BenchPlan
    measured: Measurements
    summary: BenchSummary


class Grid(msgspec.Struct, frozen=True):
    """A table before it has a form; the first ``n_names`` columns are names, the others figures."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_names: int


def make_report(plan: BenchPlan, measured: Measurements, started_at: datetime) -> BenchReport:
    """Figure out and describe what was measured."""
    return BenchReport(
        schema=SCHEMA,
        version=__version__,
        started_at=started_at.astimezone().isoformat(timespec="seconds"),
        machine=machine.describe(),
        plan=plan,
        measured=measured,
        summary=summarise(measured),
    )


def render_text(report: BenchReport) -> list[RenderableType]:
    """Lines and tables for a terminal."""
    parts: list[RenderableType] = [Text(line) for line in heading(report)]
    for grid in grids(report.summary):
        table = Table(title=Text(f"\n{grid.title}", style="table.title"), title_justify="left")
        for index, name in enumerate(grid.columns):
            table.add_column(Text(name), justify="left" if index < grid.n_names else "right")
        for row in grid.rows:
            table.add_row(*(Text(cell) for cell in row))
        parts.append(table)
    return parts


def render_markdown(report: BenchReport) -> str:
    """The same as markdown."""
    lines = [f"- {_escaped(line)}" for line in heading(report)]
    for grid in grids(report.summary):
        lines += ["", f"**{_escaped(grid.title)}**", ""]
        lines += _markdown_row(grid.columns)
        lines += _markdown_row(
            ["---" if index < grid.n_names else "---:" for index in range(len(grid.columns))]
        )
        for row in grid.rows:
            lines += _markdown_row([_escaped(cell) for cell in row])
    return "\n".join(lines) + "\n"


def render_json(report: BenchReport) -> str:
    """Everything, for other programs."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1).decode() + "\n"


def _plain_text(report: BenchReport, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as captured:
        show(console, render_text(report))
    return captured.get()


# What a file can hold: a report and, for text, a width make its content.
WRITERS: dict[str, Callable[[BenchReport, int], str]] = {
    "text": _plain_text,
    "md": lambda report, _width: render_markdown(report),
    "json": lambda report, _width: render_json(report),
}


def heading(report: BenchReport) -> list[str]:
    """What was measured, where and how."""
    plan = report.plan
    few = plan.repetitions < LEAST_FOR_INTERVAL
    spread = "(lowest to highest)" if few else "with their 95 % bootstrap intervals"
    lines = [
        f"{report.machine.cpu}, {report.machine.physical_cores} cores, {report.machine.system}",
        f"{report.measured.clip_s:g} s of audio, up to {plan.max_new_tokens} new tokens; "
        f"{_count(plan.repetitions, 'repetition')} after {_count(plan.warmups, 'warm-up')}, not counted; "
        f"medians {spread}",
    ]
    for name, library in zip(LIBRARY_NAMES, plan.libraries, strict=False):
        lines.append(f"library {name}: {printable(library)}")
    synthetic = ", ".join(model.label for model in plan.models if model.synthetic)
    if synthetic:
        lines.append(f"synthetic weights: speed and memory are true, text is not: {synthetic}")
    if not report.measured.isas:
        lines.append("warning: no library here measures ceilings, so nothing is held against them")
    return lines


def grids(summary: BenchSummary) -> list[Grid]:
    """The tables that have rows."""
    several = len({case.library for case in summary.cases}) > 1
    stages = [
        Grid(
            f"stages of {_name(case, several)}, {_count(case.threads, 'thread')}",
            ("stage", "ms", "GOP/s", "GB/s", "at the ceilings, ms", "of the ceiling, %"),
            tuple(_stage_row(stage) for stage in case.stages),
            1,
        )
        for case in summary.cases
    ]
    wholes = [
        _whole([case for case in summary.cases if case.threads == threads], several)
        for threads in dict.fromkeys(case.threads for case in summary.cases)
    ]
    every = [_ceilings(summary), *stages, *wholes, _switches(summary), _ratios(summary)]
    return [grid for grid in every if grid.rows]


def _ceilings(summary: BenchSummary) -> Grid:
    rows = tuple(
        (item.kind, item.isa, str(item.threads), _cell(item.rate, 1e9), _number(item.highest / 1e9))
        for item in summary.ceilings
    )
    columns = ("ceiling", "instructions", "threads", "GB/s or GOP/s", "highest slice")
    return Grid("what this machine can do at best", columns, rows, 3)


def _whole(cases: Sequence[CaseSummary], several: bool) -> Grid:
    """Cases of one number of threads; ``several`` libraries are told apart."""
    rows: list[tuple[str, list[str]]] = [
        ("load, ms", [_cell(case.load_ms) for case in cases]),
        ("TTFT, ms", [_cell(case.ttft_ms) for case in cases]),
        ("TTFT is told by", [case.ttft_source for case in cases]),
        ("TTFT, first input after a load, ms", [_cell(case.first_ttft_ms) for case in cases]),
        ("first callback, ms", [_cell(case.first_callback_ms) for case in cases]),
        ("TTFT at the ceilings, ms", [_cell(case.ttft_floor_ms) for case in cases]),
        ("TTFT over that at the ceilings", [_cell(case.ttft_over_floor) for case in cases]),
        ("tokens", [_NONE if c.generated_tokens is None else str(c.generated_tokens) for c in cases]),
        ("decode, tokens/s", [_cell(case.tokens_per_s) for case in cases]),
        ("decode, GB/s", [_cell(case.decode_bytes_per_s, 1e9) for case in cases]),
        ("decode, % of the read ceiling", [_cell(case.decode_share, 0.01) for case in cases]),
        ("whole input, ms", [_cell(case.inference_ms) for case in cases]),
        ("RTF", [_cell(case.rtf) for case in cases]),
        ("unload, ms", [_cell(case.unload_ms) for case in cases]),
    ]
    kept = tuple((name, *cells) for name, cells in rows if any(cell != _NONE for cell in cells))
    title = f"the whole, {_count(cases[0].threads, 'thread')}"
    return Grid(title, ("", *(_name(case, several) for case in cases)), kept, 1)


def _switches(summary: BenchSummary) -> Grid:
    rows = tuple(
        (item.library, f"{item.unloaded} → {item.loaded}", str(item.threads), _cell(item.ms))
        for item in summary.switches
    )
    return Grid("switches: unload one, load the other", ("library", "switch", "threads", "ms"), rows, 3)


def _ratios(summary: BenchSummary) -> Grid:
    rows = tuple((item.model, str(item.threads), item.figure, _cell(item.ratio)) for item in summary.ratios)
    columns = ("model", "threads", "time", "A over B")
    return Grid("library A over library B, pair by pair: below 1, A is faster", columns, rows, 3)


def _stage_row(stage: StageSummary) -> tuple[str, ...]:
    return (
        stage.name,
        _cell(stage.ms),
        _cell(stage.operations_per_s, 1e9),
        _cell(stage.bytes_per_s, 1e9),
        _cell(stage.floor_ms),
        _cell(stage.share, 0.01),
    )


def _name(case: CaseSummary, several: bool) -> str:
    return f"{case.model}, library {case.library}" if several else case.model


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _cell(value: Estimate | None, unit: float = 1) -> str:
    if value is None:
        return _NONE
    middle, low, high = (_number(figure / unit) for figure in (value.median, value.low, value.high))
    return middle if low == high else f"{middle} ({low} to {high})"


def _number(value: float) -> str:
    """Three digits, and all of those before the point."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.3g}"


def _markdown_row(cells: Iterable[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


def _escaped(text: str) -> str:
    """Text that markdown leaves as it is, in a table too."""
    return "".join(f"\\{letter}" if letter in "\\|*_`<>[]" else letter for letter in text)
