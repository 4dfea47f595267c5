"""Memory between two readings: a thread that samples another process a few times a second.

It reads ``statm`` (proc(5)): one short line that the kernel gives without a lock that the process might wait
for; what ``status`` tells costs five times as much, and ``smaps_rollup`` holds the process's memory map.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LONGEST_LINE = 256


class Samples(msgspec.Struct, frozen=True):
    """Samples since the last were taken away. One that repeats the one before it is counted and left out."""

    ms: tuple[float, ...]  # since the sampler's origin
    anonymous_bytes: tuple[int, ...]
    file_bytes: tuple[int, ...]  # mapped files and shared memory; RSS is the sum of both
    count: int  # with those left out
    cpu_ms: float  # that the sampling took of this process


class Sampler:
    """Samples one process until that ends or ``close`` is called; call it from one other thread only."""

    def __init__(
        self,
        pid: int,
        hz: float,
        origin_ns: int,
        proc: Path = Path("/proc"),
        others: Callable[[], Iterable[int]] | None = None,
    ) -> None:
        """Start; ``hz`` 0 is never. ``origin_ns`` is of ``time.monotonic_ns()``.

        ``others`` tells at each sample which processes are to be added to it.
        """
        self._proc = proc
        self._others = others
        self._origin_ns = origin_ns
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._kept: list[tuple[float, int, int]] = []
        self._count = 0
        self._cpu_ns = 0  # of the thread so far
        self._taken_cpu_ns = 0
        self._thread: threading.Thread | None = None
        if hz > 0:
            with contextlib.suppress(OSError):  # a process that is gone has no samples
                # Kept open, it stays this process's also when the number is used again.
                statm = os.open(proc / str(pid) / "statm", os.O_RDONLY | os.O_CLOEXEC)
                self._thread = threading.Thread(
                    target=self._run, args=(statm, 1 / hz), name="sampler", daemon=True
                )
                self._thread.start()

    def take(self) -> Samples:
        """What came since the last call."""
        with self._lock:
            kept, self._kept = self._kept, []
            count, self._count = self._count, 0
            cpu_ns, self._taken_cpu_ns = self._cpu_ns - self._taken_cpu_ns, self._cpu_ns
        return Samples(
            ms=tuple(ms for ms, _, _ in kept),
            anonymous_bytes=tuple(anonymous for _, anonymous, _ in kept),
            file_bytes=tuple(file for _, _, file in kept),
            count=count,
            cpu_ms=round(cpu_ns / 1e6, 3),
        )

    def close(self) -> None:
        """End the thread; what it has is still there to be taken. A second call does nothing."""
        self._stop.set()
        if self._thread:
            self._thread.join()

    def _run(self, statm: int, period_s: float) -> None:
        # Signals are the main thread's: one that the kernel gave to this thread would not wake it.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        due = time.monotonic()
        try:
            while not self._stop.is_set():
                own = parse_statm(os.pread(statm, _LONGEST_LINE, 0))
                if own is None:
                    return
                self._keep(*self._with_others(*own))
                # A sample that could not be made in time is left out, not made up for.
                due = max(due + period_s, time.monotonic())
                self._stop.wait(due - time.monotonic())
        except OSError:  # the process was waited for
            return
        finally:
            os.close(statm)

    def _with_others(self, anonymous: int, file: int) -> tuple[int, int]:
        for pid in self._others() if self._others else ():
            more = sample(pid, self._proc)
            anonymous, file = anonymous + more[0], file + more[1]
        return anonymous, file

    def _keep(self, anonymous: int, file: int) -> None:
        ms = round((time.monotonic_ns() - self._origin_ns) / 1e6, 1)
        with self._lock:
            if not self._kept or self._kept[-1][1:] != (anonymous, file):
                self._kept.append((ms, anonymous, file))
            self._count += 1
            self._cpu_ns = time.thread_time_ns()


def sample(pid: int, proc: Path = Path("/proc")) -> tuple[int, int]:
    """Anonymous and other resident bytes of a process; none where it is gone."""
    with contextlib.suppress(OSError):
        return parse_statm((proc / str(pid) / "statm").read_bytes()) or (0, 0)
    return 0, 0


def parse_statm(line: bytes) -> tuple[int, int] | None:
    """Anonymous and other resident bytes of a ``statm`` line; None when the process has none any more."""
    words = line.split()
    if len(words) < 3 or not all(word.isdigit() for word in words[1:3]):
        return None
    resident, shared = int(words[1]), int(words[2])
    if resident == 0:  # a zombie
        return None
    return max(resident - shared, 0) * _PAGE_BYTES, shared * _PAGE_BYTES
