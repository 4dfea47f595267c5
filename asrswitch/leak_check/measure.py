"""Makes the cycles of a leak check: once outside valgrind, to see that they work, then under it."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from asrswitch.audio import prepare
from asrswitch.errors import AsrSwitchError
from asrswitch.instruction_sets import used
from asrswitch.leak_check import valgrind
from asrswitch.leak_check.dhat import read_dhat
from asrswitch.leak_check.mappings import Mappings
from asrswitch.leak_check.massif import HeapCurve, Turn, make_curve, read_massif
from asrswitch.leak_check.memcheck import Mistake, read_memcheck
from asrswitch.leak_check.plan import LeakCheckPlan, Tool, make_out_directory
from asrswitch.leak_check.sites import Allocation, Site, compare, holder_of
from asrswitch.model import Model
from asrswitch.worker.protocol import Command, Done, Transcribed
from asrswitch.worker_process import (
    StopSignals,
    WorkerError,
    WorkerLostError,
    WorkerProcess,
    WorkerTimeoutError,
    worker,
    worker_program,
)

_ENDINGS = {Tool.MEMCHECK: "xml", Tool.MASSIF: "out", Tool.DHAT: "json"}
# After each cycle under massif: longer than its snapshots lie apart, so that the next allocation brings one.
_REST_S, _REST_SHARE = 0.15, 0.05


class Measured(msgspec.Struct, frozen=True):
    """What the runs gave. Which of the last three are there depends on the tool."""

    valgrind: str  # its version
    instruction_sets: tuple[str, ...]  # that the library said it used, under valgrind
    native_instruction_sets: tuple[str, ...]  # and outside it
    sites: tuple[Site, ...] = ()
    mistakes: tuple[Mistake, ...] = ()  # of the longer run
    curve: HeapCurve | None = None


class _Run(msgspec.Struct, frozen=True):
    output: Path
    mappings: Mappings
    turns: tuple[Turn, ...]
    instruction_sets: set[str]


def n_steps(plan: LeakCheckPlan) -> int:
    """How often ``measure`` tells its progress."""
    if plan.driver:
        return len(plan.cycles)
    return (1 + sum(plan.cycles)) * len(plan.models)


def measure(
    plan: LeakCheckPlan, scratch: Path, stop: StopSignals, progress: Callable[[str], None]
) -> Measured:
    """Carry out the plan; ``progress`` is told before each of its ``n_steps`` what comes.

    Raises:
        AsrSwitchError: valgrind is missing, the library fails, or a report makes no sense.
        StoppedError: a signal came; neither valgrind nor a worker is left.
    """
    program = valgrind.find_valgrind()
    version = valgrind.version(program)
    out = make_out_directory(plan.out) if plan.out else None
    clip = prepare(Path(plan.audio), scratch).path
    native: set[str] = set()
    if not plan.driver:
        with worker(Path(plan.library), scratch / "worker.log", stop) as process:
            for model in plan.models:
                progress(f"{model.label}, outside valgrind")
                with _explaining(f"{plan.library}, {model.label}"):
                    native |= _make_cycle(process, plan, model, clip)
    check = _Check(plan, program, clip, stop, progress)
    runs = []
    for cycles in plan.cycles:
        output = scratch / f"{plan.tool.value}-{cycles}.{_ENDINGS[plan.tool]}"
        runs.append(check.run(cycles, output))
        if out and output.is_file():
            shutil.copyfile(output, out / output.name)
    measured = Measured(
        version,
        tuple(sorted(set().union(*(run.instruction_sets for run in runs)))),
        tuple(sorted(native)),
    )
    if plan.tool is Tool.MASSIF:
        (run,) = runs
        curve = make_curve(read_massif(run.output), run.turns, len(plan.models))
        return msgspec.structs.replace(measured, curve=curve)
    mistakes: tuple[Mistake, ...] = ()
    found: list[tuple[Allocation, ...]] = []
    for run in runs:
        if plan.tool is Tool.DHAT:
            found.append(read_dhat(run.output, run.mappings))
        else:
            report = read_memcheck(run.output, run.mappings)
            found.append(report.allocations)
            mistakes = report.mistakes
    library = Path(plan.library)
    short, long = found
    sites = compare(short, long, plan.extra_cycles, lambda stack: holder_of(stack, library))
    return msgspec.structs.replace(measured, sites=sites, mistakes=mistakes)


@dataclass(frozen=True)
class _Check:
    """A plan, and what it is carried out with."""

    plan: LeakCheckPlan
    program: str  # valgrind's
    clip: str
    stop: StopSignals
    progress: Callable[[str], None]

    def run(self, cycles: int, output: Path) -> _Run:
        """One run under valgrind, of so many cycles of each model."""
        return self._drive(cycles, output) if self.plan.driver else self._work(cycles, output)

    def _work(self, cycles: int, output: Path) -> _Run:
        """Our worker makes the cycles."""
        plan = self.plan
        turns: list[Turn] = []
        used: set[str] = set()
        who = f"{plan.library} under {plan.tool.value}"
        with self._running(worker_program(plan.library), output) as process:

            def now_ms() -> float:
                return (time.monotonic() - process.started_s) * 1000

            with _explaining(who, process.complaint):
                process.greet(plan.timeout_s)
            for cycle in range(cycles):
                for model in plan.models:
                    self.progress(f"{plan.tool.value}, {model.label}, cycle {cycle + 1} of {cycles}")
                    started_ms = now_ms()
                    with _explaining(f"{who}, {model.label}", process.complaint):
                        used |= _make_cycle(process, plan, model, self.clip)
                    ended_ms = now_ms()
                    if plan.tool is Tool.MASSIF:
                        process.rest(max(_REST_S, (ended_ms - started_ms) / 1000 * _REST_SHARE))
                    turns.append(Turn(model.label, started_ms, ended_ms, now_ms()))
            mappings = Mappings(process.maps())
            with _explaining(who, process.complaint):
                process.tell_to_exit()
                process.finish(plan.timeout_s)
        return _Run(output, mappings, tuple(turns), used)

    def _drive(self, cycles: int, output: Path) -> _Run:
        """The native driver makes them: one for each model in turn, and a line for each."""
        plan = self.plan
        assert plan.driver
        n_cycles = cycles * len(plan.models)
        words = [plan.driver, str(n_cycles), plan.models[0].path, plan.models[-1].path, self.clip]
        self.progress(f"{plan.tool.value}, {Path(plan.driver).name}, {cycles} cycles")
        with (
            self._running(words, output) as process,
            _explaining(f"{plan.driver} under {plan.tool.value}", process.complaint),
        ):
            reported = process.finish(plan.timeout_s)
        if reported < n_cycles:
            raise AsrSwitchError(
                f"{plan.driver}: printed {reported} lines for {n_cycles} cycles; it is no cycle driver"
            )
        return _Run(output, Mappings(), (), set())

    @contextlib.contextmanager
    def _running(self, words: list[str], output: Path) -> Iterator[valgrind.ValgrindProcess]:
        """A program under valgrind that is gone at the end, however that comes."""
        tool = self.plan.tool
        command = valgrind.command_line(self.program, tool, output, words)
        environ = valgrind.environment(os.environ, tool)
        process = valgrind.ValgrindProcess(command, environ, output.with_suffix(".log"), self.stop)
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def _explaining(who: str, complaint: Callable[[], str] = str) -> Iterator[None]:
    """Say with whom a failure was, and what ``complaint`` tells of it."""
    try:
        yield
    except (WorkerError, WorkerLostError, WorkerTimeoutError) as error:
        raise AsrSwitchError(f"{who}: {error}{complaint()}") from None


def _make_cycle(process: WorkerProcess, plan: LeakCheckPlan, model: Model, clip: str) -> set[str]:
    """Load, transcribe, unload; the instruction sets that the library says it used."""
    load: Command = {
        "command": "load",
        "load": {
            "model": model.path,
            "threads": plan.threads,
            "context": plan.context,
            "language": plan.language,
            "max_new_tokens": plan.max_new_tokens,
        },
    }
    process.request(load, Done, plan.timeout_s)
    heard = process.request({"command": "transcribe", "audio": clip}, Transcribed, plan.timeout_s)
    process.request({"command": "unload"}, Done, plan.timeout_s)
    return {name} if (name := used(heard["statistics"])) else set()
