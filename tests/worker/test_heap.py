from __future__ import annotations

import errno
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asrswitch import native
from asrswitch.memory.probe import MemoryProbe
from asrswitch.worker.heap import Heap
from helpers.commands import load
from support import ROOT, alive, wait_for

MIB = 1 << 20
RETAINED = 16 * MIB


class Worker:
    """A worker that is spoken to line by line."""

    def __init__(self, library: Path) -> None:
        words = [sys.executable, "-m", "asrswitch.worker", str(library)]
        self.process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.hello = self._answer()
        self.probe = MemoryProbe(self.process.pid)

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        answer = json.loads(self.process.stdout.readline())
        assert isinstance(answer, dict)
        return answer


@pytest.fixture
def worker(fake_library: Path) -> Iterator[Worker]:
    worker = Worker(fake_library)
    yield worker
    worker.process.kill()
    worker.process.communicate()


@pytest.fixture
def retaining(worker: Worker, script: Callable[..., str]) -> Worker:
    """A worker whose malloc keeps back 16 MiB of an unloaded model, after some cycles of it."""
    model = script("a", text="x", retain=RETAINED >> 10)
    for _ in range(3):
        for command in (load(model), {"command": "transcribe", "audio": "/a.wav"}, {"command": "unload"}):
            worker.ask(command)
        worker.ask({"command": "trim", "on_copy": True})  # the interpreter's own first use of it
    return worker


def children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


def test_a_copy_tells_what_a_trim_would_give_back_and_the_worker_keeps_it(retaining: Worker) -> None:
    unloaded = retaining.ask({"command": "trim", "on_copy": True})["malloc"]
    before = retaining.probe.read()
    for _ in range(5):
        reply = retaining.ask({"command": "trim", "on_copy": True})
        assert reply["failure"] is None
        assert reply["started_ns"] < reply["ended_ns"]
        given_back = reply["anonymous_before_bytes"] - reply["anonymous_bytes"]
        assert RETAINED <= given_back < RETAINED + 4 * MIB
        assert abs(reply["trimmed"]["held_bytes"] - unloaded["held_bytes"]) < 4096
        after = retaining.probe.read()
        assert abs(reply["anonymous_before_bytes"] - after.anonymous_bytes) < MIB
        assert abs(after.anonymous_bytes - before.anonymous_bytes) <= 64 * 1024
        for figure in ("held_bytes", "kept_bytes"):
            assert abs(reply["malloc"][figure] - unloaded[figure]) < 4096
        assert reply["malloc"]["arena_bytes"] == unloaded["arena_bytes"]
        assert (after.threads, after.descriptors, after.mappings) == (
            before.threads,
            before.descriptors,
            before.mappings,
        )
        assert children(retaining.process.pid) == ""


def test_a_copy_leaves_no_faults_for_the_next_phase(worker: Worker, script: Callable[..., str]) -> None:
    """Cycles that write to the same 16 MiB again and again fault as little after a copy as without one."""
    if tuple(int(number) for number in platform.release().split(".")[:2]) < (5, 14):
        pytest.skip("Linux before 5.14 has no MADV_POPULATE_WRITE: the faults stay with the next phase")
    model = script("a", text="x", retain=RETAINED >> 10)
    faults: dict[bool, list[int]] = {False: [], True: []}
    for cycle in range(12):
        copied = cycle % 2 == 1  # once the pages are there
        if copied:
            reply = worker.ask({"command": "trim", "on_copy": True})
            assert reply["anonymous_before_bytes"] - reply["anonymous_bytes"] >= RETAINED
        worker.probe.read()
        worker.ask(load(model))
        minor = worker.probe.read().minor_faults
        assert minor is not None
        faults[copied].append(minor)
        worker.ask({"command": "unload"})
    pages = RETAINED // os.sysconf("SC_PAGE_SIZE")
    # The first load of all; the little that the heap had free from the interpreter's start is there already.
    assert faults[False][0] >= pages * 9 // 10
    assert max(faults[True][1:]) - max(faults[False][1:]) < pages // 40, faults


def test_a_trim_of_the_worker_itself_gives_it_back(retaining: Worker) -> None:
    before = retaining.probe.read()
    reply = retaining.ask({"command": "trim", "on_copy": False})
    after = retaining.probe.read()
    assert reply["failure"] is None
    assert before.anonymous_bytes - after.anonymous_bytes >= RETAINED
    assert abs(reply["anonymous_bytes"] - after.anonymous_bytes) < MIB
    again = retaining.ask({"command": "trim", "on_copy": True})
    assert again["anonymous_before_bytes"] - again["anonymous_bytes"] < MIB  # there is nothing left


class Process:
    """The C library's symbols with another malloc_trim."""

    def __init__(self, malloc_trim: Callable[[int], object]) -> None:
        process = native.open_process()
        self.malloc_trim = malloc_trim
        self.mallinfo2 = process.mallinfo2
        self.prctl = process.prctl
        self.madvise = process.madvise


def no_child_is_left() -> bool:
    return children(os.getpid()) == ""


@pytest.mark.parametrize(
    ("malloc_trim", "says"),
    [
        (lambda _: time.sleep(60), "the copy gave no figures within 0.2 s and was killed"),
        (
            lambda _: signal.raise_signal(signal.SIGKILL),
            "the copy was killed by SIGKILL and gave no figures",
        ),
        (lambda _: 1 / 0, "the copy ended with exit code 1 and gave no figures"),
    ],
)
def test_a_copy_that_fails_is_a_reason_and_not_the_end(
    malloc_trim: Callable[[int], object], says: str
) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    started = time.monotonic()
    reply = Heap(Process(malloc_trim)).trim(on_copy=True, limit_s=0.2)
    assert time.monotonic() - started < 10
    assert reply["failure"] == says
    assert reply["anonymous_before_bytes"] is reply["anonymous_bytes"] is reply["trimmed"] is None
    assert reply["malloc"] is not None  # the worker's own heap can still be read
    assert no_child_is_left()
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208


def test_a_worker_that_cannot_be_copied_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(os, "fork", fork)
    reply = Heap(native.open_process()).trim(on_copy=True)
    assert reply["failure"] == "the worker cannot be copied (Cannot allocate memory)"


@pytest.mark.parametrize("on_copy", [False, True])
def test_another_c_library_has_no_trim(on_copy: bool) -> None:
    heap = Heap(object())
    reply = heap.trim(on_copy)
    assert reply["failure"] == "the C library has no malloc_trim"
    assert reply["malloc"] is heap.read() is None


# Three threads that are in malloc nearly always, as a library's may be, while the process is copied.
BUSY = """
import ctypes, sys, threading
from asrswitch import native
from asrswitch.worker.heap import Heap
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def work():
    while True:
        for block in [libc.malloc(100 + 50 * i) for i in range(100)]:
            libc.free(block)
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
heap = Heap(native.open_process())
print([heap.trim(on_copy=True)["failure"] for _ in range(100)].count(None), flush=True)
"""


@pytest.mark.slow
def test_a_copy_made_while_threads_allocate_answers() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUSY], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == ("100\n", 0), done.stderr


def test_a_copy_does_not_outlive_its_worker(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = (
        "import os, pathlib, time\n"
        "from asrswitch import native\n"
        "from asrswitch.worker.heap import Heap\n"
        "class Process:\n"
        "    mallinfo2, prctl = native.open_process().mallinfo2, native.open_process().prctl\n"
        "    def malloc_trim(self, pad):\n"
        f"        pathlib.Path({str(pid)!r}).write_text(str(os.getpid()) + '\\n')\n"
        "        time.sleep(60)\n"
        "Heap(Process()).trim(on_copy=True)\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    wait_for(lambda: pid.exists() and pid.read_text().endswith("\n"))
    copy = int(pid.read_text())
    assert alive(copy)
    worker.kill()
    worker.wait()
    wait_for(lambda: not alive(copy))
