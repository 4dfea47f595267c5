"""Drives workers through a schedule, measures them from outside, writes down what happens."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypedDict, TypeVar

import msgspec

from asrswitch import __version__, machine
from asrswitch.audio import PreparedClip
from asrswitch.backend_choice import check_capabilities, is_server
from asrswitch.conditions import read_conditions
from asrswitch.errors import AsrSwitchError, LibraryError, UsageError, printable
from asrswitch.figures import figure_out, split_output
from asrswitch.hashing import sha256
from asrswitch.memory.budget import (
    GROUP,
    HIGH_PRESSURE,
    HOST,
    LIMIT,
    Weighed,
    count_kills,
    says_out_of_memory,
    sources,
    weigh,
)
from asrswitch.memory.gpu import open_gpus
from asrswitch.memory.guard import (
    SERVER_STILL_S,
    ConcurrentError,
    Slate,
    is_mapped,
    refuse_other_workers,
    settle,
)
from asrswitch.memory.page_cache import Residency, prepare
from asrswitch.memory.probe import Memory, MemoryProbe, ProcessGoneError
from asrswitch.memory.processes import ProcessesProbe
from asrswitch.memory.sampler import Sampler
from asrswitch.memory_prediction import (
    MemoryPrediction,
    MemoryQuestion,
    NoPrediction,
    may_predict,
    predict_each,
)
from asrswitch.model import Model
from asrswitch.native.processes import began_at, name_of
from asrswitch.packing import Packing
from asrswitch.plan import LANGUAGES, CacheState, Order, Plan, Strategy, Trimming
from asrswitch.prompts.checks import Checked, judge, needs_sandbox
from asrswitch.prompts.sandbox import SandboxError, confinement
from asrswitch.prompts.sets import Prompt
from asrswitch.records import (
    SCHEMA,
    Budget,
    Cache,
    CleanSlate,
    End,
    Eviction,
    Failure,
    Holder,
    Load,
    LogWriter,
    Malloc,
    Phase,
    Point,
    Prediction,
    Reading,
    Record,
    Release,
    Renewal,
    Resume,
    Run,
    SamplingCost,
    Skip,
    Timeline,
    Transcription,
    Trim,
    Until,
    WorkerStarted,
)
from asrswitch.resume import RETRIED
from asrswitch.schedule import Cycle
from asrswitch.schedule import Release as ReleaseKind
from asrswitch.stages import Stage, StatisticsError, parse_account
from asrswitch.text import error_rates, normalise
from asrswitch.worker.protocol import Command, Done, LoadOptions, State, Transcribed, Trimmed
from asrswitch.worker_process import (
    START_TIMEOUT_S,
    StoppedError,
    StopSignals,
    WorkerError,
    WorkerLostError,
    WorkerProcess,
    WorkerTimeoutError,
    backend_program,
    worker_program,
)

if TYPE_CHECKING:
    from typing_extensions import Self

_Reply = TypeVar("_Reply", Done, State, Transcribed, Trimmed)
_MIB = 1024 * 1024
# Code and tables of the library that the first calls map: they stay, and are no model's.
SLATE_TOLERANCE = 4 * 1024 * 1024  # bytes
_ATTEMPTS = 2
_BEGIN_BESIDE = "end it, or give --allow-concurrent and expect worse figures"
_GO_ON_BESIDE = (
    "this turn is lost, and the run goes on: end that process, or stop the run and go on with it by "
    "--resume DIR --allow-concurrent"
)
_SERVED_S = 0.02  # in which the thread and the connection that served a question are gone
_LEAST_HELD = 1024 * 1024  # bytes; of a process that is named for holding more than before
_FIRST_STARTS = 2  # a worker may be killed while it starts; two in a row mean that the library does it


class RefusedError(AsrSwitchError):
    """A model was not loaded: there is no room for it, or somebody else holds one."""


class _Place(TypedDict):
    """Where in the run a record belongs."""

    cycle: int
    iteration: int
    model: str
    worker: int


class _Input(msgspec.Struct, frozen=True):
    """What a model is given in its turn: a clip, or a prompt."""

    name: str  # the clip's path, or the prompt's name
    given: str  # the path of the clip as the library takes it, or the prompt's text
    seconds: float  # of a clip
    reference: str | None = None
    normalised: str | None = None  # the reference
    prompt: Prompt | None = None


class _Worker:
    """A worker, its probe and sampler, and what is known of its state."""

    def __init__(self, process: WorkerProcess, sample_hz: float, origin_ns: int) -> None:
        self.process = process
        self.pid = process.hello["pid"]
        self.can = process.hello["capabilities"]
        self.is_server = is_server(self.can)  # or talks to one that is
        # Of other processes too, where the backend runs some.
        self.others = ProcessesProbe(self.pid) if self.can["runs_processes"] else None
        self.probe: MemoryProbe | ProcessesProbe = self.others or MemoryProbe(self.pid)
        below = self.others.others if self.others else None
        self.sampler = Sampler(self.pid, sample_hz, origin_ns, others=below)
        self.malloc = process.hello["malloc"]
        self.resident: list[str] | None = None  # labels of models, by the backend's account when last asked
        self.loaded: set[str] = set()  # labels of models
        self.used = False  # a model was loaded, or was to be, since the beginning or the last renewal
        self.baseline: int | None = None  # resident memory before the first load
        self.before_load = 0  # resident memory, in the turn that loaded last
        self.peak = 0  # of resident memory, since
        self.held: dict[tuple[int, int], int] = {}  # of each of the others, then


class Runner:
    """Runs one plan, in one stretch or in several; while entered, its log is open for records.

    Leaving it writes how the run ended.
    """

    def __init__(
        self,
        plan: Plan,
        library: Path | None,
        clips: Sequence[PreparedClip],
        log: LogWriter,
        stop: StopSignals,
        observers: Sequence[Callable[[Record], None]],
        earlier: Sequence[Record] = (),
    ) -> None:
        """Make a runner that has not begun.

        Args:
            plan: what is to be done.
            library: what loads the models, or the program that the backend runs; None where it has neither.
            clips: the plan's, as the library takes them.
            log: takes the records.
            stop: what ends the run early.
            observers: are shown every record after it was written.
            earlier: what the log holds already; the run goes on from there.
        """
        self._plan = plan
        self._library = library
        self._inputs = _inputs(plan, clips)
        self._judged: dict[tuple[str, str], Checked | None] = {}  # by prompt and answer
        self._log = log
        self._stop = stop
        self._observers = observers
        self._worker: _Worker | None = None
        self._environ = {**os.environ, **plan.environment}
        self._host_bytes = machine.total_memory_bytes()
        self._resumed = bool(earlier)
        started = [record.worker for record in earlier if isinstance(record, WorkerStarted)]
        self._workers = max(started, default=0)
        self._packing: Packing | None = None  # where models stay loaded as far as there is room
        self._packing_bytes = 0  # for all of them
        self._gpus = None if plan.backend.is_default else open_gpus()  # ours uses none
        # What is left in a server is not known: something failed, or an earlier run was interrupted.
        self._renewal_due = self._resumed
        self._started = bool(started)  # whether any worker ever was
        self._phase: Phase = "start"
        self._kills = 0  # that the kernel had counted when the phase began
        # Labels of models that failed twice.
        self._skipped = {record.model for record in earlier if isinstance(record, Skip)}
        self._needs = {r.model: r for r in earlier if isinstance(r, Prediction)}
        self._began_ns = 0  # of the monotonic clock
        self._samples = 0
        self._sampling_ms = 0.0

    def __enter__(self) -> Self:
        """Write down what is to be done, and what the library says that it will need.

        Raises:
            LogError: the log cannot be written.
            StoppedError: a signal came.
        """
        self._began_ns = time.monotonic_ns()
        if self._resumed:
            conditions = read_conditions()
            self._record(Resume(version=__version__, machine=machine.describe(), conditions=conditions))
            return self
        self._record(
            Run(
                schema=SCHEMA,
                version=__version__,
                started_at=_now("seconds"),
                library=str(self._library or ""),
                plan=self._plan,
                machine=machine.describe(),
                conditions=read_conditions(),
                sandbox=confinement() if any(map(needs_sandbox, self._plan.prompts)) else None,
                sha256=self._hashes(),
            )
        )
        try:
            self._predict()
        except StoppedError as stopped:
            self._end(stopped)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker:
            self._worker.process.kill()
            self._worker.sampler.close()
        if self._gpus:
            self._gpus.close()
        self._end(error)

    def run(self, cycles: Iterable[Cycle]) -> None:
        """Run a stretch of cycles in order; what goes wrong in one is recorded, and the next goes on.

        The first begins in a fresh worker, and after the last none is left.

        Raises:
            LibraryError: no worker could ever be started with this library.
            LogError: the log cannot be written any more.
            StoppedError: a signal came; all that is known has been written.
        """
        for cycle in cycles:
            self._run_or_skip(cycle)
        self._retire()

    def _hashes(self) -> dict[str, str]:
        files = [str(self._library)] if self._library else []
        files += [model.path for model in self._plan.models] + [clip.path for clip in self._plan.clips]
        hashes = {model.path: model.digest for model in self._plan.models if model.digest is not None}
        for file in files:
            with contextlib.suppress(OSError):  # what cannot be read is told by who needs it
                hashes.setdefault(file, sha256(Path(file)))
        return hashes

    def _end(self, error: BaseException | None) -> None:
        # After a log's failure its last line may be half a record, and then nothing may follow it.
        if self._log.broken or not (error is None or isinstance(error, AsrSwitchError)):
            return
        stopped = error.signal if isinstance(error, StoppedError) else None
        reason: Literal["complete", "stopped", "failed"] = "stopped" if stopped else "failed"
        self._record(
            End(
                reason="complete" if error is None else reason,
                signal=stopped,
                sampling=self._sampling_cost(),
                conditions=read_conditions(),
            )
        )

    def _predict(self) -> None:
        plan = self._plan
        longest_s = max(item.seconds for item in self._inputs)
        question = MemoryQuestion(longest_s, plan.context, plan.threads, plan.max_new_tokens)
        files = [(Path(model.path), model.bytes or 0) for model in plan.models]
        what = "library" if plan.backend.is_default else "backend"
        predictions: list[MemoryPrediction | NoPrediction] = [
            NoPrediction(f"this {what} does not predict its memory") for _ in files
        ]
        if plan.backend.is_default and self._library and may_predict(self._library):
            predictions = predict_each(self._library, files, question, self._environ, self._stop)
        for model, told in zip(plan.models, predictions, strict=True):
            self._needs[model.label] = Prediction(
                model=model.label,
                weights_bytes=model.bytes or 0,
                anonymous_bytes=told.anonymous_bytes if isinstance(told, MemoryPrediction) else None,
                failure=told.reason if isinstance(told, NoPrediction) else None,
            )
            self._record(self._needs[model.label])

    def _run_or_skip(self, cycle: Cycle) -> None:
        """Run a cycle; once more in a fresh worker if it fails; then go on without its model."""
        label = cycle.model.label
        if label in self._skipped:
            return
        for attempt in range(1, _ATTEMPTS + 1):
            # What went wrong when the model was let go has cost nothing that was measured.
            if self._attempt(cycle, attempt) or self._phase not in RETRIED:
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
            if self._renewal_due and worker.can.get("renews"):
                self._renew(worker, self._place(cycle), "failure")
            self._renewal_due = False
            self._run_cycle(worker, cycle)
        except RefusedError as error:
            self._refuse(cycle, attempt, error)
            return True  # in a fresh worker it is the same
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

    def _begin(self, phase: Phase) -> None:
        self._phase = phase
        self._kills = count_kills()

    def _start(self) -> _Worker:
        self._workers += 1
        log = Path(self._plan.out) / f"worker-{self._workers}.log"
        started_ns = time.monotonic_ns()
        try:
            process = WorkerProcess(
                self._program(),
                log,
                self._stop,
                START_TIMEOUT_S,
                self._environ,
                self._plan.memory_limit_bytes,
            )
        except WorkerError as error:
            if not self._started:
                raise LibraryError(str(error)) from None
            raise
        except (WorkerLostError, WorkerTimeoutError) as error:
            if not self._started and self._workers == _FIRST_STARTS:
                remedy = "name another by --library" if self._plan.backend.is_default else "check --backend"
                what = str(self._library or self._plan.engine)
                if (limit := self._plan.memory_limit_bytes) is not None:
                    remedy = f"raise it, or, if it is ample for {what}, {remedy}"
                    what = f"--memory-limit {limit:,} B"
                see = f"see {log}; " if log.stat().st_size else ""
                raise LibraryError(f"{what}: no worker starts with it ({error}); {see}{remedy}") from None
            raise
        plan = self._plan
        can = process.hello["capabilities"]
        try:
            gives: Literal["audio", "text"] = "text" if plan.prompts else "audio"
            check_capabilities(plan.backend.name, can, plan.strategy.value, plan.language, gives)
        except UsageError:
            process.kill()
            raise
        self._started = True
        self._worker = _Worker(process, self._plan.sample_hz, self._began_ns)
        start_ms = _ms_since(started_ns)
        self._record(
            WorkerStarted(
                worker=self._workers,
                pid=process.hello["pid"],
                log=log.name,
                start_ms=start_ms,
                limited_by=process.limited_by,
                capabilities=can,
            )
        )
        return self._worker

    def _program(self) -> list[str]:
        """The workers' command line."""
        backend = self._plan.backend
        if backend.is_default:
            return worker_program(str(self._library))
        return backend_program(backend.name, backend.configuration)

    def _run_cycle(self, worker: _Worker, cycle: Cycle) -> None:
        place = self._place(cycle)
        label = cycle.model.label
        if worker.is_server:
            self._follow_server(worker, cycle.model, place)
        loads = label not in worker.loaded
        if loads:
            worker = self._make_room(worker, cycle, place)
            self._prepare_cache(cycle, place)
            self._load(worker, cycle, place)
        self._begin("transcribe")
        for index, item in enumerate(self._inputs):
            if index and worker.can["restarts"]:
                self._begin("restart")
                self._ask(worker, {"command": "restart", "label": label}, Done)
                self._begin("transcribe")
            try:
                self._transcribe(worker, place, item)
            except WorkerError as error:  # the model is still loaded, and can be unloaded
                message = str(error).replace(item.given, printable(item.name))  # not our copy's name
                loads_too = not worker.can["loads"] and worker.can.get("renews")
                if loads_too or self._ran_out(error):  # a fresh worker may have more
                    raise WorkerError(message, error.malloc) from None
                self._record(Failure(**place, phase="transcribe", kind="error", message=message))
                if worker.is_server:
                    self._look(worker)  # fails where it is gone, and with it this attempt
        self._read(worker, place, "after_infer")
        if self._packing:
            self._packing.used(label)
            if loads:
                self._packing.measured(label, worker.peak - worker.before_load)
        if cycle.release is ReleaseKind.EXIT and worker.is_server:
            self._begin("unload")
            release_ms = self._renew(worker, place, "isolate")
            self._record(Release(**place, how=cycle.release, release_ms=release_ms))
        elif cycle.release is ReleaseKind.EXIT:
            self._begin("unload")
            self._record_samples(worker, place, "after_unload")
            release_ms = self._retire()
            self._record(Release(**place, how=cycle.release, release_ms=release_ms))
            self._begin("start")
            worker = self._start()  # before its turn, so that the next load does not wait for a process
            place["worker"] = self._workers
        elif worker.can["loads"]:
            phase: Literal["unload", "restart"] = "restart"
            if cycle.release is ReleaseKind.DESTROY:
                phase = "unload"
            self._begin(phase)
            done = self._ask(worker, {"command": phase, "label": label}, Done)
            if cycle.release is ReleaseKind.DESTROY:
                worker.loaded.remove(label)
            self._record(Release(**place, how=cycle.release, release_ms=_elapsed_ms(done)))
        is_empty = not worker.loaded and _unloads(worker, cycle.release)
        # A server answers first, and then ends what held the model.
        slate = self._settle(worker) if is_empty and worker.is_server else None
        self._read(worker, place, "after_unload")
        if is_empty and (slate := slate or self._settle(worker)):
            self._prove_clean(worker, cycle, place, slate)

    def _settle(self, worker: _Worker) -> Slate | None:
        """Wait until memory is back; None where it is not known what it is to come back to."""
        if worker.baseline is None:
            return None
        read = worker.probe.resident_bytes
        if worker.is_server:
            return settle(read, worker.baseline, SLATE_TOLERANCE, still_s=SERVER_STILL_S)
        return settle(read, worker.baseline, SLATE_TOLERANCE)

    def _prove_clean(self, worker: _Worker, cycle: Cycle, place: _Place, slate: Slate) -> None:
        pids = worker.others.pids() if worker.others else [worker.pid]
        path = os.path.realpath(cycle.model.path)
        # What a server calls a model is no file, though one may be called so.
        mapped = not worker.is_server and any(is_mapped(pid, path) for pid in pids)
        self._record(
            CleanSlate(
                **place,
                clean=slate.back and not mapped and not worker.resident,
                mapped=mapped,
                excess_bytes=slate.excess_bytes,
                settle_ms=slate.settle_ms,
                resident=tuple(worker.resident or ()),
                holders=() if slate.back else _holders(worker),
            )
        )

    def _follow_server(self, worker: _Worker, model: Model, place: _Place) -> None:
        """Before a turn: see what a server has let go, and have it started anew where it is to be."""
        self._begin("renew")
        if worker.can["loads"] and (worker.loaded or worker.baseline is None):
            self._look(worker)
        if worker.resident is not None:
            for label in sorted(worker.loaded - {*worker.resident}):
                worker.loaded.remove(label)
                self._record(Eviction(**place, evicted=label, release_ms=0.0, by="server"))
        if model.label in worker.loaded:
            return
        if not worker.can.get("renews"):
            if worker.baseline is None and worker.can["loads"]:
                self._empty(worker, place)
            return
        above = self._plan.restart_above_bytes
        if worker.baseline is None and worker.resident and worker.can["loads"]:
            self._renew(worker, place, "occupied")
        elif worker.used and above is not None and (above == 0 or (model.bytes or 0) > above):
            self._renew(worker, place, "large")

    def _empty(self, worker: _Worker, place: _Place) -> None:
        """Unload what an interrupted run, or a worker that was lost, left of our models; others' stay."""
        ours = {model.label for model in self._plan.models}
        for label in ours.intersection(worker.resident or ()):
            self._let_go(worker, label, place)
        self._look(worker)

    def _renew(
        self, worker: _Worker, place: _Place, reason: Literal["failure", "large", "isolate", "occupied"]
    ) -> float:
        """Have what holds the models started anew; how long it took, in milliseconds.

        Raises:
            WorkerError: what answers afterwards is what was there before.
        """
        if reason != "isolate":  # there it is how the model is let go
            self._begin("renew")
        self._look(worker, asks_server=False)  # which may not answer any more
        before = _roots(worker)
        ms = _elapsed_ms(self._ask(worker, {"command": "renew"}, Done))
        self._look(worker)
        if stayed := before & _roots(worker):
            raise WorkerError(
                f"the server was to be restarted, and its process {min(stayed)[0]} is the one of before; "
                "correct restart in the backend's configuration",
                None,
            )
        if worker.resident:
            raise WorkerError(
                f"the restarted server still has {', '.join(worker.resident)} loaded; correct restart in the "
                "backend's configuration, or see who loads it",
                None,
            )
        worker.loaded.clear()
        worker.used = False
        worker.held = worker.others.by_process() if worker.others else {}
        self._record(Renewal(**place, reason=reason, ms=ms))
        return ms

    def _make_room(self, worker: _Worker, cycle: Cycle, place: _Place) -> _Worker:
        """Hold what the model needs against what there is; in a fresh worker, where that may help.

        Raises:
            RefusedError: it needs more, or somebody else began to measure after this run did.
            ConcurrentError: somebody else was there before.
        """
        self._begin("load")
        if not self._plan.allow_concurrent:
            self._refuse_others(worker)
        self._evict(worker, cycle.model, place)
        if worker.is_server:  # which has room of its own, that cannot be weighed from here
            self._read(worker, place, "before_load")
            return worker
        weighed = self._weigh(cycle.model, self._read(worker, place, "before_load"))
        action: Literal["load", "restart", "refuse"] = "load"
        if self._wants_fresh(worker, cycle.model, weighed):
            self._retire()
            worker = self._start()
            place["worker"] = self._workers
            self._begin("load")
            weighed = self._weigh(cycle.model, self._read(worker, place, "before_load"))
            action = "restart"
        if not weighed.fits:
            action = "refuse"
        left = {source.name: source.left_bytes for source in weighed.sources}
        self._record(
            Budget(
                **place,
                need_bytes=weighed.need_bytes,
                host_bytes=left.get(HOST),
                cgroup_bytes=left.get(GROUP),
                limit_bytes=left.get(LIMIT),
                pressure=round(weighed.pressure, 4),
                action=action,
            )
        )
        if not weighed.fits:
            retained = 0 if worker.baseline is None else worker.probe.resident_bytes() - worker.baseline
            raise RefusedError(_no_room(cycle.model, weighed, keeps=retained > SLATE_TOLERANCE))
        return worker

    def _evict(self, worker: _Worker, model: Model, place: _Place) -> None:
        """Unload what must make room, where models stay loaded as far as there is some."""
        if self._plan.order is not Order.PACKED:
            return
        if self._packing is None:
            memory = worker.probe.read()
            free = HIGH_PRESSURE * (memory.available_bytes or self._host_bytes)
            limit = self._plan.memory_limit_bytes
            self._packing_bytes = round(free) if limit is None else limit - memory.rss_bytes
            needs = self._needs.values()
            self._packing = Packing({n.model: n.weights_bytes + (n.anonymous_bytes or 0) for n in needs})
        for label in self._packing.leaving(model.label, worker.loaded, self._packing_bytes):
            self._let_go(worker, label, place)
        # What a server needs besides cannot be weighed from here.
        while not worker.is_server and worker.loaded and not self._weigh(model, worker.probe.read()).fits:
            self._let_go(worker, self._packing.oldest(worker.loaded), place)

    def _let_go(self, worker: _Worker, label: str, place: _Place) -> None:
        done = self._ask(worker, {"command": "unload", "label": label}, Done)
        worker.loaded.discard(label)
        self._record(Eviction(**place, evicted=label, release_ms=_elapsed_ms(done)))

    def _refuse_others(self, worker: _Worker) -> None:
        begun = worker.baseline is not None or self._workers > 1
        try:
            refuse_other_workers(frozenset({worker.pid}), _GO_ON_BESIDE if begun else _BEGIN_BESIDE)
        except ConcurrentError as error:
            if not begun:
                raise
            raise RefusedError(str(error)) from None  # this cycle is lost, and not the run

    def _weigh(self, model: Model, memory: Memory) -> Weighed:
        needs = self._needs.get(model.label)
        anonymous = needs.anonymous_bytes if needs else None
        found = sources(memory, self._host_bytes, self._plan.memory_limit_bytes)
        return weigh((model.bytes or 0) + (anonymous or 0), found)

    def _wants_fresh(self, worker: _Worker, model: Model, weighed: Weighed) -> bool:
        """Whether the worker is to be exchanged: as asked for, or where memory is tight and it keeps some."""
        if worker.baseline is None or worker.loaded or self._plan.strategy is Strategy.ISOLATE:
            return False
        above = self._plan.restart_above_bytes
        if above is not None:
            return (model.bytes or 0) > above
        return (
            weighed.pressure >= HIGH_PRESSURE
            and worker.probe.resident_bytes() - worker.baseline > SLATE_TOLERANCE
        )

    def _prepare_cache(self, cycle: Cycle, place: _Place) -> None:
        """Have the model's file in the page cache, or not, as the plan says, and write down the proof."""
        wanted = self._plan.cache
        if wanted is CacheState.AS_IS:
            return
        path = Path(cycle.model.path)
        started_ns = time.monotonic_ns()
        try:
            found = prepare(path, "cold" if wanted is CacheState.COLD else "warm", self._stop.check)
        except OSError as error:
            found = Residency(0, None, None, proven=False, reason=f"{error.strerror}: check the file")
        self._record(
            Cache(
                **place,
                wanted=wanted,
                bytes=found.bytes,
                resident_before_bytes=found.before_bytes,
                resident_bytes=found.resident_bytes,
                proven=found.proven,
                ms=_ms_since(started_ns),
                reason=found.reason,
            )
        )

    def _load(self, worker: _Worker, cycle: Cycle, place: _Place) -> None:
        if worker.baseline is None and not worker.resident:  # nothing is loaded, as far as is known
            worker.baseline = worker.probe.resident_bytes()
            worker.held = worker.others.by_process() if worker.others else {}
        worker.used = True
        options: LoadOptions = {
            "model": cycle.model.path,
            "threads": self._plan.threads,
            "context": self._plan.context,
            "language": self._plan.language,
            "max_new_tokens": self._plan.max_new_tokens,
            "preload": self._plan.preload,
            "lock": self._plan.lock,
        }
        if not self._plan.backend.is_default:
            codes = {name: code for code, name in LANGUAGES.items()}
            options["language_code"] = codes.get(self._plan.language or "")
        command: Command = {"command": "load", "label": cycle.model.label, "load": options}
        done = self._ask(worker, command, Done)
        if not worker.can["loads"]:  # it was told what to load, and does so at each transcription
            return
        worker.loaded.add(cycle.model.label)
        self._record(Load(**place, load_ms=_elapsed_ms(done)))
        self._read(worker, place, "after_load")

    def _transcribe(self, worker: _Worker, place: _Place, item: _Input) -> None:
        """Transcribe a clip, or have a prompt answered, and record it."""
        command: Command = {"command": "transcribe", "label": place["model"]}
        if item.prompt:
            command["prompt"] = item.given
        else:
            command["audio"] = item.given
        reply = self._ask(worker, command, Transcribed)
        figures = figure_out(
            reply["pieces"],
            reply["submitted_ns"],
            reply["returned_ns"],
            item.seconds,
            reply["statistics"],
            reply.get("reported"),
            streams=worker.can["streams"],
        )
        raw = "".join(text for _, text in reply["pieces"])
        output = split_output(raw)
        normalised = "" if item.prompt else normalise(output.text)
        rates = None if item.normalised is None else error_rates(item.normalised, normalised)
        self._record(
            Transcription(
                **place,
                clip=item.name,
                audio_s=item.seconds,
                raw=raw,
                language=output.language,
                text=output.text,
                normalised=normalised,
                reference=item.reference,
                reference_normalised=item.normalised,
                wer=rates.wer if rates else None,
                cer=rates.cer if rates else None,
                figures=figures,
                statistics=tuple(reply["statistics"]),
                stages=_stages(reply["statistics"]),
                peak_rss_bytes=reply.get("peak_rss_bytes"),
                reported=reply.get("reported", {}),
                left_behind=tuple(reply.get("left_behind", ())),
                gives=worker.can.get("gives", "text"),
                check=self._judge(item, output.text),
            )
        )

    def _judge(self, item: _Input, answer: str) -> Checked | None:
        """What the prompt's check says of the answer; of the same answer it is asked once."""
        if item.prompt is None:
            return None
        if (item.name, answer) not in self._judged:
            try:
                self._judged[item.name, answer] = judge(item.prompt, answer)
            except SandboxError as error:
                return Checked(passed=False, reason=str(error))
        return self._judged[item.name, answer]

    def _ask(self, worker: _Worker, command: Command, reply: type[_Reply]) -> _Reply:
        try:
            answer = worker.process.request(command, reply, self._plan.timeout_s)
        except WorkerError as error:
            worker.malloc = error.malloc
            raise
        except WorkerTimeoutError as error:
            raise WorkerTimeoutError(f"{error}; raise --timeout, if it was only slow") from None
        worker.malloc = answer["malloc"]
        return answer

    def _read(self, worker: _Worker, place: _Place, point: Point) -> Memory:
        """Take a reading; the worker waits, so its last account of its heap still holds."""
        self._look(worker)
        if worker.is_server:
            time.sleep(_SERVED_S)
        # The heap of a worker that only talks to a server is not where models are.
        heap = None if worker.is_server else worker.malloc
        malloc = None if heap is None else msgspec.convert(heap, Malloc)
        memory = worker.probe.read()
        if point == "before_load":
            worker.before_load = worker.peak = memory.rss_bytes
        elif memory.peak_since == "reading":
            worker.peak = max(worker.peak, memory.peak_rss_bytes)
        worker.peak = max(worker.peak, memory.rss_bytes)
        self._record_samples(worker, place, point)
        self._record(
            Reading(
                **place,
                point=point,
                memory=memory,
                malloc=malloc,
                processes=worker.others.last_others if worker.others else None,
                resident=None if worker.resident is None else tuple(worker.resident),
                gpu=self._gpus.read(worker.others.pids() if worker.others else [worker.pid])
                if self._gpus
                else None,
            )
        )
        trims = self._plan.trim is not Trimming.NEVER and not worker.is_server
        if point == "after_unload" and trims:
            self._trim(worker, place, point, on_copy=self._plan.trim is Trimming.PROBE)
        return memory

    def _look(self, worker: _Worker, asks_server: bool = True) -> None:
        """Ask the backend which processes and models there are, where these are others than the worker.

        What its server has loaded is not known where that is not asked.
        """
        if not worker.others:
            return
        state = self._ask(worker, {"command": "state", "asks_server": asks_server}, State)
        worker.others.roots = tuple(item for item in state["processes"] if isinstance(item, int))
        worker.others.groups = tuple(item for item in state["processes"] if isinstance(item, str))
        names = {model.path: model.label for model in self._plan.models}
        told = state["resident"]
        worker.resident = None if told is None else [printable(names.get(name, name)) for name in told]

    def _trim(self, worker: _Worker, place: _Place, point: Point, on_copy: bool) -> None:
        self._begin("trim")
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
        kind: Literal["died", "timeout", "error"] = "error"
        if isinstance(error, WorkerLostError | WorkerTimeoutError):
            kind = "died" if isinstance(error, WorkerLostError) else "timeout"
        lost = error if isinstance(error, WorkerLostError) else None
        failure = Failure(
            **place,
            attempt=attempt,
            phase=self._phase,
            kind=kind,
            message=str(error),
            signal=lost.signal if lost else None,
            exit_code=lost.returncode if lost else None,
            out_of_memory=self._ran_out(error),
        )
        self._record(failure)
        self._renewal_due = True
        self._retire()

    def _refuse(self, cycle: Cycle, attempt: int, error: RefusedError) -> None:
        failure = Failure(
            **self._place(cycle), attempt=attempt, phase="load", kind="refused", message=str(error)
        )
        self._record(failure)

    def _ran_out(self, error: AsrSwitchError) -> bool:
        """Whether an allocation failed, or the kernel killed the worker to have its memory."""
        if isinstance(error, WorkerError):
            return says_out_of_memory(str(error).encode())
        if not isinstance(error, WorkerLostError):
            return False
        return (error.signal == "SIGKILL" and count_kills() > self._kills) or says_out_of_memory(error.said)

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
        for observe in self._observers:
            observe(record)


def _now(precision: str) -> str:
    return datetime.now(timezone.utc).astimezone().isoformat(timespec=precision)


def _inputs(plan: Plan, clips: Sequence[PreparedClip]) -> list[_Input]:
    """What each turn is given; the clips are the plan's, as the library takes them."""
    found = [_Input(prompt.name, prompt.text, 0.0, prompt=prompt) for prompt in plan.prompts]
    for clip, prepared in zip(plan.clips, clips, strict=True):
        normalised = None if clip.reference is None else normalise(clip.reference)
        found.append(_Input(clip.path, prepared.path, prepared.seconds, clip.reference, normalised))
    return found


def _unloads(worker: _Worker, release: ReleaseKind) -> bool:
    """Whether a release lets go of what this worker, or its server, has loaded."""
    if release is ReleaseKind.EXIT:
        return worker.is_server  # it was started anew, and the worker is the same
    return release is ReleaseKind.DESTROY and not worker.can.get("keeps")


def _roots(worker: _Worker) -> set[tuple[int, int | None]]:
    """The server's first processes, each with when it began."""
    return {(pid, began_at(pid)) for pid in worker.others.roots} if worker.others else set()


def _holders(worker: _Worker) -> tuple[Holder, ...]:
    """The other processes that hold more than before the first load, the one that holds most first."""
    now = worker.others.by_process() if worker.others else {}
    more = [(bytes - worker.held.get(key, 0), key[0]) for key, bytes in now.items()]
    return tuple(
        Holder(pid, printable(name_of(pid)), excess)
        for excess, pid in sorted(more, reverse=True)
        if excess >= _LEAST_HELD
    )


def _stages(statistics: Sequence[str]) -> tuple[Stage, ...]:
    """The engine's stages; none where its lines cannot be read, for a run does not end over that."""
    try:
        return parse_account(statistics).stages
    except StatisticsError:
        return ()


def _no_room(model: Model, weighed: Weighed, keeps: bool) -> str:
    assert weighed.tightest
    remedy = "free memory or use a smaller model"
    if weighed.tightest.name == LIMIT:
        remedy = "raise --memory-limit or use a smaller model"
    if keeps:
        remedy += ", or give --restart-above 0: the worker keeps memory of earlier models"
    return (
        f"{printable(model.path)}: needs about {_size(weighed.need_bytes)} and {weighed.tightest.name} has "
        f"{_size(weighed.tightest.left_bytes)} left of {_size(weighed.tightest.total_bytes)}; {remedy}"
    )


def _size(count: int | None) -> str:
    return f"{(count or 0) / _MIB:,.1f} MiB"


def _ms_since(started_ns: int) -> float:
    return (time.monotonic_ns() - started_ns) / 1e6


def _elapsed_ms(done: Done | Trimmed) -> float:
    return (done["ended_ns"] - done["started_ns"]) / 1e6
