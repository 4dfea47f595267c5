"""The machine's lock with real processes, and the wait for a clean slate."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrswitch.memory.guard import (
    SERVER_STILL_S,
    ConcurrentError,
    MachineLock,
    is_mapped,
    other_workers,
    settle,
)
from support import ROOT

HOLD = """
import sys, time
from pathlib import Path
from asrswitch.memory.guard import MachineLock
with MachineLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(directory: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def test_the_second_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with pytest.raises(ConcurrentError) as caught, MachineLock(tmp_path):
            pass
        process.kill()
    message = str(caught.value)
    assert f"process {process.pid} is measuring" in message and "--allow-concurrent" in message
    assert len(message.splitlines()) == 1


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()
    with MachineLock(tmp_path):
        pass


def test_the_lock_can_be_taken_again_and_again(tmp_path: Path) -> None:
    for _ in range(3):
        with MachineLock(tmp_path):
            pass


def test_a_link_in_the_locks_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "asrswitch.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConcurrentError, match="cannot be locked"), MachineLock(tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()


def process_named(proc: Path, pid: int, *words: str) -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in words))


def test_workers_of_others_are_found_by_their_command_lines(tmp_path: Path) -> None:
    process_named(tmp_path, 10, "python", "-m", "asrswitch.worker", "lib.so")
    process_named(tmp_path, 11, "python", "-m", "asrswitch.worker", "lib.so")
    process_named(tmp_path, 12, "python", "-m", "asrswitch", "--iters", "1")
    process_named(tmp_path, 13)  # a thread of the kernel
    (tmp_path / "14").mkdir()  # gone, or hidden
    (tmp_path / "sys").mkdir()
    assert other_workers(frozenset({10}), tmp_path) == [11]
    assert other_workers(frozenset(), tmp_path) == [10, 11]


def test_a_mapped_file_is_found_whatever_its_name(tmp_path: Path) -> None:
    for name in ("model.bin", "a model.bin", "(deleted)"):
        path = tmp_path / name
        path.write_bytes(b"x" * 4096)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
            assert is_mapped(os.getpid(), str(path))
            path.rename(tmp_path / "other")
            assert not is_mapped(os.getpid(), str(path))
            (tmp_path / "other").rename(path)
            path.unlink()
            assert is_mapped(os.getpid(), str(path))
        assert not is_mapped(os.getpid(), str(path))
    assert not is_mapped(os.getpid(), "model.bin")  # a part of a name is not the file


def test_a_mapping_of_a_file_in_a_directory_is_found_through_links(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / "1234"
    snapshot = tmp_path / "snapshots" / "main"
    for directory in (blob.parent, snapshot / "empty"):
        directory.mkdir(parents=True)
    blob.write_bytes(b"x" * 4096)
    (snapshot / "weights").symlink_to(blob)
    assert not is_mapped(os.getpid(), str(snapshot))
    with blob.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        assert is_mapped(os.getpid(), str(snapshot)) and is_mapped(os.getpid(), str(tmp_path))
        assert not is_mapped(os.getpid(), str(snapshot / "empty"))


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@given(
    st.lists(st.integers(0, 1 << 40), min_size=1, max_size=3000),
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 30),
)
def test_settling_ends_and_tells_what_the_last_look_saw(
    readings: list[int], baseline: int, tolerance: int
) -> None:
    clock = Clock()
    seen: list[int] = []

    def read() -> int:
        seen.append(readings[min(len(seen), len(readings) - 1)])
        return seen[-1]

    slate = settle(read, baseline, tolerance, clock, clock.sleep)
    assert slate.excess_bytes == seen[-1] - baseline
    assert slate.back == (slate.excess_bytes <= tolerance)
    assert all(value - baseline > tolerance for value in seen[:-1])
    assert slate.settle_ms <= 2010


def test_memory_that_sinks_is_waited_for_and_memory_that_stays_is_not() -> None:
    clock = Clock()
    values = iter([90, 80, 70, 60, 50, 40, 30, 20, 10, 5])
    slate = settle(lambda: next(values), 0, 5, clock, clock.sleep)
    assert slate.back and slate.settle_ms == pytest.approx(18)
    slate = settle(lambda: 90, 0, 5, clock, clock.sleep)
    assert not slate.back and slate.excess_bytes == 90 and slate.settle_ms == pytest.approx(10)


def test_of_a_server_more_patience_is_asked() -> None:
    clock = Clock()

    def read() -> int:
        return 0 if clock() > 0.1 else 90

    assert not settle(read, 0, 5, clock, clock.sleep).back
    clock = Clock()
    slate = settle(read, 0, 5, clock, clock.sleep, still_s=SERVER_STILL_S)
    assert slate.back and 100 <= slate.settle_ms < 110
