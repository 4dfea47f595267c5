"""A comparison as text, markdown or JSON."""

from __future__ import annotations

import io
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from asrswitch.compare.bounds import Outcome, said_amount, said_bytes, said_change, said_smallest, said_title
from asrswitch.compare.comparison import Comparison, Figure, Pair, Word
from asrswitch.compare.figures import At, Unit
from asrswitch.compare.statistics import POWER
from asrswitch.errors import printable
from asrswitch.report.console import show

SCHEMA = 1
_NONE = "–"
_COLUMNS = ("model", "figure", "baseline", "other", "change", "interval", "verdict")
_N_NAMES = 2
_INDENT = " " * 6  # of a verdict below its figure
_LEGEND = (
    f"smallest: the least change that had a chance of {POWER:.0%} to be seen; best tenth: of a run's turns, "
    "the quickest, which other processes disturb least. An interval is that of its figure alone; a verdict "
    "allows for all figures being tested at once and for changes too small to tell, so that an interval may "
    "lie off ×1 where no difference is seen"
)
_MIB = 1024 * 1024


class CompareReport(msgspec.Struct, frozen=True):
    """What ``--format json`` writes."""

    schema: int
    version: str
    comparison: Comparison
    bounds: Outcome | None


def conclude(pair: Pair) -> str:
    """A pair in a sentence."""
    changed = [figure for figure in _shown(pair) if figure.differs]
    there = [figure for figure in pair.figures if figure.at is At.MEDIAN and _is_there(figure)]
    lost = [figure for figure in there if figure.word is Word.NOT_COMPARABLE]
    ((why, _),) = Counter(figure.reason for figure in lost).most_common(1) or [("", 0)]
    if len(lost) == len(there):
        why = why or "no figure is there on both sides"
        return f"{pair.other} cannot be compared with {pair.baseline}: {why}"
    rest = f"; {len(lost)} could not be compared: {why}" if lost else ""
    if not changed:
        among = f" in {len(there) - len(lost)} of {len(there)} figures" if lost else ""
        return f"{pair.other} against {pair.baseline}: no difference seen{among}{rest}"
    said = "; ".join(
        f"{figure.model}: {said_title(figure)} {figure.word.value} ({said_change(figure)})"
        for figure in changed
    )
    return f"{pair.other} against {pair.baseline}: {said}{rest}"


def rows_of(pair: Pair) -> list[tuple[str, ...]]:
    """The figures of a pair as words, by ``_COLUMNS``; those that neither side has are left out."""
    best = {(figure.model, figure.key): figure for figure in pair.figures if figure.at is At.BEST}
    return [
        (
            figure.model,
            said_title(figure),
            _value(figure, figure.baseline),
            _value(figure, figure.other),
            _NONE if figure.change is None else _change(figure, figure.change),
            _interval(figure),
            _verdict(figure, best.get((figure.model, figure.key))),
        )
        for figure in _shown(pair)
        if _is_there(figure)
    ]


def render_text(report: CompareReport, width: int) -> list[RenderableType]:
    """What each pair comes to, and its table, in so many columns."""
    parts: list[RenderableType] = []
    for pair in report.comparison.pairs:
        if parts:
            parts.append(Text(""))
        style = "bold" if any(figure.differs for figure in pair.figures) else ""
        parts.append(Text(printable(conclude(pair)), style=style))
        parts += [Text(printable(line)) for line in _lines(pair)]
        parts += _table(_columns(report.comparison), rows_of(pair), width)
    parts.append(Text(_LEGEND))
    if report.bounds:
        parts += [Text(printable(line)) for line in _bound_lines(report.bounds)]
    return parts


def _table(columns: Sequence[str], rows: Sequence[tuple[str, ...]], width: int) -> list[RenderableType]:
    """A line a figure; where that has no room, the model above its figures, and the verdict below each."""
    table = Table(box=None, pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if _N_NAMES <= index < len(_COLUMNS) - 1 else "left")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    if Console(width=10_000).measure(table).maximum <= width:
        return [table]
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)][1:-1]
    lines: list[RenderableType] = [Text(_aligned(columns[1:-1], widths), style="bold")]
    model = None
    for row in rows:
        if row[0] != model:
            model = row[0]
            lines.append(Text(printable(model), style="bold"))
        lines.append(Text(_aligned([printable(cell) for cell in row[1:-1]], widths)))
        verdict = textwrap.fill(printable(row[-1]), max(20, width - len(_INDENT)), break_on_hyphens=False)
        lines.append(Text(textwrap.indent(verdict, _INDENT)))
    return lines


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The first to the left, the others to the right."""
    first, *others = (
        f"{cell:>{width}}" if index else f"{cell:{width}}"
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([f"  {first}", *others]).rstrip()


def write_text(report: CompareReport, width: int) -> str:
    """The text of a terminal of this width, without its colours."""
    stream = io.StringIO()
    show(Console(file=stream, width=width), render_text(report, width))
    return stream.getvalue()


def write_markdown(report: CompareReport, width: int) -> str:
    """The same as tables of markdown."""
    del width
    lines: list[str] = []
    for pair in report.comparison.pairs:
        lines += [
            f"## {_escape(pair.other)} against {_escape(pair.baseline)}",
            "",
            _escape(conclude(pair)),
            "",
        ]
        lines += [*(f"- {_escape(line)}" for line in _lines(pair)), ""]
        columns = _columns(report.comparison)
        lines.append(_row(columns))
        lines.append(_row(["---"] * _N_NAMES + ["---:"] * (len(columns) - _N_NAMES - 1) + ["---"]))
        lines += [_row([_escape(cell) for cell in row]) for row in rows_of(pair)]
        lines.append("")
    lines += [_LEGEND, ""]
    if report.bounds:
        lines += [f"- {_escape(line)}" for line in _bound_lines(report.bounds)]
    return "\n".join(lines).rstrip("\n") + "\n"


def write_json(report: CompareReport, width: int) -> str:
    """Everything, as JSON."""
    del width
    text = msgspec.json.encode(report).decode()
    return f"{msgspec.json.format(text, indent=2)}\n"


WRITERS: dict[str, Callable[[CompareReport, int], str]] = {
    "text": write_text,
    "md": write_markdown,
    "json": write_json,
}


def _shown(pair: Pair) -> list[Figure]:
    """The figures at the median, and at their best where they differ and the median does not."""
    told = {
        (figure.model, figure.key) for figure in pair.figures if figure.at is At.MEDIAN and figure.differs
    }
    return [
        figure
        for figure in pair.figures
        if figure.at is At.MEDIAN or (figure.differs and (figure.model, figure.key) not in told)
    ]


def _is_there(figure: Figure) -> bool:
    return figure.baseline is not None or figure.other is not None


def _columns(comparison: Comparison) -> list[str]:
    return [f"{comparison.confidence:.0%} interval" if name == "interval" else name for name in _COLUMNS]


def _lines(pair: Pair) -> list[str]:
    return [
        pair.trust,
        *(f"not the same: {line}" for line in pair.differs),
        *(f"differs: {line}" for line in pair.differs_too),
        *(f"note: {line}" for line in pair.notes),
    ]


def _bound_lines(bounds: Outcome) -> list[str]:
    if not (bounds.broken or bounds.unjudged or bounds.blind):
        return ["--fail-on: nothing is beyond the bounds"]
    return [
        *(f"FAILS {line}" for line in bounds.broken),
        *(f"undecided {line}" for line in bounds.unjudged),
        *(f"holds {line}" for line in bounds.blind),
    ]


def _verdict(figure: Figure, best: Figure | None) -> str:
    if figure.word is Word.NOT_COMPARABLE:
        return f"{figure.word.value}: {figure.reason}"
    if figure.differs:
        return f"{figure.word.value}"
    at_best = f", {best.at.value} {said_smallest(best)}" if best and not best.differs else ""
    return f"{figure.word.value} (smallest {said_smallest(figure)}{at_best})"


def _value(figure: Figure, value: float | None) -> str:
    if value is None:
        return _NONE
    if figure.unit is Unit.SHARE:
        return f"{value * 100:,.1f}%"
    if figure.unit is Unit.BYTES:
        return f"{value / _MIB:,.2f} MiB"
    if figure.unit is Unit.BYTES_AN_ITERATION:
        return said_bytes(value)
    shown = f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"
    return f"{shown} {figure.unit.value}".rstrip() if figure.unit is Unit.MS else shown


def _change(figure: Figure, change: float) -> str:
    return _ratio(change) if figure.kind.by_ratio else said_amount(figure, change, "+")


def _interval(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return _NONE
    return f"{_change(figure, figure.low)} to {_change(figure, figure.high)}"


def _ratio(ratio: float) -> str:
    return f"×{ratio:.3f}" if 0.01 <= ratio < 100 else f"×{ratio:.2g}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    """Text that markdown shows as it is, in one line."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|" else letter for letter in printable(text))
