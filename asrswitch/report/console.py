"""Schedule and summary on a terminal, or as plain lines where there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from asrswitch.errors import printable
from asrswitch.plan import Model, Plan
from asrswitch.records import Failure
from asrswitch.schedule import Cycle
from asrswitch.stats.drift import Pace
from asrswitch.stats.verdict import Word
from asrswitch.summary import ModelSummary, Spread, SubjectVerdict, Summary

_MIB = 1024 * 1024
_STYLES = {Word.FLAT: "green", Word.PLATEAU: "green", Word.INCONCLUSIVE: "yellow", Word.LEAK: "bold red"}
_DETAILED_FAILURES = 5


def render_schedule(plan: Plan, cycles: Sequence[Cycle]) -> list[RenderableType]:
    """The cycles that a run would go through."""
    table = Table(box=None, pad_edge=False)
    for name in ("cycle", "iteration", "model", "phases"):
        table.add_column(name, justify="right" if name in ("cycle", "iteration") else "left")
    for cycle in cycles:
        phases = ["load"] * cycle.load + ["transcribe"] * len(plan.clips)
        phases.append("unload" if cycle.release.value == "destroy" else "restart")
        table.add_row(str(cycle.index), str(cycle.iteration), Text(cycle.model.label), ", ".join(phases))
    heading = f"{len(cycles)} cycles, {plan.strategy.value}, {plan.threads} threads, to {printable(plan.out)}"
    return [Text(heading), *_synthetic_lines(plan.models), table]


def show(console: Console, parts: Iterable[RenderableType]) -> None:
    """Print parts of a report. Lines outside tables are not wrapped: who searches them finds them whole."""
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, Text))


def render_summary(summary: Summary) -> list[RenderableType]:
    """Table of the models, overall memory, verdicts, failures and warnings."""
    parts: list[RenderableType] = [_models_table(summary.models)] if summary.resident else []
    done = f"{summary.iterations_done} of {summary.iterations_planned} iterations, {summary.finished}"
    parts.append(Text(f"\n{done}"))
    parts += _synthetic_lines(summary.models)
    if summary.resident:
        resident = summary.resident
        parts.append(
            Text(
                f"resident memory: first {resident.first / _MIB:.1f}, last {resident.last / _MIB:.1f}, "
                f"peak {resident.peak / _MIB:.1f} MiB"
            )
        )
    parts += [_verdict_lines(item) for item in summary.verdicts]
    parts += _drift_lines(summary.models)
    parts += _failure_lines(summary.failures)
    parts += [Text(f"warning: {warning}", style="yellow") for warning in summary.warnings]
    return parts


def _synthetic_lines(models: Sequence[Model] | Sequence[ModelSummary]) -> list[Text]:
    """A line that names the models of random weights, where there are any."""
    labels = ", ".join(model.label for model in models if model.synthetic)
    said = f"synthetic weights: speed and memory are true, text is not: {labels}"
    return [Text(said, style="yellow")] if labels else []


def _models_table(models: Sequence[ModelSummary]) -> Table:
    rows: list[tuple[str, Callable[[ModelSummary], str]]] = [
        ("cycles", lambda m: str(m.cycles)),
        ("load, ms", lambda m: _middle(m.load_ms, ",.1f")),
        ("TTFT, ms", lambda m: _middle(m.ttft_ms, ",.1f")),
        ("first callback, ms", lambda m: _middle(m.first_callback_ms, ",.1f")),
        ("chars/s", lambda m: _middle(m.chars_per_s, ",.1f")),
        ("tokens/s", lambda m: _middle(m.tokens_per_s, ",.1f")),
        ("RTF", lambda m: _middle(m.rtf, ".3g")),
        ("WER, %", lambda m: _percent(None if m.synthetic else m.wer)),
        ("CER, %", lambda m: _percent(None if m.synthetic else m.cer)),
        ("unload, ms", lambda m: _middle(m.unload_ms, ",.1f")),
        ("restart, ms", lambda m: _middle(m.restart_ms, ",.1f")),
        ("switch, ms", lambda m: _middle(m.switch_ms, ",.1f")),
        ("load overhead, MiB", lambda m: _middle(m.load_overhead_bytes, ",.2f", _MIB)),
        ("unload release, MiB", lambda m: _middle(m.unload_release_bytes, ",.2f", _MIB)),
        ("net growth, MiB", lambda m: _middle(m.net_growth_bytes, ",.2f", _MIB)),
    ]
    table = Table(title="medians (lowest to highest)", title_justify="left")
    table.add_column("")
    for model in models:
        table.add_column(Text(model.label), justify="right")
    for name, cell in rows:
        cells = [cell(model) for model in models]
        if any(text != "–" for text in cells):
            table.add_row(name, *cells)
    return table


def _middle(spread: Spread | None, form: str, unit: float = 1) -> str:
    if spread is None:
        return "–"
    low, middle, high = (
        f"{value / unit:{form}}" for value in (spread.minimum, spread.median, spread.maximum)
    )
    return middle if low == high else f"{middle} ({low} to {high})"


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{rate * 100:.1f}"


def _verdict_lines(item: SubjectVerdict) -> Text:
    verdict = item.verdict
    text = Text("memory, ")
    text.append(f"{item.subject}: ")
    text.append(verdict.word.value, style=_STYLES[verdict.word])
    text.append(f", {verdict.reason}")
    if verdict.holder:
        text.append(f"; held by {verdict.holder}")
    for line in _evidence(item):
        text.append(f"\n  {line}")
    return text


def _evidence(item: SubjectVerdict) -> list[str]:
    """Resident memory, the heap, and the series that explains the word; the others are as they should be."""
    verdict = item.verdict
    shown = dict.fromkeys(("resident memory", "heap in use", *([verdict.leading] if verdict.leading else [])))
    lines = []
    for name in shown:
        found = verdict.series[name].verdict if name in verdict.series else None
        if found and found.slope and found.detectable is not None:
            unit = _number if name in verdict.counts else _size
            slope = found.slope
            lines.append(
                f"{name} {unit(slope.slope)} an iteration (95 % interval {unit(slope.low)} to "
                f"{unit(slope.high)}); from {unit(found.detectable, sign='')} it would show; "
                f"{unit(found.warmup_growth)} in a warm-up of {found.warmup_iterations} of {found.iterations}"
            )
    if item.growth_by_model:
        unit = _number if verdict.leading in verdict.counts else _size
        models = (f"{label} ({unit(slope.slope)} a cycle)" for label, slope in item.growth_by_model.items())
        lines.append(f"grows in cycles of {', '.join(models)}")
    if verdict.iterations_to_limit is not None:
        lines.append(f"memory runs out after {verdict.iterations_to_limit:,} more iterations at this slope")
    if verdict.word is not Word.FLAT:
        lines.append(f"next: {verdict.next_step}")
    return lines


def _drift_lines(models: Sequence[ModelSummary]) -> list[Text]:
    """A line for each speed that drifts."""
    return [
        Text(
            f"speed, {model.label}: {name} drifts by {drift.change.slope:+.0%} over the run "
            f"(95 % interval {drift.change.low:+.0%} to {drift.change.high:+.0%})",
            style="yellow",
        )
        for model in models
        for name, drift in model.drifts.items()
        if drift.pace is Pace.DRIFTS
    ]


def _number(count: float, sign: str = "+") -> str:
    return f"{count:{sign}.2f}"


def _size(count: float, sign: str = "+") -> str:
    for unit, name in ((_MIB, "MiB"), (1024, "KiB")):
        if abs(count) >= unit:
            return f"{count / unit:{sign}.1f} {name}"
    return f"{count:{sign}.0f} B"


def _failure_lines(failures: Sequence[Failure]) -> list[Text]:
    """One line for each kind of failure: the same message again is a number."""
    counts = Counter((item.model, item.phase, item.message) for item in failures)
    lines = [
        Text(f"failed: {model}, {phase}{f', {count} times' if count > 1 else ''}: {message}", style="red")
        for (model, phase, message), count in counts.most_common(_DETAILED_FAILURES)
    ]
    rest = counts.total() - sum(count for _, count in counts.most_common(_DETAILED_FAILURES))
    if rest:
        lines.append(Text(f"failed: {rest} more, in the log", style="red"))
    return lines
