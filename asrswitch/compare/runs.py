"""Runs that are to be compared: read, and asked whether they can be."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from asrswitch.errors import UsageError
from asrswitch.model import Model
from asrswitch.plan import LOG_NAME, Clip, Plan, Trimming
from asrswitch.prompts.sets import Prompt
from asrswitch.records import OfCycle, Record, Run, TornLineWarning, read_log
from asrswitch.resume import find_logs
from asrswitch.schedule import make_rounds
from asrswitch.summary import Summary, summarise
from asrswitch.turns import Turn, turns_of

_Fact = tuple[str, object, object]  # its name, and what it is on each side

_SHOWN_DIGITS = 12  # of a SHA-256
_SHOWN_NAMES = 5  # of prompts
_SAME_MEMORY = 0.05  # of the machine: kernels of one machine keep more or less of it for themselves


class LoggedRun:
    """A run as its log tells it."""

    def __init__(self, path: Path, records: Sequence[Record]) -> None:
        """Take the records of a log; the first is the run's."""
        first = records[0]
        assert isinstance(first, Run)
        self.path = path
        self.records = records
        self.head = first

    @property
    def plan(self) -> Plan:
        return self.head.plan

    @functools.cached_property
    def turns(self) -> list[Turn]:
        return turns_of(self.records)

    @functools.cached_property
    def summary(self) -> Summary:
        return summarise(self.records)

    @functools.cached_property
    def rounds(self) -> dict[int, int]:
        """The round of each cycle, of a run that took turns with others."""
        return {
            cycle.index: number for number, cycles in enumerate(make_rounds(self.plan)) for cycle in cycles
        }

    @functools.cached_property
    def times(self) -> dict[int, tuple[str, str]]:
        """When each round's first and last record were written; none of old logs, which do not say it."""
        found: dict[int, tuple[str, str]] = {}
        for record in self.records:
            if isinstance(record, OfCycle) and record.at is not None and record.cycle in self.rounds:
                number = self.rounds[record.cycle]
                found[number] = (found.get(number, (record.at, ""))[0], record.at)
        return found


class Side(msgspec.Struct, frozen=True):
    """What is compared with another: one run, or several of one build."""

    name: str
    runs: list[LoggedRun]

    @property
    def plan(self) -> Plan:
        return self.runs[0].plan


def read_sides(paths: Sequence[Path], groups: Mapping[str, Sequence[Path]]) -> list[Side]:
    """The sides of a comparison, the baseline first: runs by their paths, or groups of them by name.

    One path of several runs that took turns stands for them all, in the order of their turns.

    Raises:
        UsageError: too few runs, or a path that names none, or several where one was meant.
        LogError: a log that cannot be read.
    """
    if groups:
        if paths:
            raise UsageError(f"{paths[0]}: with --group, name each run in a group")
        for name, members in groups.items():
            if len(members) < 2:
                raise UsageError(
                    f"--group {name}: give two runs or more; without --group single runs compare"
                )
        sides = [Side(name, [_read_one(path) for path in members]) for name, members in groups.items()]
    elif len(paths) == 1 and len(logs := _logs(paths[0])) > 1:
        runs = sorted((_read(log) for log in logs), key=lambda run: run.plan.turn)
        sides = [Side(run.path.parent.name, [run]) for run in runs]
    else:
        sides = [Side(str(path), [_read_one(path)]) for path in paths]
    if len(sides) < 2:
        raise UsageError("nothing to compare with: name two runs or more, or two groups; see compare --help")
    return sides


def of_one_command(first: LoggedRun, second: LoggedRun) -> bool:
    """Whether one command made them, to compare what they differ in."""
    one, other = first.plan, second.plan
    beside = first.path.resolve().parent.parent == second.path.resolve().parent.parent
    varied = None not in (one.variant, other.variant) and one.variant != other.variant
    return beside and varied and one.rounds == other.rounds


def took_turns(first: LoggedRun, second: LoggedRun) -> bool:
    """Whether they are of one command, which ran them stretch by stretch: of few iterations there is one."""
    return of_one_command(first, second) and first.plan.rounds > 1


def followed_one_another(first: LoggedRun, second: LoggedRun, number: int) -> bool:
    """Whether the runs' stretches of a round were neither at once nor in another round's time.

    A run that was resumed may have made up for a stretch later. Logs that tell no times are believed.
    """
    of_first, of_second = first.times, second.times
    if number not in of_first or number not in of_second:
        return not of_first and not of_second
    one, other = sorted((of_first[number], of_second[number]))
    apart = one[1] <= other[0]
    between = [
        times
        for run in (of_first, of_second)
        for of_round, times in run.items()
        if of_round != number and one[0] < times[0] < other[1]
    ]
    return apart and not between


def what_differs(first: Side, second: Side) -> list[str]:
    """What makes figures of two sides those of different things; a line each.

    What runs of one command differ in is what that command was to compare, and is not told here.
    """
    lines = [
        line
        for index, run in enumerate([*first.runs, *second.runs])
        if index
        for line in _differences(first.runs[0], run)
    ]
    return list(dict.fromkeys(lines))


def what_else_differs(first: Side, second: Side) -> list[str]:
    """What may differ, as it is often meant to, and may explain a figure; a line each."""
    a, b = first.runs[0].head, second.runs[0].head
    facts: list[_Fact] = [
        ("version", a.version, b.version),
        ("program" if a.plan.backend.program else "library", _library(a, b), _library(b, a)),
        ("command line", _command(a.plan), _command(b.plan)),
        ("instruction set", a.machine.instruction_set, b.machine.instruction_set),
        ("governor", a.machine.governor, b.machine.governor),
        ("huge pages", a.machine.huge_pages, b.machine.huge_pages),
        ("system", a.machine.system, b.machine.system),
        ("C library", a.machine.libc, b.machine.libc),
        ("Python", a.machine.python, b.machine.python),
        ("allocator", a.plan.allocator, b.plan.allocator),
        ("cache", a.plan.cache.value, b.plan.cache.value),
        ("preload", a.plan.preload, b.plan.preload),
        ("lock", a.plan.lock, b.plan.lock),
        ("trim of the worker", a.plan.trim is Trimming.ALWAYS, b.plan.trim is Trimming.ALWAYS),
        ("memory limit", a.plan.memory_limit_bytes, b.plan.memory_limit_bytes),
    ]
    return [f"{name}: {_said(one)} against {_said(other)}" for name, one, other in facts if one != other]


def common_models(first: Side, second: Side) -> list[str]:
    """Labels of the models that all runs have, in the baseline's order."""
    runs = [*first.runs, *second.runs]
    return [
        model.label
        for model in first.plan.models
        if all(model.label in (other.label for other in run.plan.models) for run in runs)
    ]


def _differences(a: LoggedRun, b: LoggedRun) -> list[str]:
    facts: list[_Fact] = [
        ("machine: processor", a.head.machine.cpu, b.head.machine.cpu),
        ("machine: physical cores", a.head.machine.physical_cores, b.head.machine.physical_cores),
    ]
    if not _alike(a.head.machine.memory_limit_bytes, b.head.machine.memory_limit_bytes):
        one, other = (f"{run.head.machine.memory_limit_bytes / 2**30:.1f} GiB" for run in (a, b))
        facts.append(("machine: memory", one, other))
    facts.append(("backend", a.plan.backend.name, b.plan.backend.name))
    varied = of_one_command(a, b)
    if not varied:
        facts += _models_facts(a.head, b.head)
    facts += _clips_facts(a.head, b.head)
    facts += [
        ("language", a.plan.language, b.plan.language),
        ("new tokens at most", a.plan.max_new_tokens, b.plan.max_new_tokens),
    ]
    if not varied:
        facts += [
            ("context", a.plan.context, b.plan.context),
            ("threads", a.plan.threads, b.plan.threads),
            ("strategy", a.plan.strategy.value, b.plan.strategy.value),
        ]
    return [f"{name}: {_said(one)} against {_said(other)}" for name, one, other in facts if one != other]


def _models_facts(a: Run, b: Run) -> list[_Fact]:
    facts: list[_Fact] = []
    models = {model.label: model for model in b.plan.models}
    for model in a.plan.models:
        other = models.pop(model.label, None)
        if other is None:
            facts.append((f"model {model.label}", "there", "not there"))
            continue
        name = f"model {model.label}"
        facts.append((f"{name}: synthetic weights", model.synthetic, other.synthetic))
        facts += _content(name, (a, model), (b, other))
    return [*facts, *((f"model {label}", "not there", "there") for label in models)]


def _clips_facts(a: Run, b: Run) -> list[_Fact]:
    if len(a.plan.clips) != len(b.plan.clips):
        return [("clips", len(a.plan.clips), len(b.plan.clips))]
    facts: list[_Fact] = []
    facts += _prompts_facts(a.plan.prompts, b.plan.prompts)
    for one, other in zip(a.plan.clips, b.plan.clips, strict=True):
        name = Path(one.path).name
        if one.bytes is None or other.bytes is None:
            facts.append(("clip", name, Path(other.path).name))
        facts += _content(f"clip {name}", (a, one), (b, other))
        if one.reference != other.reference:
            facts.append((f"clip {name}: reference", "one text", "another"))
    return facts


def _prompts_facts(first: Sequence[Prompt], second: Sequence[Prompt]) -> list[_Fact]:
    """Which prompts are on one side alone, or are called the same and are not."""
    one, other = ({prompt.name: prompt for prompt in prompts} for prompts in (first, second))
    if one.keys() != other.keys():
        alone = [
            [name for name in names if name not in others] for names, others in ((one, other), (other, one))
        ]
        return [("prompts", _named(alone[0]), _named(alone[1]))]
    facts: list[_Fact] = []
    for part in ("text", "check"):
        if changed := [name for name in one if getattr(one[name], part) != getattr(other[name], part)]:
            facts.append((f"prompts: {part} of {_named(changed)}", "one", "another"))
    if [*one] != [*other]:
        facts.append(("order of prompts", _named(one), _named(other)))
    return facts


def _content(name: str, first: tuple[Run, Model | Clip], second: tuple[Run, Model | Clip]) -> list[_Fact]:
    """Of a file, as far as both logs tell: where it may be is of no consequence."""
    sizes = [file.bytes for _, file in (first, second)]
    if None not in sizes and sizes[0] != sizes[1]:
        return [(f"{name}: bytes", f"{sizes[0]:,}", f"{sizes[1]:,}")]
    sums = [run.sha256.get(file.path) for run, file in (first, second)]
    if None in sums:
        return []
    one, other = (str(digest)[:_SHOWN_DIGITS] for digest in sums)
    return [(f"{name}: SHA-256", one, other)]


def _library(run: Run, other: Run) -> str:
    """What tells a run's library from the other's; nothing does where they are one file's content."""
    known, others = (one.sha256.get(one.library) for one in (run, other))
    if known is None or others is None:
        return run.library
    return known if known == others else f"{run.library} ({known[:_SHOWN_DIGITS]})"


def _command(plan: Plan) -> str:
    return str(plan.backend.configuration.get("command", ""))


def _alike(one: int, other: int) -> bool:
    return abs(one - other) <= _SAME_MEMORY * max(one, other)


def _named(names: Iterable[str]) -> str:
    known = [*names]
    more = [f"{len(known) - _SHOWN_NAMES} more"] if len(known) > _SHOWN_NAMES else []
    return ", ".join([*known[:_SHOWN_NAMES], *more]) or "none of these"


def _said(fact: object) -> str:
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    return "none" if fact is None else str(fact)


def _logs(path: Path) -> list[Path]:
    return [path] if path.is_file() else find_logs(path)


def _read_one(path: Path) -> LoggedRun:
    logs = _logs(path)
    if not logs:
        raise UsageError(f"{path}: holds no {LOG_NAME}; name a run's directory or its log")
    if len(logs) > 1:
        names = ", ".join(str(log.parent) for log in logs[:2])
        raise UsageError(f"{path}: holds {len(logs)} runs; name one of them, as in {names}")
    return _read(logs[0])


def _read(path: Path) -> LoggedRun:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TornLineWarning)  # of a run that was cut off, which is said
        return LoggedRun(path, read_log(path))
