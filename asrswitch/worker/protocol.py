"""What runner and worker say to each other: one JSON object a line.

The worker speaks first (``Hello``), then answers each command with its reply, or with an ``Error``. Times are
the worker's ``time.monotonic_ns()``.
"""

from __future__ import annotations

from typing import Literal, TypedDict


class Malloc(TypedDict):
    """glibc's own account of its heap, all arenas together (mallinfo2(3))."""

    held_bytes: int
    kept_bytes: int
    arena_bytes: int
    mapped_chunks: int


class Command(TypedDict, total=False):
    """A command; which of the other keys it has depends on ``command``."""

    command: Literal[
        "load",
        "transcribe",
        "restart",
        "unload",
        "renew",
        "state",
        "trim",
        "memory_needs",
        "measure_ceiling",
        "exit",
    ]
    label: str  # which model is loaded, transcribes, restarts or is unloaded; left out where there is one
    load: LoadOptions
    audio: str  # a WAV file's path
    prompt: str  # or a text, of backends that take that
    asks_server: bool  # beside "state": whether who holds the models is asked, as without this
    on_copy: bool  # beside "trim": on a copy of the worker, not on itself
    clip_s: float  # beside "load": memory_needs loads, asks and unloads
    ceiling: CeilingOptions


class _Needed(TypedDict):
    model: str
    threads: int
    max_new_tokens: int


class LoadOptions(_Needed, total=False):
    """How to load a model; what is left out, or None, is the library's to decide."""

    context: int | None
    language: str | None  # its name, as Chinese
    language_code: str | None  # of the same, as zh
    preload: bool
    lock: bool


class CeilingOptions(TypedDict):
    """What the processor is to be measured for: "read", "int8", "bf16" or "f32"."""

    kind: str
    threads: int
    slices: int
    slice_ms: float


class Error(TypedDict):
    """The command failed and the worker is still there."""

    error: str
    malloc: Malloc | None


class _Capabilities(TypedDict):
    streams: bool  # each token of the text is handed over as it is made
    loads: bool  # models stay loaded from a load to an unload; else each transcription loads anew
    restarts: bool  # a model can forget what it transcribed without being loaded again
    forces_language: bool
    runs_processes: bool  # others than the worker hold models, now and then or always


class Capabilities(_Capabilities, total=False):
    """What a backend can do, and what it takes and gives."""

    takes: Literal["audio", "text"]  # audio where it does not say
    gives: Literal["text", "embedding"]  # text where it does not say
    keeps: bool  # models that were asked for stay in a server, which is not told to load or unload them
    renews: bool  # what holds the models can be started anew: a server


class Hello(TypedDict):
    """The worker is ready."""

    pid: int
    malloc: Malloc | None
    capabilities: Capabilities


class State(TypedDict):
    """Which processes besides the worker hold models now, and which models; None where that is not known.

    A text among the processes is the directory of a control group, whose processes are meant.
    """

    processes: list[int | str]
    resident: list[str] | None
    malloc: Malloc | None


class Done(TypedDict):
    """A model was loaded, restarted or unloaded, or a server renewed, between these two times."""

    started_ns: int
    ended_ns: int
    malloc: Malloc | None


class MemoryNeeds(TypedDict):
    """The library's own prediction of its anonymous memory in bytes; the parts are not all there at once."""

    loaded: int
    clip: int
    encoder: int
    decoder: int
    kv_cache: int
    peak: int


class CeilingMeasured(TypedDict):
    """Bytes or operations a second of each slice, and the instructions that it was measured with."""

    isa: str
    rates: list[float]


class _Transcribed(TypedDict):
    submitted_ns: int
    returned_ns: int
    pieces: list[tuple[int, str]]
    statistics: list[str]
    malloc: Malloc | None


class Transcribed(_Transcribed, total=False):
    """A clip was transcribed, or a prompt answered.

    ``pieces``: when each text callback came, and the characters it completed.

    The rest is of backends that run processes, as in their ``Transcription``.
    """

    peak_rss_bytes: int
    reported: dict[str, float]
    left_behind: list[str]


class Trimmed(TypedDict):
    """malloc gave back what it could, in the worker or in a copy of it.

    All but the times and ``malloc``, the worker's own heap afterwards, is of the one that was trimmed, and
    None when that failed.
    """

    anonymous_before_bytes: int | None
    anonymous_bytes: int | None
    trimmed: Malloc | None
    started_ns: int
    ended_ns: int
    failure: str | None
    malloc: Malloc | None
