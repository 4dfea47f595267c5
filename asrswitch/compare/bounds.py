"""What a comparison may not find: ``--fail-on 'ttft>10%,heap_slope>0'``, parsed and applied."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from asrswitch.compare.comparison import Comparison, Figure
from asrswitch.compare.figures import MEASURES, At, Measure, Unit
from asrswitch.errors import UsageError

_PART = re.compile(
    r"([^<>=]*?)\s*([<>])\s*([+-]?)(\d{1,12}(?:\.\d{1,12})?)\s*(%|[KMGT](?:i?B)?|B|)", re.IGNORECASE
)
_MANIFOLD = 9.0  # changes from here on are told as so many times the baseline
_MEASURES = {measure.key: measure for measure in MEASURES}


class Bound(msgspec.Struct, frozen=True):
    """A figure's change that is one too many."""

    text: str  # as it was written
    key: str
    above: bool  # changes above the limit are, and not those below it
    limit: float  # a part of the baseline's figure, or in the unit of a level


class Outcome(msgspec.Struct, frozen=True):
    """What bounds say of a comparison, a line each."""

    broken: list[str]
    unjudged: list[str]  # of which no model could be compared
    blind: list[str]  # that hold, where a change just beyond them may not have been seen; none of bounds of 0


def parse_bounds(expression: str) -> list[Bound]:
    """Take an expression apart: conditions with commas between, each ``FIGURE>BOUND`` or ``FIGURE<BOUND``.

    Bounds are changes from the baseline: percent; of WER and CER in percentage points; of memory that is
    compared by its difference in bytes, or K, M or G of them (powers of 1,024).

    Raises:
        UsageError: a part that is no condition, or makes no sense; the message names it.
    """
    return [_parse(part.strip()) for part in expression.split(",")]


def apply_bounds(bounds: Sequence[Bound], comparison: Comparison) -> Outcome:
    """Hold a comparison against bounds. A change breaks one if it is more than chance, and beyond it."""
    broken, unjudged, blind = [], [], []
    for bound in bounds:
        # A figure is read at one place or two: it is told of at the first that breaks the bound.
        figures: dict[tuple[str, str], list[Figure]] = {}
        reasons: list[str] = []
        for pair in comparison.pairs:
            for figure in (figure for figure in pair.figures if figure.key == bound.key):
                if figure.reason is None:
                    figures.setdefault((pair.other, figure.model), []).append(figure)
                else:
                    reasons.append(figure.reason)
        if not figures:
            said = "; ".join(dict.fromkeys(reasons)) or "not measured"
            unjudged.append(f"{bound.text}: not comparable: {said}")
        for (other, model), places in figures.items():
            beyond = [figure for figure in places if _is_beyond(bound, figure)]
            sharpest = min(places, key=lambda figure: figure.smallest or 0)
            where = f"{bound.text}: {said_title((beyond or [sharpest])[0])} of {model} in {other}"
            if beyond:
                broken.append(f"{where} {said_change(beyond[0])}")
            elif (sharpest.smallest or 0) > abs(bound.limit) > 0 and not sharpest.differs:
                blind.append(f"{where}: only a change of {said_smallest(sharpest)} was likely to be seen")
    return Outcome(broken, unjudged, blind)


def said_title(figure: Figure) -> str:
    """A figure's name, and where it was read if that is not the median."""
    return figure.title if figure.at is At.MEDIAN else f"{figure.title}, {figure.at.value}"


def said_change(figure: Figure) -> str:
    """A change as words: `+12%`, `-1.0 MiB`."""
    change = figure.beyond
    return "" if change is None else said_amount(figure, change, "+")


def said_smallest(figure: Figure) -> str:
    """The least change that was likely to be seen."""
    return "" if figure.smallest is None else said_amount(figure, figure.smallest, "")


def said_amount(figure: Figure, amount: float, sign: str) -> str:
    """A change of a figure: a part of it, or in the unit of a level."""
    if figure.unit is Unit.SHARE and not figure.kind.by_ratio:
        return f"{amount * 100:{sign},.1f} points"
    if figure.kind.by_ratio and amount < _MANIFOLD:
        digits = 1 if abs(amount) < 0.0995 else 0
        return f"{amount * 100:{sign},.{digits}f}%"
    if figure.kind.by_ratio:
        return f"{amount + 1:,.0f}-fold"
    return said_bytes(amount, sign)


def said_bytes(amount: float, sign: str = "") -> str:
    """Bytes in the largest unit of which there is one."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(amount) >= 1024**power:
            return f"{amount / 1024**power:{sign},.1f} {unit}"
    return f"{amount:{sign},.0f} B"


def _is_beyond(bound: Bound, figure: Figure) -> bool:
    if not figure.differs or figure.beyond is None:
        return False
    return figure.beyond > bound.limit if bound.above else figure.beyond < bound.limit


def _parse(part: str) -> Bound:
    match = _PART.fullmatch(part)
    if not match:
        raise UsageError(f"--fail-on: {part!r} is no condition; write for example ttft>10%")
    name, direction, sign, number, unit = match.groups()
    measure = _MEASURES.get(name.strip())
    if measure is None:
        raise UsageError(f"--fail-on: {part!r}: {name.strip()!r} is no figure; use {', '.join(_MEASURES)}")
    size = float(number) * _factor(measure, part, float(number), unit)
    limit = -size if sign == "-" else size
    above = direction == ">"
    if (limit < 0) is above and limit != 0:
        other = "less than none is written as FIGURE<-BOUND, more as FIGURE>BOUND"
        raise UsageError(f"--fail-on: {part!r}: bounds are changes from the baseline; {other}")
    return Bound(part, measure.key, above, limit)


def _factor(measure: Measure, part: str, number: float, unit: str) -> float:
    """What turns the number into a part, or into the unit of a level."""
    if measure.kind.by_ratio or measure.unit is Unit.SHARE:
        if unit == "%":
            return 0.01
        kind = "percentage points" if measure.unit is Unit.SHARE else "percent"
        if unit or number:
            raise UsageError(f"--fail-on: {part!r}: give {kind}, as in {measure.key}>10%")
        return 1.0
    if unit == "%":
        raise UsageError(
            f"--fail-on: {part!r}: {measure.key} is compared by its difference; "
            f"give bytes, as in {measure.key}>0 or {measure.key}>64K"
        )
    return 1024.0 ** " KMGT".index((unit or "B").upper().replace("B", " ")[0])
