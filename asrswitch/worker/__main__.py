"""``python -m asrswitch.worker LIBRARY``: holds the models, takes commands, answers."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from asrswitch import native
from asrswitch.worker.backends.chatllm import BackendError, Models
from asrswitch.worker.heap import Heap
from asrswitch.worker.protocol import (
    CeilingMeasured,
    Command,
    Done,
    Error,
    Hello,
    Malloc,
    MemoryNeeds,
    Transcribed,
    Trimmed,
)


def main(library: str) -> int:
    """Serve until told to exit or until the runner is gone."""
    process = native.open_process()
    native.die_with_parent(process)
    commands, replies = _take_over_pipes()

    def reply(message: Any) -> None:
        line = memoryview(json.dumps(message).encode() + b"\n")
        while line:
            line = line[os.write(replies, line) :]

    def fail(message: str, malloc: Malloc | None) -> None:
        error: Error = {"error": message, "malloc": malloc}
        reply(error)

    try:
        models = Models(library)
    except OSError as error:
        say = f"{library}: not a library with chatllm.cpp's C interface ({error})"
        say += "; name another by --library, or build ours by `pip install .`"
        fail(say, None)
        return 1
    heap = Heap(process)
    hello: Hello = {"pid": os.getpid(), "malloc": heap.read()}
    reply(hello)
    with os.fdopen(commands, "rb") as lines:
        for line in lines:
            command: Command = json.loads(line)
            if command["command"] == "exit":
                return 0
            try:
                reply(_answer(models, command, heap))
            except BackendError as error:
                fail(str(error), heap.read())
            except MemoryError:
                fail("out of memory in the worker's own code", None)
    return 0


def _answer(
    models: Models, command: Command, heap: Heap
) -> Done | Transcribed | Trimmed | MemoryNeeds | CeilingMeasured:
    if command["command"] == "trim":
        return heap.trim(command["on_copy"])
    backend = models.of(command.get("label", ""))
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
            "malloc": heap.read(),
        }
    if command["command"] == "load":
        started_ns, ended_ns = backend.load(command["load"])
    elif command["command"] == "restart":
        started_ns, ended_ns = backend.restart()
    else:
        started_ns, ended_ns = backend.unload()
    return {"started_ns": started_ns, "ended_ns": ended_ns, "malloc": heap.read()}


def _take_over_pipes() -> tuple[int, int]:
    """Move the protocol off descriptors 0 and 1: whatever the library prints goes to the log (2)."""
    commands, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return commands, replies


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
