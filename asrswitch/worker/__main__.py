"""``python -m asrswitch.worker LIBRARY``: holds the models, takes commands, answers."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from asrswitch import native
from asrswitch.worker.backends.chatllm import BackendError, ChatllmBackend
from asrswitch.worker.protocol import (
    CeilingMeasured,
    Command,
    Done,
    Error,
    Hello,
    Malloc,
    MemoryNeeds,
    Transcribed,
)

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(library: str) -> int:
    """Serve until told to exit or until the runner is gone."""
    process = native.open_process()
    process.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    commands, replies = _take_over_pipes()

    def reply(message: Any) -> None:
        line = memoryview(json.dumps(message).encode() + b"\n")
        while line:
            line = line[os.write(replies, line) :]

    def fail(message: str, malloc: Malloc | None) -> None:
        error: Error = {"error": message, "malloc": malloc}
        reply(error)

    try:
        backend = ChatllmBackend(library)
    except OSError as error:
        say = f"{library}: not a library with chatllm.cpp's C interface ({error})"
        say += "; name another by --library, or build ours by `pip install .`"
        fail(say, None)
        return 1
    malloc = _malloc_reader(process)
    hello: Hello = {"pid": os.getpid(), "malloc": malloc()}
    reply(hello)
    with os.fdopen(commands, "rb") as lines:
        for line in lines:
            command: Command = json.loads(line)
            if command["command"] == "exit":
                return 0
            try:
                reply(_answer(backend, command, malloc))
            except BackendError as error:
                fail(str(error), malloc())
    return 0


def _answer(
    backend: ChatllmBackend, command: Command, malloc: Callable[[], Malloc | None]
) -> Done | Transcribed | MemoryNeeds | CeilingMeasured:
    if command["command"] == "measure_ceiling":
        return backend.measure_ceiling(command["ceiling"])
    if command["command"] == "memory_needs":
        return backend.memory_needs(command["load"], command["clip_s"])
    if command["command"] == "transcribe":
        result = backend.transcribe(command["audio"])
        return {
            "submitted_ns": result.submitted_ns,
            "returned_ns": result.returned_ns,
            "pieces": result.pieces,
            "statistics": result.statistics,
            "malloc": malloc(),
        }
    if command["command"] == "load":
        started_ns, ended_ns = backend.load(command["load"])
    elif command["command"] == "restart":
        started_ns, ended_ns = backend.restart()
    else:
        started_ns, ended_ns = backend.unload()
    return {"started_ns": started_ns, "ended_ns": ended_ns, "malloc": malloc()}


def _take_over_pipes() -> tuple[int, int]:
    """Move the protocol off descriptors 0 and 1: whatever the library prints goes to the log (2)."""
    commands, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return commands, replies


def _malloc_reader(process: Any) -> Callable[[], Malloc | None]:
    if not hasattr(process, "mallinfo2"):  # musl, or glibc before 2.33
        return lambda: None

    def read() -> Malloc:
        gc.collect()
        info = process.mallinfo2()
        return {
            "held_bytes": info.uordblks + info.hblkhd,
            "kept_bytes": info.fordblks,
            "arena_bytes": info.arena,
            "mapped_chunks": info.hblks,
        }

    return read


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
