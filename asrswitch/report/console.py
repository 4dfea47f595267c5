"""Schedule and summary on a terminal, or as plain lines where there is none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from asrswitch.allocators import AllocatorComparison, AllocatorFigures
from asrswitch.errors import printable
from asrswitch.model import Model
from asrswitch.plan import Plan
from asrswitch.records import Failure
from asrswitch.report.units import REPORTED_FORM, counted, reported_title, ttft_note
from asrswitch.schedule import Cycle
from asrswitch.stats.drift import Pace
from asrswitch.stats.verdict import Word
from asrswitch.strategies import Comparison, StrategyFigures
from asrswitch.summary import CacheProof, ModelSummary, Spread, SubjectVerdict, Summary

_Item = TypeVar("_Item")

_MIB = 1024 * 1024
_STYLES = {Word.FLAT: "green", Word.PLATEAU: "green", Word.INCONCLUSIVE: "yellow", Word.LEAK: "bold red"}
_DETAILED_FAILURES = 5
_SLOW_SETTLING_MS = 10.0
_RENEWED = {
    "failure": "after a failure",
    "large": "before a large model",
    "isolate": "to unload",
    "occupied": "because it had models",
}
_CONTINUED = 2  # blanks before the rest of a line that a terminal has no room for


def render_schedule(plan: Plan, cycles: Sequence[Cycle]) -> list[RenderableType]:
    """The cycles that a run would go through."""
    table = Table(box=None, pad_edge=False)
    for name in ("cycle", "iteration", "model", "phases"):
        table.add_column(name, justify="right" if name in ("cycle", "iteration") else "left")
    for cycle in cycles:
        phases = ["load"] * cycle.load + ["infer" if plan.prompts else "transcribe"] * len(plan.inputs)
        phases.append("unload" if cycle.release.value == "destroy" else "restart")
        table.add_row(str(cycle.index), str(cycle.iteration), Text(cycle.model.label), ", ".join(phases))
    heading = f"{len(cycles)} cycles, {plan.strategy.value}, {plan.threads} threads, to {printable(plan.out)}"
    return [Text(heading), *_synthetic_lines(plan.models), table]


def show(console: Console, parts: Iterable[RenderableType]) -> None:
    """Print parts of a report.

    Lines outside tables break between words on a terminal, and nowhere else: who searches them finds them
    whole.
    """
    for part in parts:
        if isinstance(part, Text) and console.is_terminal:
            part = _by_words(part, console.width)
        console.print(part, soft_wrap=isinstance(part, Text))


def _by_words(text: Text, width: int) -> Text:
    """The text in lines of this width, further in where they go on; a word that is longer stays whole."""
    lines = []
    for line in text.split("\n", allow_blank=True):
        indent = len(line.plain) - len(line.plain.lstrip()) + _CONTINUED
        breaks: list[int] = []
        for word in re.finditer(r"\S+", line.plain):
            begin, room = (breaks[-1], width - indent) if breaks else (0, width)
            is_first = not line.plain[begin : word.start()].strip()
            if cell_len(line.plain[begin : word.end()]) > room and not is_first:
                breaks.append(word.start())
        first, *others = line.divide(breaks) if breaks else [line]
        for piece in (first, *others):
            piece.rstrip()
        lines += [first, *(Text(" " * indent) + piece for piece in others)]
    return Text("\n").join(lines)


def render_summary(summary: Summary) -> list[RenderableType]:
    """Table of the models, overall memory, verdicts, failures and warnings."""
    table = _models_table(summary.models)
    parts: list[RenderableType] = [table] if table.row_count > 1 else []  # the one row says `cycles 0`
    parts.append(Text(f"\n{_ending(summary)}"))
    if note := ttft_note(summary.loads, summary.keeps):
        parts.append(Text(note))
    if summary.resumed:
        parts.append(Text(f"resumed {counted(summary.resumed, 'time')}"))
    parts += _synthetic_lines(summary.models)
    if summary.resident:
        resident = summary.resident
        parts.append(
            Text(
                f"resident memory: first {resident.first / _MIB:.1f}, last {resident.last / _MIB:.1f}, "
                f"peak {resident.peak / _MIB:.1f} MiB"
            )
        )
    parts += [Text(line) for line in _memory_lines(summary)]
    parts += [_verdict_lines(item) for item in summary.verdicts]
    parts += _drift_lines(summary.models)
    parts += _failure_lines(summary.failures, summary.memory_limit_bytes)
    parts += [Text(f"INVALID: {reason}", style="bold red") for reason in summary.invalid]
    parts += [Text(f"warning: {warning}", style="yellow") for warning in summary.warnings]
    return parts


def render_strategies(comparison: Comparison) -> list[RenderableType]:
    """Table of the strategies, which is the best, and what is to be known of it."""
    rows: list[tuple[str, Callable[[StrategyFigures], str]]] = [
        ("a turn, ms", lambda s: _cell(s.turn_ms, ",.1f")),
        ("load and TTFT, ms", lambda s: _cell(s.answer_ms, ",.1f")),
        ("load and release, ms", lambda s: _cell(s.overhead_ms, ",.1f")),
        ("switch, ms", lambda s: _cell(s.switch_ms, ",.1f")),
        ("TTFT, ms", lambda s: _cell(s.ttft_ms, ",.1f")),
        ("tokens/s", lambda s: _cell(s.tokens_per_s, ",.1f")),
        ("start of a process, ms", lambda s: _cell(s.start_ms, ",.1f")),
        ("peak, MiB", lambda s: _cell(s.peak_bytes, ",.1f", _MIB)),
        ("retained, MiB", lambda s: _cell(s.retained_bytes, ",.2f", _MIB)),
        ("memory", lambda s: s.word.value),
        ("failures", lambda s: str(s.failures or "–")),
    ]
    heading = "strategies: means of the models' medians; a turn is load, TTFT and release"
    names = [item.strategy.value for item in comparison.strategies]
    table = _side_by_side(names, comparison.strategies, rows)
    style = "green" if comparison.rules else "yellow"
    notes = [Text(note) for note in comparison.notes]
    return [Text(heading), table, Text(comparison.recommendation, style=style), *notes]


def render_allocators(comparison: AllocatorComparison) -> list[RenderableType]:
    """Table of the allocators, and which part of what stays is theirs."""
    rows: list[tuple[str, Callable[[AllocatorFigures], str]]] = [
        ("retained, MiB", lambda a: _cell(a.retained_bytes, ",.2f", _MIB)),
        ("of it anonymous, MiB", lambda a: _cell(a.retained_anonymous_bytes, ",.2f", _MIB)),
        ("a trim gives back, MiB", lambda a: _cell(a.trimmed_bytes, ",.2f", _MIB)),
        ("and leaves, MiB", lambda a: _cell(a.untrimmed_bytes, ",.2f", _MIB)),
        ("malloc keeps back, MiB", lambda a: _cell(a.kept_bytes, ",.2f", _MIB)),
        ("heap in use, an iteration", lambda a: _size(a.held_growth.slope) if a.held_growth else "–"),
        ("load, ms", lambda a: _cell(a.load_ms, ",.1f")),
        ("TTFT, ms", lambda a: _cell(a.ttft_ms, ",.1f")),
        ("memory", lambda a: a.word.value),
        ("failures", lambda a: str(a.failures or "–")),
    ]
    heading = "allocators: memory after unloads; retained is what is above that before the first load"
    names = [item.name for item in comparison.allocators]
    table = _side_by_side(names, comparison.allocators, rows)
    return [Text(heading), table, *(Text(line) for line in comparison.conclusions)]


def _ending(summary: Summary) -> str:
    """How far the run came, and why it ended there."""
    planned = summary.iterations_planned
    of = f" of at most {planned:,}" if summary.until_decided else f" of {planned}"
    why = f": {summary.decided}" if summary.decided else ""
    how = f"iterations, {summary.finished}"
    if summary.failures and summary.finished == "complete" and summary.iterations_done < planned:
        how = "iterations done, the run went to its end"
    return f"{summary.iterations_done}{of} {how}{why}"


def _memory_lines(summary: Summary) -> list[str]:
    """Prediction and budget, the control group, and what measuring cost; each only where there is any."""
    lines = []
    if predicted := [text for model in summary.models if (text := _prediction(model))]:
        lines.append(f"prediction: {'; '.join(predicted)}")
    budgets = summary.budgets
    if budgets and (budgets.restarts or budgets.refused):
        restarts = counted(budgets.restarts, "restart")
        lines.append(
            f"budget: {restarts} of the worker to make room, {counted(budgets.refused, 'load')} refused"
        )
    if packed := summary.packed:
        of_server = f" ({packed.by_server:,} by the server itself)" if packed.by_server else ""
        lines.append(
            f"packed: {packed.hits:,} of {counted(packed.turns, 'turn')} found their model loaded, "
            f"{counted(packed.evictions, 'eviction')}{of_server}; "
            f"at least {packed.saved_ms / 1e3:,.2f} s of loads and unloads were saved"
        )
    if summary.renewals and summary.renew_ms:
        why = ", ".join(f"{count:,} {_RENEWED[reason]}" for reason, count in summary.renewals.items())
        lines.append(f"server started anew: {why}; {_middle(summary.renew_ms, ',.1f')} ms")
    group = summary.group
    if group and group.limit is not None:
        peak = group.highest if group.peak is None else group.peak
        lines.append(f"control group: peak {peak / _MIB:,.1f} of {group.limit / _MIB:,.1f} MiB")
    settle = summary.settle_ms
    if settle and settle.maximum >= _SLOW_SETTLING_MS:
        lines.append(f"memory came to rest {_middle(settle, ',.1f')} ms after an unload")
    if summary.sampling:
        cost = summary.sampling
        lines.append(
            f"sampling: {cost.samples:,} samples, {cost.cpu_us_per_sample:,.0f} µs each, "
            f"{cost.cpu_ms_per_s / 10:.2g} % of a processor"
        )
    return lines


def _prediction(model: ModelSummary) -> str | None:
    found = model.prediction
    if found is None:
        return None
    least = "at least " * (found.anonymous_bytes is None)  # the weights alone
    said = f"{model.label} {least}{found.need_bytes / _MIB:,.1f} MiB predicted"
    if found.measured_bytes is None:
        return f"{said}, not measured"
    error = "" if found.error is None else f" ({found.error * 100:+.0f} %)"
    return f"{said}, {found.measured_bytes / _MIB:,.1f} measured{error}"


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
        ("inference, ms", lambda m: _middle(m.inference_ms, ",.1f")),
        ("first inference, ms", lambda m: _middle(m.first_inference_ms, ",.1f")),
        ("chars/s", lambda m: _middle(m.chars_per_s, ",.1f")),
        ("tokens/s", lambda m: _middle(m.tokens_per_s, ",.1f")),
        ("RTF", lambda m: _middle(m.rtf, ".3g")),
        ("WER, %", lambda m: _percent(None if m.synthetic else m.wer)),
        ("CER, %", lambda m: _percent(None if m.synthetic else m.cer)),
        ("checks passed", passed),
        ("unload, ms", lambda m: _middle(m.unload_ms, ",.1f")),
        ("restart, ms", lambda m: _middle(m.restart_ms, ",.1f")),
        ("switch, ms", lambda m: _middle(m.switch_ms, ",.1f")),
        ("load overhead, MiB", lambda m: _middle(m.load_overhead_bytes, ",.2f", _MIB)),
        ("unload release, MiB", lambda m: _middle(m.unload_release_bytes, ",.2f", _MIB)),
        ("net growth, MiB", lambda m: _middle(m.net_growth_bytes, ",.2f", _MIB)),
        ("GPU, load overhead, MiB", lambda m: _middle(m.gpu_overhead_bytes, ",.2f", _MIB)),
        ("GPU, net growth, MiB", lambda m: _middle(m.gpu_growth_bytes, ",.2f", _MIB)),
    ]
    if any(model.cache for model in models):
        rows += [
            ("read from disk, MiB", lambda m: _middle(m.read_bytes, ",.2f", _MIB)),
            ("loads from", lambda m: proof(m.cache)),
        ]
    rows += [_reported_row(name) for name in reported_names(models)]
    labels = [model.label for model in models]
    return _side_by_side(labels, models, rows, title="medians (lowest to highest)")


def reported_names(models: Sequence[ModelSummary]) -> list[str]:
    """What programs say of themselves, each name once."""
    return list(dict.fromkeys(name for model in models for name in model.reported))


def _reported_row(name: str) -> tuple[str, Callable[[ModelSummary], str]]:
    return reported_title(name), lambda model: _middle(model.reported.get(name), REPORTED_FORM)


def _side_by_side(
    names: Sequence[str],
    items: Sequence[_Item],
    rows: Sequence[tuple[str, Callable[[_Item], str]]],
    title: str | None = None,
) -> Table:
    """A column an item; rows that say nothing of any are left out."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in names:
        table.add_column(Text(name), justify="right")
    for row, cell in rows:
        cells = [cell(item) for item in items]
        if any(text != "–" for text in cells):
            table.add_row(row, *cells)
    return table


def _cell(value: float | None, form: str, unit: float = 1) -> str:
    return "–" if value is None else f"{value / unit:{form}}"


def _middle(spread: Spread | None, form: str, unit: float = 1) -> str:
    if spread is None:
        return "–"
    low, middle, high = (
        f"{value / unit:{form}}" for value in (spread.minimum, spread.median, spread.maximum)
    )
    return middle if low == high else f"{middle} ({low} to {high})"


def proof(cache: CacheProof | None) -> str:
    """What a model was loaded from, and before how many loads that is proven."""
    return "–" if cache is None else f"{cache.wanted.value} file, {cache.proven:,} of {cache.loads:,} proven"


def passed(model: ModelSummary) -> str:
    """How many of the answers that were checked are right."""
    return f"{model.passed:,} of {model.checked:,}" if model.checked else "–"


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
    for name, growth in item.growth.items():
        unit = _number if name in verdict.counts else _size
        models = (f"{label} ({unit(slope.slope)} a cycle)" for label, slope in growth.items())
        lines.append(f"{name} grows in cycles of {', '.join(models)}")
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


def _failure_lines(failures: Sequence[Failure], limit: int | None) -> list[Text]:
    """One line for each kind of failure: the same message again is a number."""
    counts = Counter(_failure_line(item, limit) for item in failures)
    shown = counts.most_common(_DETAILED_FAILURES)
    lines = [
        Text(f"{where}{f', {count} times' if count > 1 else ''}: {message}", style="red")
        for (where, message), count in shown
    ]
    rest = counts.total() - sum(count for _, count in shown)
    if rest:
        lines.append(Text(f"failed: {rest} more, in the log", style="red"))
    return lines


def _failure_line(failure: Failure, limit: int | None) -> tuple[str, str]:
    """Where it failed, and why."""
    if failure.kind == "refused":
        return f"refused: {failure.model}, {failure.phase}", failure.message
    where = f"failed: {failure.model}, {failure.phase}"
    if not failure.out_of_memory:
        return where, failure.message
    within = "" if limit is None else f" within a limit of {_size(limit, sign='')}"
    return where, f"out of memory{within}: {failure.message.removeprefix('out of memory: ')}"
