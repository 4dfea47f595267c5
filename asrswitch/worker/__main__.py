"""Holds the models, takes commands, answers.

``python -m asrswitch.worker LIBRARY``, or ``python -m asrswitch.worker --backend NAME CONFIGURATION``, which
is a JSON object.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from asrswitch import native
from asrswitch.worker.backends import DEFAULT, Backend, BackendError, make_backend
from asrswitch.worker.heap import Heap
from asrswitch.worker.protocol import (
    CeilingMeasured,
    Command,
    Done,
    Error,
    Hello,
    Malloc,
    MemoryNeeds,
    State,
    Transcribed,
    Trimmed,
)


def main(words: Sequence[str]) -> int:
    """Serve until told to exit or until the runner is gone; ``words`` are those of the command line."""
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
        if words[0] == "--backend":
            backend = make_backend(words[1], json.loads(words[2]))
        else:
            backend = make_backend(DEFAULT, {"library": words[0]})
    except BackendError as error:
        fail(str(error), None)
        return 1
    heap = Heap(process)
    hello: Hello = {"pid": os.getpid(), "malloc": heap.read(), "capabilities": backend.capabilities}
    reply(hello)
    with os.fdopen(commands, "rb") as lines:
        for line in lines:
            command: Command = json.loads(line)
            if command["command"] == "exit":
                return 0
            try:
                reply(_answer(backend, command, heap))
            except BackendError as error:
                fail(str(error), heap.read())
            except MemoryError:
                fail("out of memory in the worker's own code", None)
    return 0


def _answer(
    backend: Backend, command: Command, heap: Heap
) -> Done | Transcribed | State | Trimmed | MemoryNeeds | CeilingMeasured:
    if command["command"] == "trim":
        return heap.trim(command["on_copy"])
    label = command.get("label", "")
    if command["command"] in ("memory_needs", "measure_ceiling"):
        return _answer_special(backend, command, label)
    if command["command"] == "state":
        resident = backend.resident() if command.get("asks_server", True) else None
        return {
            "processes": [*backend.processes()],
            "resident": None if resident is None else [*resident],
            "malloc": heap.read(),
        }
    if command["command"] == "transcribe":
        given = command["prompt"] if "prompt" in command else command["audio"]
        result = backend.infer(label, given)
        answer: Transcribed = {
            "submitted_ns": result.submitted_ns,
            "returned_ns": result.returned_ns,
            "pieces": result.pieces,
            "statistics": result.statistics,
            "malloc": heap.read(),
        }
        if result.peak_rss_bytes is not None:
            answer["peak_rss_bytes"] = result.peak_rss_bytes
        if result.reported is not None:
            answer["reported"] = {**result.reported}
        if result.left_behind:
            answer["left_behind"] = [*result.left_behind]
        return answer
    if command["command"] == "load":
        started_ns, ended_ns = backend.load(label, command["load"])
    elif command["command"] == "restart":
        started_ns, ended_ns = backend.restart(label)
    elif command["command"] == "renew":
        started_ns, ended_ns = backend.renew()
    else:
        started_ns, ended_ns = backend.unload(label)
    return {"started_ns": started_ns, "ended_ns": ended_ns, "malloc": heap.read()}


def _answer_special(backend: Backend, command: Command, label: str) -> MemoryNeeds | CeilingMeasured:
    """What libraries with chatllm.cpp's interface may know besides."""
    from asrswitch.worker.backends.chatllm import Models

    if not isinstance(backend, Models):
        raise BackendError("this backend does not predict its memory, and measures no ceilings")
    if command["command"] == "measure_ceiling":
        return backend.measure_ceiling(label, command["ceiling"])
    return backend.memory_needs(label, command["load"], command["clip_s"])


def _take_over_pipes() -> tuple[int, int]:
    """Move the protocol off descriptors 0 and 1: whatever the library prints goes to the log (2)."""
    commands, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return commands, replies


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
