"""`python try_each.py LIBRARY`: loads models and transcribes clips, each in a process of its own.

Reads one JSON list of words per line: the model, and a clip or null. Writes one JSON object per line: the
status of start and of the input (null when there was none), the error lines, by how many bytes the process's
resident and address space grew at their peaks, and the signal that ended it, if one did. Standard library
only, so that forks are cheap.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

_ERROR = 2
_SECONDS = 20
_Print = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)


def main() -> None:
    library = ctypes.CDLL(sys.argv[1])
    library.chatllm_create.restype = ctypes.c_void_p
    library.chatllm_append_param.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.chatllm_start.argtypes = [ctypes.c_void_p, _Print, ctypes.c_void_p, ctypes.c_void_p]
    library.chatllm_user_input.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.chatllm_destroy.argtypes = [ctypes.c_void_p]
    for line in sys.stdin:
        model, clip = json.loads(line)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(_SECONDS)  # a hang ends by a signal
            os.write(write, json.dumps(run(library, model, clip)).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            answer: dict[str, Any] = json.loads(pipe.read() or "{}")
        status = os.waitpid(child, 0)[1]
        answer["signal"] = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        print(json.dumps(answer), flush=True)


def run(library: Any, model: str, clip: str | None) -> dict[str, Any]:
    errors: list[str] = []

    @_Print  # type: ignore[untyped-decorator]
    def listen(_: Any, kind: int, text: bytes) -> None:
        if kind == _ERROR:
            errors.append(text.decode("utf-8", "backslashreplace"))

    before = memory()
    obj = library.chatllm_create()
    for word in ("-m", model, "-n", "1", "--max_new_tokens", "4"):
        library.chatllm_append_param(obj, os.fsencode(word))
    start = library.chatllm_start(obj, listen, None, None)
    given = None if clip is None else library.chatllm_user_input(obj, os.fsencode("{{audio:" + clip + "}}"))
    destroyed = library.chatllm_destroy(obj)
    after = memory()
    return {
        "start": start,
        "input": given,
        "destroy": destroyed,
        "errors": errors,
        "resident_growth": after["VmHWM"] - before["VmRSS"],
        "address_growth": after["VmPeak"] - before["VmSize"],
    }


def memory() -> dict[str, int]:
    """The sizes in /proc/self/status, in bytes."""
    with Path("/proc/self/status").open() as lines:
        fields = (line.split() for line in lines)
        return {words[0][:-1]: int(words[1]) * 1024 for words in fields if words[-1] == "kB"}


if __name__ == "__main__":
    main()
