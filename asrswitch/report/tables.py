"""A report as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import get_type_hints

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from asrswitch.errors import printable
from asrswitch.figures import Figures
from asrswitch.plan import LOG_NAME, Plan
from asrswitch.records import Failure, OfCycle, Point, Transcription
from asrswitch.report.console import passed, render_allocators, render_strategies, render_summary, show
from asrswitch.report.headline import headline
from asrswitch.report.recommendations import recommendation_lines
from asrswitch.report.runs import Report, ReportedRun
from asrswitch.report.units import MIB, size, ttft_note
from asrswitch.summary import ModelSummary, Spread
from asrswitch.turns import Turn, turns_of

SCHEMA = 1  # of the JSON document
PLAIN_WIDTH = 160

Cell = str | int | float | bool | None

_HINTS = get_type_hints(ModelSummary)
_SPREADS = tuple(name for name, hint in _HINTS.items() if hint == Spread | None)
_NUMBERS = tuple(name for name, hint in _HINTS.items() if hint in (bool, int, int | None, float | None))
_POINTS: tuple[Point, ...] = ("before_load", "after_load", "after_infer", "after_unload")
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~#&$])")
_SIDE_BY_SIDE = (
    ("load", "load_ms", "ms"),
    ("TTFT", "ttft_ms", "ms"),
    ("inference", "inference_ms", "ms"),
    ("tokens/s", "tokens_per_s", ""),
    ("unload", "unload_ms", "ms"),
    ("switch", "switch_ms", "ms"),
)


def parts(report: Report) -> list[RenderableType]:
    """What a terminal shows: the tables of one run, or the comparison of several."""
    if len(report.runs) == 1:
        found = render_summary(report.runs[0].summary)
    elif report.strategies:
        found = render_strategies(report.strategies)
    elif report.allocators:
        found = render_allocators(report.allocators)
    else:
        found = [side_by_side(report.runs), *(Text(item.line) for item in report.caches)]
    warned = [Text(f"warning: {printable(line)}", style="yellow") for line in report.warnings]
    return [*found, *_recommendations(report), *warned, Text(_place(report))]


def _recommendations(report: Report) -> list[RenderableType]:
    """What the rules say of one run; of strategies that are compared only why the rule is silent."""
    results = [item for item in report.recommendations if item.outcome is None]
    if len(report.runs) == 1:
        results = [*report.runs[0].recommendations, *results]
    lines = "".join(f"\n  {line}" for line in recommendation_lines(results))
    models = " / ".join(dict.fromkeys(model.label for run in report.runs for model in run.plan.models))
    heading = f"recommendations for {printable(models)}, by conventions (docs/rules.md):"
    return [Text(f"{heading}{lines}")] if lines else []


def side_by_side(runs: Sequence[ReportedRun]) -> Table:
    """Runs that differ in threads or library, or in several things: medians, a column a run."""
    table = Table(title="medians", title_justify="left")
    table.add_column("")
    for run in runs:
        table.add_column(Text(run.name), justify="right")
    for label in dict.fromkeys(model.label for run in runs for model in run.summary.models):
        models = [_model(run, label) for run in runs]
        for title, name, unit in _SIDE_BY_SIDE:
            spreads: list[Spread | None] = [getattr(model, name) if model else None for model in models]
            if any(spreads):
                row = Text(f"{label}: {title}{f', {unit}' * bool(unit)}")
                table.add_row(row, *(f"{spread.median:,.1f}" if spread else "–" for spread in spreads))
        if any(model and model.checked for model in models):
            table.add_row(
                Text(f"{label}: checks passed"), *(passed(model) if model else "–" for model in models)
            )
        proofs = [model.cache if model else None for model in models]
        if any(proofs):
            cells = (f"{proof.proven:,} of {proof.loads:,}" if proof else "–" for proof in proofs)
            table.add_row(Text(f"{label}: loads as --cache says, proven"), *cells)
    peaks = [run.summary.resident.peak if run.summary.resident else None for run in runs]
    table.add_row("peak, MiB", *("–" if peak is None else f"{peak / MIB:,.1f}" for peak in peaks))
    totals = [run.summary.cycles_s for run in runs]
    table.add_row("all cycles, s", *("–" if total is None else f"{total:,.1f}" for total in totals))
    renewals = [sum(run.summary.renewals.values()) for run in runs]
    if any(renewals):
        table.add_row("servers started anew", *(f"{count:,}" for count in renewals))
    table.add_row("memory", *(run.summary.word.value for run in runs))
    table.add_row("failures", *(str(len(run.summary.failures) or "–") for run in runs))
    return table


def to_text(report: Report) -> str:
    """As a terminal would show it, without colours."""
    out = io.StringIO()
    show(Console(file=out, width=PLAIN_WIDTH, no_color=True), parts(report))
    return out.getvalue()


def to_markdown(report: Report) -> str:
    """Tables for an issue or a pull request."""
    said = headline(report)
    blocks = [f"## {_mark_down(said.title)}", *(_mark_down(text) for text in said.sentences)]
    lines: list[str] = []
    for part in parts(report):
        if isinstance(part, Table):
            blocks.append("\n".join(_markdown_table(part)))
        elif isinstance(part, Text):
            lines += [f"- {_mark_down(line.strip())}" for line in part.plain.splitlines() if line.strip()]
    facts = [f"| {_mark_down(name)} | {_mark_down(value)} |" for name, value in method(report.runs[0])]
    blocks += ["\n".join(lines), "\n".join(["| run | value |", "| --- | --- |", *facts])]
    return "\n\n".join(blocks) + "\n"


def method(run: ReportedRun) -> list[tuple[str, str]]:
    """Where, when, by what and how a run was made."""
    first, plan = run.run, run.plan
    machine = first.machine
    facts = [
        ("begun", first.started_at),
        ("asrswitch", first.version),
        *_engine(run),
        ("processor", f"{machine.cpu}, {machine.physical_cores} physical cores"),
        ("memory that a process can reach", f"{machine.memory_limit_bytes / MIB:,.0f} MiB"),
        ("instruction set", machine.instruction_set or "not known"),
        ("system", f"{machine.system}, {machine.libc}, Python {machine.python}"),
        ("strategy", plan.strategy.value),
        ("allocator", plan.allocator),
        ("model files before loads", plan.cache.value),
        ("threads", _if_given("threads", f"{plan.threads}", plan)),
        ("context", "the model's" if plan.context is None else f"{plan.context:,} tokens"),
        ("language", plan.language or "not forced"),
        ("most new tokens", _if_given("max_new_tokens", f"{plan.max_new_tokens:,}", plan)),
        ("iterations", f"{run.summary.iterations_done:,} of {plan.iterations:,}"),
        ("order of models", plan.order.value),
        ("samples of memory a second", f"{plan.sample_hz:g}"),
        *((f"model {model.label}", _file(model.path, model.bytes)) for model in plan.models),
        *((f"clip {index}", _file(clip.path, clip.bytes)) for index, clip in enumerate(plan.clips, 1)),
        *((f"prompt {prompt.name}", prompt.text) for prompt in plan.prompts),
    ]
    if plan.memory_limit_bytes is not None:
        facts.append(("memory limit of the worker", f"{plan.memory_limit_bytes / MIB:,.0f} MiB"))
    if plan.label is not None:
        facts.append(("label", plan.label))
    facts += sorted(plan.metadata.items())
    return [(printable(name), printable(value)) for name, value in facts]


def _if_given(placeholder: str, value: str, plan: Plan) -> str:
    """A value, unless the models are run by a program that has no place for it."""
    is_given = plan.backend.program is None or placeholder in plan.backend.placeholders
    return value if is_given else "the program's own choice"


def _engine(run: ReportedRun) -> list[tuple[str, str]]:
    """What ran the models."""
    first, backend = run.run, run.plan.backend
    if backend.is_default:
        return [("library", first.library)]
    facts = [("backend", run.plan.engine)]
    if backend.program:
        words = backend.configuration["command"]
        shown = [word if isinstance(word, str) else f"[{shlex.join(word)}]" for word in words]
        facts += [("program", first.library), ("command", " ".join(shown))]
    if note := ttft_note(run.summary.loads, run.summary.keeps):
        facts.append(("TTFT", note))
    return facts


def machine_facts(run: ReportedRun) -> list[tuple[str, str]]:
    """All that the log tells of the machine, by the names of its fields."""
    found = []
    for name, value in msgspec.structs.asdict(run.run.machine).items():
        if value is None or value == () or value == {}:
            continue
        if name.endswith("_bytes"):
            name, said = name.removesuffix("_bytes"), size(value)
        elif isinstance(value, bool):
            said = "yes" if value else "no"
        elif isinstance(value, dict):
            said = ", ".join(f"{key}={one}" for key, one in sorted(value.items()))
        else:
            said = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        found.append((name.replace("_", " "), printable(said)))
    return found


def to_csv(report: Report, each_turn: bool = False) -> str:
    """A row for each model, or ``each_turn`` for each transcription and failure; every row stands alone.

    Units are in the columns' names; an empty cell is a figure that was not measured. In rows of turns the
    times and the memory of a turn stand with each of its clips.
    """
    found = [row for run in report.runs for row in (_turn_rows(run) if each_turn else _model_rows(run))]
    columns = list(dict.fromkeys(column for row in found for column in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in found)
    return out.getvalue()


def to_json(report: Report) -> str:
    """The summaries, what the runs were, and the comparison; sizes in bytes, times in ms."""
    document = {
        "schema": SCHEMA,
        "runs": [
            {
                "name": run.name,
                "log": str(run.log),
                "run": run.run,
                "word": run.summary.word,
                "iterations_needed": run.summary.iterations_needed,
                "summary": run.summary,
                "recommendations": run.recommendations,
            }
            for run in report.runs
        ],
        "strategies": report.strategies,
        "allocators": report.allocators,
        "caches": report.caches,
        "recommendations": report.recommendations,
        "warnings": report.warnings,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def _place(report: Report) -> str:
    if len(report.runs) == 1:
        return f"log: {printable(str(report.runs[0].log))}"
    shown = printable(str(report.path))
    return f"logs: {shown}/*/{LOG_NAME}; `report {shown}/NAME` shows one run"


def _model(run: ReportedRun, label: str) -> ModelSummary | None:
    return next((model for model in run.summary.models if model.label == label), None)


def _file(path: str, size: int | None) -> str:
    return path if size is None else f"{path} ({size / MIB:,.1f} MiB)"


def _markdown_table(table: Table) -> Iterator[str]:
    columns = [[_plain(cell) for cell in column.cells] for column in table.columns]
    headers = [_plain(column.header) for column in table.columns]
    rules = ["---:" if column.justify == "right" else "---" for column in table.columns]
    if table.title:
        yield f"{_plain(table.title)}:"
        yield ""
    yield f"| {' | '.join(headers)} |"
    yield f"| {' | '.join(rules)} |"
    for row in zip(*columns, strict=True):
        yield f"| {' | '.join(row)} |"


def _plain(cell: RenderableType) -> str:
    return _mark_down(cell.plain if isinstance(cell, Text) else str(cell))


def _mark_down(text: str) -> str:
    """The text itself in Markdown, where it might be taken for more."""
    return _MARKDOWN.sub(r"\\\1", printable(text))


def _model_rows(run: ReportedRun) -> Iterator[dict[str, Cell]]:
    for model in run.summary.models:
        row: dict[str, Cell] = {**_identity(run), "model": model.label, **_weights(run, model.label)}
        row |= {name: getattr(model, name) for name in _NUMBERS}
        for name in _SPREADS:
            spread: Spread | None = getattr(model, name)
            for part in ("median", "minimum", "maximum", "count"):
                row[f"{name}_{part}"] = getattr(spread, part) if spread else None
        prediction = model.prediction
        row |= {f"reported_{name}_median": spread.median for name, spread in model.reported.items()}
        row["predicted_bytes"] = prediction.need_bytes if prediction else None
        row["predicted_for_bytes"] = prediction.measured_bytes if prediction else None
        row["cache_loads"] = model.cache.loads if model.cache else None
        row["cache_proven"] = model.cache.proven if model.cache else None
        yield row


def _turn_rows(run: ReportedRun) -> Iterator[dict[str, Cell]]:
    failures: dict[tuple[int, int], list[Failure]] = {}
    for failure in run.summary.failures:
        failures.setdefault((failure.cycle, failure.worker), []).append(failure)
    identity = _identity(run)
    iterations = {record.cycle: record.iteration for record in run.records if isinstance(record, OfCycle)}
    for turn in turns_of(run.records):
        failed = failures.pop((turn.cycle, turn.worker), [])
        row = _turn_row(turn.cycle, iterations[turn.cycle], turn.model, turn.worker)
        spoken: list[Transcription | None] = [*turn.transcriptions] or [None]
        for record in spoken:
            yield {**identity, **row, **_spoken(record), **_measured(turn), "failure": _told(failed)}
    for (cycle, worker), failed in failures.items():  # of workers that came to no reading
        row = _turn_row(cycle, failed[0].iteration, failed[0].model, worker)
        yield {**identity, **row, "failure": _told(failed)}


def _turn_row(cycle: int, iteration: int, model: str, worker: int) -> dict[str, Cell]:
    return {"iteration": iteration, "cycle": cycle, "model": model, "worker": worker}


def _told(failed: Sequence[Failure]) -> str:
    return "; ".join(f"{failure.phase} {failure.kind}: {failure.message}" for failure in failed)


def _identity(run: ReportedRun) -> dict[str, Cell]:
    """What makes a row stand alone."""
    first, plan, summary = run.run, run.plan, run.summary
    machine = first.machine
    return {
        "run": run.name,
        "label": plan.label,
        "log": str(run.log.absolute()),
        "started_at": first.started_at,
        "asrswitch": first.version,
        "backend": plan.backend.name,
        "library": first.library,
        "cpu": machine.cpu,
        "physical_cores": machine.physical_cores,
        "machine_memory_bytes": machine.memory_limit_bytes,
        "system": machine.system,
        "libc": machine.libc,
        "hostname": machine.hostname,
        "instruction_set": machine.instruction_set,
        "governor": machine.governor,
        "huge_pages": machine.huge_pages,
        "strategy": plan.strategy.value,
        "allocator": plan.allocator,
        "cache": plan.cache.value,
        "threads": plan.threads,
        "context_tokens": plan.context,
        "memory_limit_bytes": plan.memory_limit_bytes,
        "metadata": "; ".join(f"{name}={value}" for name, value in sorted(plan.metadata.items())),
        "clips": "; ".join(plan.inputs),
        "iterations": summary.iterations_done,
        "finished": summary.finished,
        "verdict": summary.word.value,
        "invalid": "; ".join(summary.invalid),
        "failures": len(summary.failures),
    }


def _weights(run: ReportedRun, label: str) -> dict[str, Cell]:
    model = next(model for model in run.plan.models if model.label == label)
    return {"model_path": model.path, "model_bytes": model.bytes}


def _spoken(record: Transcription | None) -> dict[str, Cell]:
    names = ("clip", "audio_s", "language", "text", "normalised", "reference", "wer", "cer")
    figures = record.figures if record else None
    return {
        **{name: getattr(record, name) if record else None for name in names},
        **{name: getattr(figures, name) if figures else None for name in Figures.__struct_fields__},
    }


def _measured(turn: Turn) -> dict[str, Cell]:
    row: dict[str, Cell] = {
        "load_ms": turn.load_ms,
        "release": turn.release.how.value if turn.release else None,
        "release_ms": turn.release_ms,
    }
    for point in _POINTS:
        reading = turn.readings.get(point)
        row[f"{point}_rss_bytes"] = reading.rss_bytes if reading else None
    after = turn.readings.get("after_unload")
    return row | {
        "peak_rss_bytes": turn.peak_rss_bytes,
        "after_unload_anonymous_bytes": after.anonymous_bytes if after else None,
        "after_unload_file_bytes": after.file_bytes if after else None,
        "after_unload_heap_held_bytes": turn.malloc.held_bytes if turn.malloc else None,
        "after_unload_heap_kept_bytes": turn.malloc.kept_bytes if turn.malloc else None,
        "after_unload_mappings": after.mappings if after else None,
        "after_unload_threads": after.threads if after else None,
        "after_unload_descriptors": after.descriptors if after else None,
        "retained_bytes": turn.retained_bytes,
    }


def _cell(value: Cell) -> Cell:
    """Text that a spreadsheet would take for a formula is marked as text, as they do it themselves."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        value = printable(value)
        return f"'{value}" if value[:1] in tuple("=+-@") else value
    return value
