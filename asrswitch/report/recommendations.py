"""What the rules say, in few lines: what is the same of several models is said once."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from asrswitch.errors import printable
from asrswitch.report.units import growth, size
from asrswitch.rules.result import Figure, RuleResult


class Said(msgspec.Struct, frozen=True):
    """What a rule says of one or more models alike, or what several rules are silent for."""

    rule: str  # with whom it is about, where it says something else of others
    says: str
    figures: str  # empty of rules that are silent


def merged(results: Sequence[RuleResult]) -> list[Said]:
    """What is the same of several models once; then, a reason each, what is silent."""
    groups: dict[tuple[str, str | None, str], list[RuleResult]] = {}
    for result in results:
        groups.setdefault((result.rule, result.outcome, result.says), []).append(result)
    subjects = {rule: {result.subject for result in results if result.rule == rule} for rule, *_ in groups}
    found = []
    silent: dict[str, list[str]] = {}
    for (rule, outcome, says), those in groups.items():
        names = [result.subject for result in those]
        of = "" if {*names} == subjects[rule] else f" of {', '.join(names)}"
        if outcome is None:
            silent.setdefault(says, []).append(f"{rule}{of}")
        else:
            found.append(Said(f"{rule}{of}", f"{outcome}: {says}", _figures(those)))
    return found + [Said(", ".join(rules), f"silent: {why}", "") for why, rules in silent.items()]


def recommendation_lines(results: Sequence[RuleResult]) -> list[str]:
    """A line for each of them."""
    return [
        printable(
            f"{said.rule}: {said.says} ({said.figures})" if said.figures else f"{said.rule}: {said.says}"
        )
        for said in merged(results)
    ]


def figure_texts(figures: Sequence[Figure]) -> str:
    """Each with its name, as `footprint 21.6 MiB`."""
    return "; ".join(f"{figure.name} {figure_text(figure)}" for figure in figures)


def figure_text(figure: Figure) -> str:
    """The value with its unit."""
    value = figure.value
    if figure.unit == "ms":
        return f"{value / 1e3:,.2f} s" if abs(value) >= 1e3 else f"{value:,.1f} ms"
    if figure.unit == "bytes":
        return size(value)
    if figure.unit == "bytes an iteration":
        return f"{growth(value, is_count=False).lstrip('+')} an iteration"
    if figure.unit == "%":
        return f"{round(value, 1):,g} %"
    if figure.unit == "times":
        return f"{value:,.0f} times" if value >= 100 else f"{value:.3g} times"
    return f"{value:,.10g}{f' {figure.unit}' * bool(figure.unit)}"


def _figures(those: Sequence[RuleResult]) -> str:
    """Each figure by its name, of several models one after the other."""
    texts: dict[str, list[str]] = {}
    for figure in (figure for result in those for figure in result.figures):
        texts.setdefault(figure.name, []).append(figure_text(figure))
    return "; ".join(f"{name} {' / '.join(values)}" for name, values in texts.items())
