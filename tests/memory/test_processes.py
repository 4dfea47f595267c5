"""Readings of several real processes at once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asrswitch.memory.probe import MemoryProbe, ProcessGoneError
from asrswitch.memory.processes import ProcessesProbe
from asrswitch.memory.sampler import Sampler
from asrswitch.native.processes import began_at, descendants, members, name_of, state_of
from support import alive, wait_for

MIB = 1 << 20
# Holds so many MiB, starts a child of the next number, tells its id, and waits for a line.
NESTED = """
import subprocess, sys
held = bytearray(int(sys.argv[1]) << 20)
held[::4096] = b"x" * len(held[::4096])
below = []
if sys.argv[2:]:
    words = [sys.executable, "-S", __file__, *sys.argv[2:]]
    below = [subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)]
    print(below[0].pid, below[0].stdout.readline().decode().strip(), flush=True)
else:
    print(flush=True)
sys.stdin.readline()
"""


Nested = Callable[..., tuple[subprocess.Popen[str], list[int]]]


@pytest.fixture
def nested(tmp_path: Path) -> Iterator[Nested]:
    """Processes below each other, holding so many MiB: the first, and the ids of the others."""
    source = tmp_path / "nested.py"
    source.write_text(NESTED, encoding="utf-8")
    started: list[subprocess.Popen[str]] = []

    def start(*sizes: int) -> tuple[subprocess.Popen[str], list[int]]:
        words = [sys.executable, "-S", str(source), *map(str, sizes)]
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        assert process.stdout
        return process, [int(word) for word in process.stdout.readline().split()]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_sums_are_those_of_all_below(nested: Nested) -> None:
    process, (child,) = nested(8, 24)
    assert descendants([process.pid]) == [child]
    probe = ProcessesProbe(process.pid)
    apart = [MemoryProbe(pid).read() for pid in (process.pid, child)]
    both = probe.read()
    for name in ("rss_bytes", "anonymous_bytes", "pss_bytes", "threads", "mappings", "descriptors"):
        assert getattr(both, name) == pytest.approx(sum(getattr(one, name) for one in apart), rel=0.02), name
    assert both.rss_bytes == pytest.approx(probe.resident_bytes(), rel=0.02)
    assert both.anonymous_bytes > 32 * MIB
    assert both.peak_rss_bytes >= both.rss_bytes
    os.kill(child, signal.SIGKILL)
    wait_for(lambda: not alive(child))  # a zombie: the test's own child has not waited for it
    alone = probe.read()
    assert alone.anonymous_bytes < both.anonymous_bytes - 23 * MIB
    assert alone.peak_rss_bytes < both.rss_bytes, "the peak of what is gone is not carried on"


def test_roots_that_are_not_below_count_with_all_below_them(
    nested: Nested,
) -> None:
    worker, _ = nested(4)
    server, (runner,) = nested(4, 16)
    probe = ProcessesProbe(worker.pid)
    assert probe.pids() == [worker.pid]
    before = probe.read()
    probe.roots = (server.pid,)
    assert probe.pids() == [worker.pid, server.pid, runner]
    assert probe.read().anonymous_bytes - before.anonymous_bytes > 20 * MIB
    probe.roots = (server.pid, 2**22 - 1)  # one that is not there is left out
    assert probe.read().anonymous_bytes - before.anonymous_bytes > 20 * MIB


def test_a_process_that_is_gone_is_said(
    nested: Nested,
) -> None:
    process, _ = nested(4)
    probe = ProcessesProbe(process.pid)
    process.kill()
    process.wait()
    for read in (probe.read, probe.resident_bytes):
        with pytest.raises(ProcessGoneError):
            read()


def test_samples_are_sums_too(nested: Nested) -> None:
    process, _ = nested(8, 24)
    probe = ProcessesProbe(process.pid)
    alone, both = Sampler(process.pid, 50, 0), Sampler(process.pid, 50, 0, others=probe.others)
    seen: dict[Sampler, int] = {}

    def sampled() -> bool:
        for sampler in (alone, both):
            seen[sampler] = max([seen.get(sampler, 0), *sampler.take().anonymous_bytes])
        return all(seen.values())

    wait_for(sampled)
    for sampler in (alone, both):
        sampler.close()
    assert 24 * MIB < seen[both] - seen[alone] < 32 * MIB


def test_descendants_without_the_kernels_lists_of_children(nested: Nested, tmp_path: Path) -> None:
    """A /proc as of a kernel without CONFIG_PROC_CHILDREN: the same, by each process's parent."""
    process, pids = nested(1, 1, 1)
    for pid in (process.pid, *pids):
        (tmp_path / str(pid) / "task" / str(pid)).mkdir(parents=True)
        (tmp_path / str(pid) / "stat").write_bytes(Path(f"/proc/{pid}/stat").read_bytes())
    assert len(pids) == 2
    assert descendants([process.pid], tmp_path) == descendants([process.pid]) == pids


def test_facts_of_a_process(nested: Nested) -> None:
    process, (child,) = nested(1, 1)
    assert name_of(child).startswith("python")
    assert state_of(child) in ("S", "R")
    began, own = began_at(child), began_at(process.pid)
    assert began is not None and own is not None and began >= own
    gone = 2**22 - 1
    assert (state_of(gone), began_at(gone), name_of(gone), descendants([gone])) == (None, None, "?", [])


def test_processes_of_control_groups_are_read_too(nested: Nested, tmp_path: Path) -> None:
    first, (second,) = nested(4, 24)
    below = tmp_path / "group" / "below"
    below.mkdir(parents=True)
    (tmp_path / "group" / "cgroup.procs").write_text("")
    (below / "cgroup.procs").write_text(f"{second}\n0\n")
    probe = ProcessesProbe(os.getpid())
    assert members(str(tmp_path / "group")) == [second]
    assert members(str(tmp_path / "none")) == []
    probe.roots = ()
    before = probe.read()
    held = probe.by_process()
    assert {pid for pid, _ in held} >= {first.pid, second}  # which are below this process already
    other = ProcessesProbe(1)
    other.groups = (str(tmp_path / "group"),)
    assert second in other.others() and first.pid not in other.roots
    assert before.rss_bytes > 24 * MIB and sum(held.values()) > 28 * MIB
    assert probe.last_others == len(held)


PEAKED = """
import mmap, sys
held = mmap.mmap(-1, 48 << 20)
for at in range(0, 48 << 20, 4096):
    held[at] = 1
held.close()
print(flush=True)
sys.stdin.readline()
"""


def test_the_peak_of_a_process_that_began_between_two_readings_counts_from_its_beginning() -> None:
    probe = ProcessesProbe(os.getpid())
    before = probe.read()
    words = [sys.executable, "-S", "-c", PEAKED]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdin
        process.stdout.readline()
        reading = probe.read()
        assert reading.rss_bytes < before.rss_bytes + 24 * MIB
        assert reading.peak_rss_bytes > reading.rss_bytes + 40 * MIB
        assert probe.read().peak_rss_bytes < reading.peak_rss_bytes - 40 * MIB  # and then from the reading
        process.stdin.close()
