"""The run's log: one JSON object a line, each written down as soon as it is known."""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import msgspec

from asrswitch.conditions import Conditions
from asrswitch.errors import LogError
from asrswitch.figures import Figures
from asrswitch.machine import Machine
from asrswitch.memory.gpu import GpuMemory
from asrswitch.memory.probe import Memory
from asrswitch.memory.sampler import Samples
from asrswitch.plan import CacheState, Plan
from asrswitch.prompts.checks import Checked
from asrswitch.prompts.sandbox import Confinement
from asrswitch.schedule import Release as ReleaseKind
from asrswitch.stages import Stage
from asrswitch.worker.protocol import Capabilities

if TYPE_CHECKING:
    from typing_extensions import Self

SCHEMA = 3
_READABLE = (1, 2, 3)  # what later ones have more of has defaults

Point = Literal["before_load", "after_load", "after_infer", "after_unload"]
Phase = Literal["start", "renew", "load", "transcribe", "restart", "unload", "trim"]


Until = Literal[Point, "failure", "stop"]


class TornLineWarning(UserWarning):
    """The last line of a log was cut off, as when its writer is killed; it was left out."""


class _Stamped(msgspec.Struct, frozen=True, kw_only=True):
    at: str | None = None  # when it was written: wall clock, ISO 8601 with the offset from UTC


class Malloc(msgspec.Struct, frozen=True):
    """The worker's heap as malloc sees it: what callers hold, what malloc keeps back, what is not mapped."""

    held_bytes: int
    kept_bytes: int
    arena_bytes: int
    mapped_chunks: int


class Run(_Stamped, frozen=True, tag_field="record", tag="run"):
    """The first record: what is to be done, where, and by what."""

    schema: int
    version: str
    started_at: str  # ISO 8601 with the offset from UTC
    library: str  # or the program that a backend runs; empty where there is neither
    plan: Plan
    machine: Machine
    conditions: Conditions | None = None  # logs of before these were read have none
    sandbox: Confinement | None = None  # of what checks answers; None where nothing is run for that
    sha256: dict[str, str] = {}  # of library or program, models and clips by their paths


class WorkerStarted(_Stamped, frozen=True, tag_field="record", tag="worker"):
    """A worker is ready. Workers are numbered from 1."""

    worker: int
    pid: int
    log: str
    start_ms: float | None = None  # until it was ready; logs of before it was measured have none
    limited_by: Literal["cgroup", "rlimit"] | None = None  # what holds it to the memory limit
    capabilities: Capabilities | None = None  # of its backend; logs of before there were several have none


class OfCycle(_Stamped, frozen=True, kw_only=True):
    """What all records of a cycle have."""

    cycle: int
    iteration: int
    model: str
    worker: int


class Reading(OfCycle, frozen=True, kw_only=True, tag_field="record", tag="reading"):
    """The worker's memory at one of the four points of a cycle."""

    point: Point
    memory: Memory
    malloc: Malloc | None  # of the worker
    processes: int | None = None  # that were read besides the worker; None where there are never others
    resident: tuple[str, ...] | None = None  # models that are loaded, by the backend's account, if it has one
    gpu: GpuMemory | None = None  # None where no NVIDIA GPU tells, and of backends that use none


class Renewal(OfCycle, frozen=True, kw_only=True, tag_field="record", tag="renewal"):
    """What holds the models, a server, was started anew, with none loaded."""

    reason: Literal["failure", "large", "isolate", "occupied"]  # the last: models were there before ours
    ms: float  # until it answered


class Trim(OfCycle, frozen=True, kw_only=True, tag_field="record", tag="trim"):
    """After a reading malloc gave back what it could, in a copy of the worker or in the worker itself.

    The figures are of the one that was trimmed. ``malloc.kept_bytes`` still counts chunks inside the heap
    whose pages went back to the system: what a trim gives back is the difference in anonymous memory. It
    costs the worker minor faults, which count for its next reading.
    """

    point: Point
    on: Literal["copy", "worker"]
    anonymous_before_bytes: int | None  # None, as what follows, where there was no trim
    anonymous_bytes: int | None
    malloc: Malloc | None
    ms: float  # in the worker, with the making of the copy and its end
    failure: str | None = None


class Timeline(OfCycle, frozen=True, kw_only=True, tag_field="record", tag="timeline"):
    """The worker's memory between a reading and the next, or what ended the phase, sampled.

    ``samples.ms`` counts from the run's first record. Where nothing was sampled there is no record.
    """

    until: Until
    samples: Samples


class Prediction(_Stamped, frozen=True, kw_only=True, tag_field="record", tag="prediction"):
    """What a model will need for the longest of the clips, told before the first cycle."""

    model: str
    weights_bytes: int  # file-backed where the library maps them
    anonymous_bytes: int | None  # at its highest; None where the library does not predict it
    failure: str | None = None  # why it does not


class Budget(OfCycle, frozen=True, kw_only=True, tag_field="record", tag="budget"):
    """Before a load: what the model needs, and how much there is for it; None where nothing limits."""

    need_bytes: int  # as predicted; the weights alone where nothing more is known
    host_bytes: int | None  # available on the machine
    cgroup_bytes: int | None  # left in the control group, with the page cache that it could give up
    limit_bytes: int | None  # left of the worker's own limit
    pressure: float  # the largest part of host, group or limit that will be in use after the load
    action: Literal["load", "restart", "refuse"]  # "restart": the worker was exchanged for a fresh one first


class Cache(OfCycle, frozen=True, kw_only=True, tag_field="record", tag="cache"):
    """Before a load: the model's file was made cold or warm, and whether it then was."""

    wanted: CacheState
    bytes: int  # of the file
    resident_before_bytes: int | None  # in the page cache; None where the kernel does not tell
    resident_bytes: int | None
    proven: bool
    ms: float  # for making and proving it; not in load_ms
    reason: str | None = None  # why it is not proven, and what to do


class Load(OfCycle, frozen=True, kw_only=True, tag_field="record", tag="load"):
    """A model was loaded."""

    load_ms: float


class Eviction(OfCycle, frozen=True, kw_only=True, tag_field="record", tag="eviction"):
    """Another model was unloaded to make room for the cycle's, or a server let one go by itself."""

    evicted: str  # its label
    release_ms: float
    by: Literal["runner", "server"] = "runner"


class Transcription(OfCycle, frozen=True, kw_only=True, tag_field="record", tag="transcription"):
    """A clip was transcribed, or a prompt answered.

    ``raw`` is all that the engine wrote, ``text`` the transcript or answer in it.
    """

    clip: str  # its path, or the prompt's name
    audio_s: float  # 0 of a prompt
    raw: str
    language: str | None
    text: str
    normalised: str
    reference: str | None
    reference_normalised: str | None
    wer: float | None
    cer: float | None
    figures: Figures
    statistics: tuple[str, ...] = ()  # the engine's own lines
    stages: tuple[Stage, ...] = ()  # what they say of its stages; empty where they say nothing we can read
    peak_rss_bytes: int | None = None  # of the processes that it was, where they were no worker
    reported: dict[str, float] = {}  # what their program says of itself
    left_behind: tuple[str, ...] = ()  # names of processes that it left and that were ended
    gives: Literal["text", "embedding"] = "text"
    check: Checked | None = None  # of the answer, where its prompt has one

    @property
    def answered_ms(self) -> float | None:
        """Until what was asked for began to come: the first text, or all of an embedding."""
        return self.figures.inference_ms if self.gives == "embedding" else self.figures.ttft_ms


class Release(OfCycle, frozen=True, kw_only=True, tag_field="record", tag="release"):
    """A model was destroyed, or its context cleared."""

    how: ReleaseKind
    release_ms: float


class Holder(msgspec.Struct, frozen=True):
    """A process that holds more than it did before the first load."""

    pid: int
    name: str
    excess_bytes: int


class CleanSlate(OfCycle, frozen=True, kw_only=True, tag_field="record", tag="slate"):
    """The proof, after an unload and before the next load, that nothing of the model is left.

    ``excess_bytes`` is resident memory above that of the worker before its first load.
    """

    clean: bool  # memory is back within the tolerance, the model's file not mapped, and nothing resident
    mapped: bool
    excess_bytes: int
    settle_ms: float  # until that was seen, or memory had stopped sinking
    resident: tuple[str, ...] = ()  # labels of models that the backend still has, by its own account
    holders: tuple[Holder, ...] = ()  # where memory is not back, and other processes hold models


class Failure(OfCycle, frozen=True, kw_only=True, tag_field="record", tag="failure"):
    """Something went wrong in a phase.

    A cycle that fails before its model is let go is tried once more in a fresh worker, and its records come
    again; the run goes on with the next cycle in any case.
    """

    attempt: int = 1
    phase: Phase
    kind: Literal["died", "timeout", "error", "refused"]
    message: str
    signal: str | None = None
    exit_code: int | None = None
    out_of_memory: bool = False  # by what the library, the worker's log or the kernel's count of kills says


class Skip(OfCycle, frozen=True, kw_only=True, tag_field="record", tag="skip"):
    """A model's remaining cycles are left out."""

    message: str


class Resume(_Stamped, frozen=True, kw_only=True, tag_field="record", tag="resume"):
    """An interrupted run goes on; the cycle that was interrupted is begun again, in a fresh worker.

    Samples count their time from here on.
    """

    version: str
    machine: Machine
    conditions: Conditions | None = None


class SamplingCost(msgspec.Struct, frozen=True):
    """What sampling took of the runner's processor time, over the whole run."""

    samples: int
    cpu_us_per_sample: float
    cpu_ms_per_s: float


class End(_Stamped, frozen=True, tag_field="record", tag="end"):
    """The last record of a run that was not itself killed."""

    reason: Literal["complete", "stopped", "failed"]
    signal: str | None = None
    sampling: SamplingCost | None = None  # None where nothing was sampled
    conditions: Conditions | None = None


Record = (
    Run
    | WorkerStarted
    | Reading
    | Renewal
    | Trim
    | Timeline
    | Prediction
    | Budget
    | Cache
    | Load
    | Eviction
    | Transcription
    | Release
    | CleanSlate
    | Failure
    | Skip
    | Resume
    | End
)


class LogWriter:
    """Appends records to a new file, or to one that an interrupted run left.

    A record is with the kernel when ``append`` returns, and outlives this process; those that end a phase are
    on the disk, and outlive the machine's fall.
    """

    def __init__(self, path: Path, resume: bool = False) -> None:
        """Open the file: a new one, or with ``resume`` one that is there, less a last line that was cut off.

        Raises:
            LogError: it cannot be written, or is there and should not be, or the other way round.
        """
        self._path = path
        self.broken = False  # an append failed: the last line may be half a record
        try:
            made = 0 if resume else os.O_CREAT | os.O_EXCL
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | made, 0o644)
            if resume:
                os.ftruncate(self._file, path.read_bytes().rfind(b"\n") + 1)
        except OSError as error:
            raise LogError(
                f"{path}: cannot be written ({error.strerror}); name another directory by --out"
            ) from None

    def append(self, record: Record) -> None:
        """Write one line.

        Raises:
            LogError: the disk is full, or went away.
        """
        line = memoryview(msgspec.json.encode(record) + b"\n")
        try:
            while line:
                line = line[os.write(self._file, line) :]
        except OSError as error:
            self.broken = True
            raise LogError(
                f"{self._path}: cannot be written ({error.strerror}); make room and run again"
            ) from None
        if isinstance(record, Reading | Failure | End):
            with contextlib.suppress(OSError):  # some file systems have no sync
                os.fdatasync(self._file)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_log(path: Path) -> list[Record]:
    """Read a log, also that of a run that was killed.

    A last line that was cut off is left out with a ``TornLineWarning``.

    Raises:
        LogError: no log, or a line before the last that is not a record, or another schema.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        remedy = "check its permissions" if error.errno == errno.EACCES else "name a run's directory"
        raise LogError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    if lines[-1] == b"":
        lines.pop()
    decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(decoder.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            _check_schema(path, line)
            if not records:
                break
            if number < len(lines):
                raise LogError(
                    f"{path}: line {number} is not a record ({error}); the log is damaged: "
                    "copy it again, or take that line out to see the others"
                ) from None
            warnings.warn(TornLineWarning(f"{path}: line {number} was cut off and is left out"), stacklevel=2)
    if not records or not isinstance(records[0], Run):
        raise LogError(
            f"{path}: does not begin with a run's record: it is no log of ours, or it was cut at once; "
            "name a run's directory"
        )
    _check_schema(path, lines[0])
    return records


def _check_schema(path: Path, line: bytes) -> None:
    """Name another schema than ours: it explains why this line, or what follows, cannot be read."""
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
        head = msgspec.json.decode(line)
        if isinstance(head, dict) and head.get("record") == "run" and head.get("schema") not in _READABLE:
            raise LogError(
                f"{path}: schema {head.get('schema')}, this version reads {SCHEMA}; use the one that wrote it"
            )
