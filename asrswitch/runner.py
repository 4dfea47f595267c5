"""Drives workers through a schedule, measures them from outside, writes down what happens."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TypedDict, TypeVar

import msgspec

from asrswitch import __version__, machine
from asrswitch.audio import PreparedClip
from asrswitch.errors import AsrSwitchError, LibraryError, LogError, printable
from asrswitch.figures import figure_out, split_output
from asrswitch.memory.guard import is_mapped, refuse_other_workers, settle
from asrswitch.memory.probe import MemoryProbe, ProcessGoneError
from asrswitch.memory.sampler import Sampler
from asrswitch.plan import Clip, Plan, Trimming
from asrswitch.records import (
    SCHEMA,
    CleanSlate,
    End,
    Failure,
    Load,
    LogWriter,
    Malloc,
    Phase,
    Point,
    Reading,
    Record,
    Release,
    Run,
    SamplingCost,
    Skip,
    Timeline,
    Transcription,
    Trim,
    Until,
    WorkerStarted,
)
from asrswitch.schedule import Cycle
from asrswitch.schedule import Release as ReleaseKind
from asrswitch.stages import Stage, StatisticsError, parse_account
from asrswitch.text import error_rates, normalise
from asrswitch.worker.protocol import Command, Done, Transcribed, Trimmed
from asrswitch.worker_process import (
    START_TIMEOUT_S,
    StoppedError,
    StopSignals,
    WorkerError,
    WorkerLostError,
    WorkerProcess,
    WorkerTimeoutError,
)

_Reply = TypeVar("_Reply", Done, Transcribed, Trimmed)
# Code and tables of the library that the first calls map: they stay, and are no model's.
SLATE_TOLERANCE = 4 * 1024 * 1024  # bytes
_ATTEMPTS = 2
_RETRIED: tuple[Phase, ...] = ("start", "load", "transcribe")
_FIRST_STARTS = 2  # a worker may be killed while it starts; two in a row mean that the library does it


class _Place(TypedDict):
    """Where in the run a record belongs."""

    cycle: int
    iteration: int
    model: str
    worker: int


class _Worker:
    """A worker, its probe and sampler, and what is known of its state."""

    def __init__(self, process: WorkerProcess, sample_hz: float, origin_ns: int) -> None:
        self.process = process
        self.pid = process.hello["pid"]
        self.probe = MemoryProbe(self.pid)
        self.sampler = Sampler(process.hello["pid"], sample_hz, origin_ns)
        self.malloc = process.hello["malloc"]
        self.loaded: set[str] = set()  # labels of models
        self.baseline: int | None = None  # resident memory before the first load


class Runner:
    """Runs one plan. ``observe`` is shown every record after it was written."""

    def __init__(
        self,
        plan: Plan,
        library: Path,
        clips: Sequence[PreparedClip],
        log: LogWriter,
        stop: StopSignals,
        observe: Callable[[Record], None],
    ) -> None:
        self._plan = plan
        self._library = library
        references = [None if clip.reference is None else normalise(clip.reference) for clip in plan.clips]
        self._clips = list(zip(plan.clips, clips, references, strict=True))
        self._log = log
        self._stop = stop
        self._observe = observe
        self._worker: _Worker | None = None
        self._workers = 0
        self._started = False  # whether any worker ever was
        self._phase: Phase = "start"
        self._skipped: set[str] = set()  # labels of models that failed twice
        self._began_ns = 0  # of the monotonic clock
        self._samples = 0
        self._sampling_ms = 0.0

    def run(self, cycles: Sequence[Cycle]) -> None:
        """Run the cycles in order; what goes wrong in one is recorded, and the next goes on.

        Raises:
            LibraryError: no worker could ever be started with this library.
            LogError: the log cannot be written any more.
            StoppedError: a signal came; all that is known has been written, and no worker is left.
        """
        self._began_ns = time.monotonic_ns()
        self._record(
            Run(
                schema=SCHEMA,
                version=__version__,
                started_at=_now("seconds"),
                library=str(self._library),
                plan=self._plan,
                machine=machine.describe(),
            )
        )
        try:
            for cycle in cycles:
                self._run_or_skip(cycle)
            self._retire()
        except StoppedError as stopped:
            self._record(End(reason="stopped", signal=stopped.signal, sampling=self._sampling_cost()))
            raise
        except LogError:  # its last line may be half a record, and then nothing may follow it
            raise
        except AsrSwitchError:
            self._record(End(reason="failed", sampling=self._sampling_cost()))
            raise
        finally:
            if self._worker:
                self._worker.process.kill()
                self._worker.sampler.close()
        self._record(End(reason="complete", sampling=self._sampling_cost()))

    def _run_or_skip(self, cycle: Cycle) -> None:
        """Run a cycle; once more in a fresh worker if it fails; then go on without its model."""
        label = cycle.model.label
        if label in self._skipped:
            return
        for attempt in range(1, _ATTEMPTS + 1):
            # What went wrong when the model was let go has cost nothing that was measured.
            if self._attempt(cycle, attempt) or self._phase not in _RETRIED:
                return
        self._skipped.add(label)
        self._record(
            Skip(**self._place(cycle), message=f"failed {_ATTEMPTS} times in iteration {cycle.iteration}")
        )

    def _attempt(self, cycle: Cycle, attempt: int) -> bool:
        """Run a cycle; whether it came to its end."""
        self._stop.check()
        self._phase = "start"
        try:
            worker = self._worker or self._start()
            self._run_cycle(worker, cycle)
        except ProcessGoneError:
            assert self._worker
            self._fail(cycle, attempt, self._worker.process.lost())
        except (WorkerError, WorkerLostError, WorkerTimeoutError) as error:
            self._fail(cycle, attempt, error)
        except StoppedError:
            if self._worker:
                self._record_samples(self._worker, self._place(cycle), "stop")
            raise
        else:
            return True
        return False

    def _start(self) -> _Worker:
        self._workers += 1
        log = Path(self._plan.out) / f"worker-{self._workers}.log"
        started_ns = time.monotonic_ns()
        try:
            process = WorkerProcess(self._library, log, self._stop, START_TIMEOUT_S)
        except WorkerError as error:
            if not self._started:
                raise LibraryError(str(error)) from None
            raise
        except (WorkerLostError, WorkerTimeoutError) as error:
            if not self._started and self._workers == _FIRST_STARTS:
                raise LibraryError(
                    f"{self._library}: no worker starts with it ({error}); "
                    f"see {log}, or name another by --library"
                ) from None
            raise
        self._started = True
        self._worker = _Worker(process, self._plan.sample_hz, self._began_ns)
        start_ms = _ms_since(started_ns)
        self._record(
            WorkerStarted(worker=self._workers, pid=process.hello["pid"], log=log.name, start_ms=start_ms)
        )
        return self._worker

    def _run_cycle(self, worker: _Worker, cycle: Cycle) -> None:
        place = self._place(cycle)
        label = cycle.model.label
        if label not in worker.loaded:
            self._load(worker, cycle, place)
        self._phase = "transcribe"
        for index, (clip, prepared, reference) in enumerate(self._clips):
            if index:
                self._ask(worker, {"command": "restart", "label": label}, Done)
            try:
                self._transcribe(worker, place, clip, prepared, reference)
            except WorkerError as error:  # the model is still loaded, and can be unloaded
                message = str(error).replace(prepared.path, printable(clip.path))  # not our copy's name
                self._record(Failure(**place, phase="transcribe", kind="error", message=message))
        self._read(worker, place, "after_infer")
        if cycle.release is ReleaseKind.EXIT:
            self._phase = "unload"
            self._record_samples(worker, place, "after_unload")
            release_ms = self._retire()
            self._record(Release(**place, how=cycle.release, release_ms=release_ms))
            self._phase = "start"
            worker = self._start()  # before its turn, so that the next load does not wait for a process
            place["worker"] = self._workers
        else:
            self._phase = "unload" if cycle.release is ReleaseKind.DESTROY else "restart"
            done = self._ask(worker, {"command": self._phase, "label": label}, Done)
            if cycle.release is ReleaseKind.DESTROY:
                worker.loaded.remove(label)
            self._record(Release(**place, how=cycle.release, release_ms=_elapsed_ms(done)))
        self._read(worker, place, "after_unload")
        if cycle.release is ReleaseKind.DESTROY and not worker.loaded:
            self._prove_clean(worker, cycle, place)

    def _prove_clean(self, worker: _Worker, cycle: Cycle, place: _Place) -> None:
        assert worker.baseline is not None
        slate = settle(worker.probe.resident_bytes, worker.baseline, SLATE_TOLERANCE)
        mapped = is_mapped(worker.pid, os.path.realpath(cycle.model.path))
        self._record(
            CleanSlate(
                **place,
                clean=slate.back and not mapped,
                mapped=mapped,
                excess_bytes=slate.excess_bytes,
                settle_ms=slate.settle_ms,
            )
        )

    def _load(self, worker: _Worker, cycle: Cycle, place: _Place) -> None:
        self._phase = "load"
        if not self._plan.allow_concurrent:
            refuse_other_workers(frozenset({worker.pid}))
        self._read(worker, place, "before_load")
        if worker.baseline is None:
            worker.baseline = worker.probe.resident_bytes()
        command: Command = {
            "command": "load",
            "label": cycle.model.label,
            "load": {
                "model": cycle.model.path,
                "threads": self._plan.threads,
                "context": self._plan.context,
                "language": self._plan.language,
                "max_new_tokens": self._plan.max_new_tokens,
                "preload": self._plan.preload,
                "lock": self._plan.lock,
            },
        }
        done = self._ask(worker, command, Done)
        worker.loaded.add(cycle.model.label)
        self._record(Load(**place, load_ms=_elapsed_ms(done)))
        self._read(worker, place, "after_load")

    def _transcribe(
        self, worker: _Worker, place: _Place, clip: Clip, prepared: PreparedClip, reference: str | None
    ) -> None:
        """Transcribe a clip and record it; ``reference`` is its normalised text, if that is known."""
        reply = self._ask(
            worker, {"command": "transcribe", "label": place["model"], "audio": prepared.path}, Transcribed
        )
        figures = figure_out(
            reply["pieces"],
            reply["submitted_ns"],
            reply["returned_ns"],
            prepared.seconds,
            reply["statistics"],
        )
        raw = "".join(text for _, text in reply["pieces"])
        output = split_output(raw)
        normalised = normalise(output.text)
        rates = None if reference is None else error_rates(reference, normalised)
        self._record(
            Transcription(
                **place,
                clip=clip.path,
                audio_s=prepared.seconds,
                raw=raw,
                language=output.language,
                text=output.text,
                normalised=normalised,
                reference=clip.reference,
                reference_normalised=reference,
                wer=rates.wer if rates else None,
                cer=rates.cer if rates else None,
                figures=figures,
                statistics=tuple(reply["statistics"]),
                stages=_stages(reply["statistics"]),
            )
        )

    def _ask(self, worker: _Worker, command: Command, reply: type[_Reply]) -> _Reply:
        try:
            answer = worker.process.request(command, reply, self._plan.timeout_s)
        except WorkerError as error:
            worker.malloc = error.malloc
            raise
        worker.malloc = answer["malloc"]
        return answer

    def _read(self, worker: _Worker, place: _Place, point: Point) -> None:
        """Take a reading; the worker waits, so its last account of its heap still holds."""
        malloc = None if worker.malloc is None else msgspec.convert(worker.malloc, Malloc)
        memory = worker.probe.read()
        self._record_samples(worker, place, point)
        self._record(Reading(**place, point=point, memory=memory, malloc=malloc))
        if point == "after_unload" and self._plan.trim is not Trimming.NEVER:
            self._trim(worker, place, point, on_copy=self._plan.trim is Trimming.PROBE)

    def _trim(self, worker: _Worker, place: _Place, point: Point, on_copy: bool) -> None:
        self._phase = "trim"
        reply = self._ask(worker, {"command": "trim", "on_copy": on_copy}, Trimmed)
        malloc = reply["trimmed"]
        self._record(
            Trim(
                **place,
                point=point,
                on="copy" if on_copy else "worker",
                anonymous_before_bytes=reply["anonymous_before_bytes"],
                anonymous_bytes=reply["anonymous_bytes"],
                malloc=None if malloc is None else msgspec.convert(malloc, Malloc),
                ms=_elapsed_ms(reply),
                failure=reply["failure"],
            )
        )

    def _record_samples(self, worker: _Worker, place: _Place, until: Until) -> None:
        samples = worker.sampler.take()
        self._samples += samples.count
        self._sampling_ms += samples.cpu_ms
        if samples.count:
            self._record(Timeline(**place, until=until, samples=samples))

    def _sampling_cost(self) -> SamplingCost | None:
        if not self._samples:
            return None
        return SamplingCost(
            samples=self._samples,
            cpu_us_per_sample=round(self._sampling_ms * 1e3 / self._samples, 2),
            cpu_ms_per_s=round(self._sampling_ms * 1e9 / (time.monotonic_ns() - self._began_ns), 4),
        )

    def _fail(self, cycle: Cycle, attempt: int, error: AsrSwitchError) -> None:
        """Record what went wrong and part with the worker: what is left behind in it is not known."""
        place = self._place(cycle)
        if self._worker:
            self._record_samples(self._worker, place, "failure")
        if isinstance(error, WorkerLostError):
            failure = Failure(
                **place,
                attempt=attempt,
                phase=self._phase,
                kind="died",
                message=str(error),
                signal=error.signal,
                exit_code=error.returncode,
            )
        else:
            timeout = isinstance(error, WorkerTimeoutError)
            failure = Failure(
                **place,
                attempt=attempt,
                phase=self._phase,
                kind="timeout" if timeout else "error",
                message=str(error),
            )
        self._record(failure)
        self._retire()

    def _retire(self) -> float:
        """Let the worker exit; how long it took, in milliseconds."""
        started_ns = time.monotonic_ns()
        if self._worker:
            self._worker.process.close()
            self._worker.sampler.close()
            self._worker = None
        return _ms_since(started_ns)

    def _place(self, cycle: Cycle) -> _Place:
        return {
            "cycle": cycle.index,
            "iteration": cycle.iteration,
            "model": cycle.model.label,
            "worker": self._workers,
        }

    def _record(self, record: Record) -> None:
        record = msgspec.structs.replace(record, at=_now("milliseconds"))
        self._log.append(record)
        self._observe(record)


def _now(precision: str) -> str:
    return datetime.now(timezone.utc).astimezone().isoformat(timespec=precision)


def _stages(statistics: Sequence[str]) -> tuple[Stage, ...]:
    """The engine's stages; none where its lines cannot be read, for a run does not end over that."""
    try:
        return parse_account(statistics).stages
    except StatisticsError:
        return ()


def _ms_since(started_ns: int) -> float:
    return (time.monotonic_ns() - started_ns) / 1e6


def _elapsed_ms(done: Done | Trimmed) -> float:
    return (done["ended_ns"] - done["started_ns"]) / 1e6
