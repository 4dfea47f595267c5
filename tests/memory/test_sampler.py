from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrswitch.memory.sampler import Sampler, parse_statm
from support import wait_for

MIB = 1 << 20
PAGE = 4096

# Holds 32 MiB more at the first line it is sent, and no longer at the second.
CHILD = """
import mmap
print(flush=True)
input()
held = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE)
for page in range(0, 32 << 20, 4096):
    held[page] = 1
print(flush=True)
input()
held.close()
print(flush=True)
input()
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def step(process: subprocess.Popen[str]) -> None:
    assert process.stdin and process.stdout
    print(file=process.stdin, flush=True)
    process.stdout.readline()
    time.sleep(0.1)


def sampler_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sampler"]


def test_samples_follow_the_process(child: subprocess.Popen[str]) -> None:
    origin = time.monotonic_ns()
    sampler = Sampler(child.pid, 100, origin)
    time.sleep(0.1)
    step(child)
    step(child)
    samples = sampler.take()
    sampler.close()
    low, high = samples.anonymous_bytes[0], max(samples.anonymous_bytes)
    assert 31 * MIB <= high - low <= 33 * MIB
    assert abs(samples.anonymous_bytes[-1] - low) < MIB
    assert min(samples.file_bytes) > MIB  # the interpreter's own
    assert samples.ms[0] >= 0 and samples.ms[-1] <= (time.monotonic_ns() - origin) / 1e6
    assert all(before < after for before, after in itertools.pairwise(samples.ms))
    assert samples.cpu_ms > 0


def test_what_repeats_is_counted_and_left_out(child: subprocess.Popen[str]) -> None:
    began = time.monotonic()
    sampler = Sampler(child.pid, 200, time.monotonic_ns())
    time.sleep(0.3)
    first = sampler.take()
    elapsed_s = time.monotonic() - began
    time.sleep(0.2)
    second = sampler.take()
    sampler.close()
    assert 10 <= first.count <= elapsed_s * 200 + 1
    assert len(first.ms) < 4  # an interpreter that waits
    assert len(second.ms) == len(second.anonymous_bytes) == len(second.file_bytes) == 1
    assert second.count > 5
    assert first.anonymous_bytes[-1:] == second.anonymous_bytes


def test_nothing_is_sampled_that_was_not_asked_for(child: subprocess.Popen[str]) -> None:
    sampler = Sampler(child.pid, 0, time.monotonic_ns())
    assert not sampler_threads()
    assert (sampler.take().count, sampler.take().cpu_ms) == (0, 0)
    sampler.close()


@pytest.mark.parametrize("reap", [False, True])
def test_the_sampler_survives_its_process(child: subprocess.Popen[str], reap: bool) -> None:
    sampler = Sampler(child.pid, 100, time.monotonic_ns())
    wait_for(lambda: sampler.take().count > 0)
    child.kill()
    if reap:
        child.wait()
    wait_for(lambda: not sampler_threads())  # it ended by itself
    sampler.take()
    assert sampler.take().count == 0
    sampler.close()
    sampler.close()


def test_a_process_that_is_gone_has_no_samples() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    sampler = Sampler(child.pid, 100, time.monotonic_ns())
    assert not sampler_threads()
    assert sampler.take().count == 0
    sampler.close()


def test_signals_are_left_to_the_main_thread(child: subprocess.Popen[str]) -> None:
    sampler = Sampler(child.pid, 100, time.monotonic_ns())
    wait_for(lambda: sampler.take().count > 0)
    (thread,) = sampler_threads()
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    sampler.close()
    (mask,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigBlk:"))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        assert mask >> (number - 1) & 1


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(1, 1 << 40))
def test_statm_is_split(size: int, shared: int, anonymous: int) -> None:
    line = f"{size} {shared + anonymous} {shared} 1 0 61393 0\n".encode()
    assert parse_statm(line) == (anonymous * PAGE, shared * PAGE)


@given(st.binary(max_size=256))
def test_no_bytes_upset_the_parser(line: bytes) -> None:
    sample = parse_statm(line)
    assert sample is None or min(sample) >= 0


def test_a_zombie_has_no_memory() -> None:
    assert parse_statm(b"0 0 0 0 0 0 0\n") is None
