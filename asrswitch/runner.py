"""Drives workers through a schedule, measures them from outside, writes down what happens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TypedDict, TypeVar

import msgspec

from asrswitch import __version__, machine
from asrswitch.audio import PreparedClip
from asrswitch.errors import AsrSwitchError, LibraryError, LogError, printable
from asrswitch.figures import figure_out, split_output
from asrswitch.memory.probe import MemoryProbe, ProcessGoneError
from asrswitch.plan import Clip, Plan
from asrswitch.records import (
    SCHEMA,
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
    Transcription,
    WorkerStarted,
)
from asrswitch.schedule import Cycle
from asrswitch.schedule import Release as ReleaseKind
from asrswitch.stages import Stage, StatisticsError, parse_account
from asrswitch.text import error_rates, normalise
from asrswitch.worker.protocol import Command, Done, Transcribed
from asrswitch.worker_process import (
    START_TIMEOUT_S,
    StoppedError,
    StopSignals,
    WorkerError,
    WorkerLostError,
    WorkerProcess,
    WorkerTimeoutError,
)

_Reply = TypeVar("_Reply", Done, Transcribed)
_FIRST_STARTS = 2  # a worker may be killed while it starts; two in a row mean that the library does it


class _Place(TypedDict):
    """Where in the run a record belongs."""

    cycle: int
    iteration: int
    model: str
    worker: int


class _Worker:
    """A worker, its probe, and what is known of its state."""

    def __init__(self, process: WorkerProcess) -> None:
        self.process = process
        self.probe = MemoryProbe(process.hello["pid"])
        self.malloc = process.hello["malloc"]
        self.loaded: str | None = None  # a model's label


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

    def run(self, cycles: Sequence[Cycle]) -> None:
        """Run the cycles in order; what goes wrong in one is recorded, and the next goes on.

        Raises:
            LibraryError: no worker could ever be started with this library.
            LogError: the log cannot be written any more.
            StoppedError: a signal came; all that is known has been written, and no worker is left.
        """
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
                self._attempt(cycle)
            self._retire()
        except StoppedError as stopped:
            self._record(End(reason="stopped", signal=stopped.signal))
            raise
        except LogError:  # its last line may be half a record, and then nothing may follow it
            raise
        except AsrSwitchError:
            self._record(End(reason="failed"))
            raise
        finally:
            if self._worker:
                self._worker.process.kill()
        self._record(End(reason="complete"))

    def _attempt(self, cycle: Cycle) -> None:
        self._stop.check()
        self._phase = "start"
        try:
            worker = self._worker or self._start()
            self._run_cycle(worker, cycle)
        except ProcessGoneError:
            assert self._worker
            self._fail(cycle, self._worker.process.lost())
        except (WorkerError, WorkerLostError, WorkerTimeoutError) as error:
            self._fail(cycle, error)

    def _start(self) -> _Worker:
        self._workers += 1
        log = Path(self._plan.out) / f"worker-{self._workers}.log"
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
        self._worker = _Worker(process)
        self._record(WorkerStarted(worker=self._workers, pid=process.hello["pid"], log=log.name))
        return self._worker

    def _run_cycle(self, worker: _Worker, cycle: Cycle) -> None:
        place = self._place(cycle)
        if worker.loaded != cycle.model.label:
            self._load(worker, cycle, place)
        self._phase = "transcribe"
        for index, (clip, prepared, reference) in enumerate(self._clips):
            if index:
                self._ask(worker, {"command": "restart"}, Done)
            try:
                self._transcribe(worker, place, clip, prepared, reference)
            except WorkerError as error:  # the model is still loaded, and can be unloaded
                message = str(error).replace(prepared.path, printable(clip.path))  # not our copy's name
                self._record(Failure(**place, phase="transcribe", kind="error", message=message))
        self._read(worker, place, "after_infer")
        self._phase = "unload" if cycle.release is ReleaseKind.DESTROY else "restart"
        done = self._ask(worker, {"command": self._phase}, Done)
        if cycle.release is ReleaseKind.DESTROY:
            worker.loaded = None
        self._record(Release(**place, how=cycle.release, release_ms=_elapsed_ms(done)))
        self._read(worker, place, "after_unload")

    def _load(self, worker: _Worker, cycle: Cycle, place: _Place) -> None:
        self._phase = "load"
        self._read(worker, place, "before_load")
        command: Command = {
            "command": "load",
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
        worker.loaded = cycle.model.label
        self._record(Load(**place, load_ms=_elapsed_ms(done)))
        self._read(worker, place, "after_load")

    def _transcribe(
        self, worker: _Worker, place: _Place, clip: Clip, prepared: PreparedClip, reference: str | None
    ) -> None:
        """Transcribe a clip and record it; ``reference`` is its normalised text, if that is known."""
        reply = self._ask(worker, {"command": "transcribe", "audio": prepared.path}, Transcribed)
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
        self._record(Reading(**place, point=point, memory=worker.probe.read(), malloc=malloc))

    def _fail(self, cycle: Cycle, error: AsrSwitchError) -> None:
        """Record what went wrong and part with the worker: what is left behind in it is not known."""
        place = self._place(cycle)
        if isinstance(error, WorkerLostError):
            failure = Failure(
                **place,
                phase=self._phase,
                kind="died",
                message=str(error),
                signal=error.signal,
                exit_code=error.returncode,
            )
        else:
            timeout = isinstance(error, WorkerTimeoutError)
            failure = Failure(
                **place, phase=self._phase, kind="timeout" if timeout else "error", message=str(error)
            )
        self._record(failure)
        self._retire()

    def _retire(self) -> None:
        if self._worker:
            self._worker.process.close()
            self._worker = None

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


def _elapsed_ms(done: Done) -> float:
    return (done["ended_ns"] - done["started_ns"]) / 1e6
