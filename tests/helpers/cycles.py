"""`python cycles.py LIBRARY N MODEL_A MODEL_B CLIP`: N cycles of load, transcribe, unload, models in turn.

Writes one JSON object per cycle, read after the unload: bytes that malloc's callers hold, anonymous memory,
mappings, threads, open files; and the bytes of text that came.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from asrswitch.native import PRINT_ERROR, PRINT_TEXT, ffi, open_library, open_process


def main(library_path: str, n_cycles: int, models: list[str], clip: str) -> None:
    library, process = open_library(library_path), open_process()
    text_bytes = 0

    @ffi.callback("f_chatllm_print")  # type: ignore[untyped-decorator]
    def listen(_: Any, kind: int, text: Any) -> None:
        nonlocal text_bytes
        if kind == PRINT_TEXT:
            text_bytes += len(ffi.string(text))
        elif kind == PRINT_ERROR:
            sys.stderr.write(ffi.string(text).decode() + "\n")

    # Lines of one length that are there from the beginning, so that keeping the readings takes no memory.
    lines = [b" " * 200] * n_cycles
    for cycle in range(n_cycles):
        text_bytes = 0
        obj = library.chatllm_create()
        for word in ("-m", models[cycle % 2], "-n", "2", "--max_new_tokens", "32"):
            library.chatllm_append_param(obj, os.fsencode(word))
        done = library.chatllm_start(obj, listen, ffi.NULL, ffi.NULL) == 0
        done = done and library.chatllm_user_input(obj, os.fsencode("{{audio:" + clip + "}}")) == 0
        done = library.chatllm_destroy(obj) == 0 and done
        if not done:
            sys.exit(1)
        gc.collect()
        lines[cycle] = json.dumps({**reading(process), "text_bytes": text_bytes}).encode().ljust(200)
    for line in lines:
        print(line.decode().strip())


def reading(process: Any) -> dict[str, int]:
    heap = process.mallinfo2()
    n_threads = threads()
    rollup = Path("/proc/self/smaps_rollup").read_text()
    (anonymous,) = (line.split()[1] for line in rollup.splitlines() if line.startswith("Anonymous:"))
    return {
        "held_bytes": heap.uordblks + heap.hblkhd,
        "anonymous_bytes": int(anonymous) * 1024,
        "mappings": len(Path("/proc/self/maps").read_text().splitlines()),
        "threads": n_threads,
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
    }


def threads() -> int:
    """The process's threads; the system may list one for a moment after it was joined."""
    for _ in range(1000):
        if len(list(Path("/proc/self/task").iterdir())) == 1:
            break
        time.sleep(0.001)
    return len(list(Path("/proc/self/task").iterdir()))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:5], sys.argv[5])
