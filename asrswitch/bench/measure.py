"""Runs a benchmark: libraries take turns, run by run, and this machine's ceilings are measured in between.

Models are loaded in worker processes only, one for each library; the ceilings have a worker of their own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import soundfile

from asrswitch.audio import SAMPLE_RATE, PreparedClip, prepare, write_wav
from asrswitch.bench.floors import CEILING_KINDS
from asrswitch.bench.plan import LIBRARY_NAMES, BenchPlan
from asrswitch.errors import AsrSwitchError
from asrswitch.figures import figure_out
from asrswitch.model import Model
from asrswitch.stages import Account, StatisticsError, parse_account
from asrswitch.worker.protocol import CeilingMeasured, Command, Done, Transcribed
from asrswitch.worker_process import (
    StopSignals,
    WorkerError,
    WorkerLostError,
    WorkerProcess,
    WorkerTimeoutError,
    worker,
)

DEFAULT_CLIP = "long-zh.wav"  # 11.5 s, of which the first 11 are used
DEFAULT_CLIP_S = 11
_SLICES, _SLICE_MS = 5, 4.0  # for each kind of ceiling in each repetition


class CeilingSet(msgspec.Struct, frozen=True):
    """The ceilings just before a repetition: for each kind the rate of each slice, in units a second."""

    repetition: int
    warmup: bool
    threads: int
    rates: dict[str, list[float]]


class Inference(msgspec.Struct, frozen=True):
    """One input. Times in ms from its submission; None where nothing was said."""

    inference_ms: float
    first_callback_ms: float | None
    tokens_per_s: float | None  # by callbacks, after the first
    account: Account


class BenchRun(msgspec.Struct, frozen=True):
    """One model's turn: load, two inputs, unload."""

    library: str  # A or B
    model: str
    threads: int
    repetition: int
    warmup: bool
    load_ms: float
    first: Inference  # the first after the load: the weights' pages are mapped in as it goes
    inference: Inference
    unload_ms: float
    switched_from: str | None  # the model that this library's worker unloaded just before
    switch_ms: float | None  # unload of that one and load of this one


class Measurements(msgspec.Struct, frozen=True):
    """Everything that was measured, warm-ups included and marked."""

    clip_s: float
    isas: dict[str, str]  # the instructions that each ceiling was measured with; empty where none could be
    ceilings: tuple[CeilingSet, ...]
    runs: tuple[BenchRun, ...]


def measure(
    plan: BenchPlan, scratch: Path, stop: StopSignals, progress: Callable[[str], None]
) -> Measurements:
    """Run the whole plan; ``progress`` is told before each of its ``n_steps`` what comes.

    Raises:
        AsrSwitchError: the first failure, whatever it is: a benchmark with holes is none.
        StoppedError: a signal came; no worker is left.
    """
    clip = _clip(plan, scratch)
    sets: list[CeilingSet] = []
    runs: list[BenchRun] = []
    with contextlib.ExitStack() as stack:
        processes = {
            name: stack.enter_context(worker(Path(library), scratch / "worker.log", stop))
            for name, library in zip(LIBRARY_NAMES, plan.libraries, strict=False)
        }
        benches = [_Bench(name, process, plan, clip) for name, process in processes.items()]
        gauge = _Gauge(stack, plan, scratch, stop)
        for repetition in range(plan.warmups + plan.repetitions):
            warmup = repetition < plan.warmups
            for threads in plan.threads:
                progress("ceilings")
                rates = gauge.measure(threads)
                sets.append(CeilingSet(repetition, warmup, threads, rates))
                for model in plan.models:
                    # Who goes first alternates: neither always finds the machine as the other left it.
                    for bench in benches if repetition % 2 == 0 else reversed(benches):
                        progress(f"{model.label}, {threads} threads, library {bench.name}")
                        runs.append(bench.run(model, threads, repetition, warmup))
    return Measurements(clip.seconds, gauge.isas, tuple(sets), tuple(runs))


def n_steps(plan: BenchPlan) -> int:
    """How often ``measure`` tells its progress."""
    runs = len(plan.models) * len(plan.libraries)
    return (plan.warmups + plan.repetitions) * len(plan.threads) * (1 + runs)


class _Bench:
    """One library's worker."""

    def __init__(self, name: str, process: WorkerProcess, plan: BenchPlan, clip: PreparedClip) -> None:
        self.name = name
        self._process = process
        self._plan = plan
        self._clip = clip
        self._before: BenchRun | None = None

    def run(self, model: Model, threads: int, repetition: int, warmup: bool) -> BenchRun:
        try:
            return self._run(model, threads, repetition, warmup)
        except (WorkerError, WorkerLostError, WorkerTimeoutError, StatisticsError) as error:
            raise AsrSwitchError(f"{model.label}, library {self.name}: {error}") from None

    def _run(self, model: Model, threads: int, repetition: int, warmup: bool) -> BenchRun:
        before = self._before
        load_ms = self._timed(
            {
                "command": "load",
                "load": {
                    "model": model.path,
                    "threads": threads,
                    "context": self._plan.context,
                    "language": self._plan.language,
                    "max_new_tokens": self._plan.max_new_tokens,
                },
            }
        )
        first = self._transcribe()
        self._timed({"command": "restart"})
        inference = self._transcribe()
        unload_ms = self._timed({"command": "unload"})
        switched = before is not None and before.model != model.label
        self._before = BenchRun(
            library=self.name,
            model=model.label,
            threads=threads,
            repetition=repetition,
            warmup=warmup,
            load_ms=load_ms,
            first=first,
            inference=inference,
            unload_ms=unload_ms,
            switched_from=before.model if before and switched else None,
            switch_ms=before.unload_ms + load_ms if before and switched else None,
        )
        return self._before

    def _transcribe(self) -> Inference:
        command: Command = {"command": "transcribe", "audio": self._clip.path}
        reply = self._process.request(command, Transcribed, self._plan.timeout_s)
        figures = figure_out(
            reply["pieces"],
            reply["submitted_ns"],
            reply["returned_ns"],
            self._clip.seconds,
            reply["statistics"],
        )
        return Inference(
            inference_ms=figures.inference_ms,
            first_callback_ms=figures.first_callback_ms,
            tokens_per_s=figures.tokens_per_s,
            account=parse_account(reply["statistics"]),
        )

    def _timed(self, command: Command) -> float:
        done = self._process.request(command, Done, self._plan.timeout_s)
        return (done["ended_ns"] - done["started_ns"]) / 1e6


class _Gauge:
    """Measures ceilings with the first of the plan's gauges that can."""

    def __init__(
        self, stack: contextlib.ExitStack, plan: BenchPlan, scratch: Path, stop: StopSignals
    ) -> None:
        self.isas: dict[str, str] = {}
        self._timeout_s = plan.timeout_s
        self._library = ""
        self._process: WorkerProcess | None = None
        for library in plan.gauges:
            process = stack.enter_context(worker(Path(library), scratch / "worker.log", stop))
            self._library, self._process = library, process
            try:
                self.isas = {kind: self._ask(kind, 1, slices=1)["isa"] for kind in CEILING_KINDS}
            except WorkerError:
                process.close()
                self._process = None
            else:
                return

    def measure(self, threads: int) -> dict[str, list[float]]:
        """The slices' rates of each kind; nothing where no library measures them."""
        if self._process is None:
            return {}
        return {kind: self._ask(kind, threads, _SLICES)["rates"] for kind in CEILING_KINDS}

    def _ask(self, kind: str, threads: int, slices: int) -> CeilingMeasured:
        assert self._process
        command: Command = {
            "command": "measure_ceiling",
            "ceiling": {"kind": kind, "threads": threads, "slices": slices, "slice_ms": _SLICE_MS},
        }
        try:
            return self._process.request(command, CeilingMeasured, self._timeout_s)
        except (WorkerLostError, WorkerTimeoutError) as error:
            raise AsrSwitchError(f"ceiling {kind}, library {self._library}: {error}") from None


def _clip(plan: BenchPlan, scratch: Path) -> PreparedClip:
    if plan.audio is not None:
        return prepare(Path(plan.audio), scratch)
    from importlib import resources

    sample = Path(str(resources.files("asrswitch") / "samples" / DEFAULT_CLIP))
    samples, _ = soundfile.read(str(sample), frames=DEFAULT_CLIP_S * SAMPLE_RATE, dtype="float32")
    path = scratch / "default.wav"
    write_wav(path, samples)
    return PreparedClip(str(path), len(samples) / SAMPLE_RATE)
