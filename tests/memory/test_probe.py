from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asrswitch.memory.probe import MemoryProbe, ProcessGoneError

MIB = 1 << 20

# Takes sizes in MiB: positive allocates and touches, negative gives back what was allocated last. Answers a
# line.
CHILD = """
import mmap, sys
held = []
for line in sys.stdin:
    size = int(line)
    if size > 0:
        held.append(mmap.mmap(-1, size << 20, flags=mmap.MAP_PRIVATE))
        for page in range(0, size << 20, 4096):
            held[-1][page] = 1
    elif held:
        held.pop().close()
    print(flush=True)
"""


class Child:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ask(0)

    def ask(self, mebibytes: int) -> None:
        assert self.process.stdin and self.process.stdout
        print(mebibytes, file=self.process.stdin, flush=True)
        self.process.stdout.readline()


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child()
    yield child
    child.process.kill()
    child.process.communicate()


def test_readings_follow_the_process(child: Child) -> None:
    probe = MemoryProbe(child.process.pid)
    before = probe.read()
    child.ask(32)
    during = probe.read()
    child.ask(-1)
    after = probe.read()
    assert 32 * MIB <= during.anonymous_bytes - before.anonymous_bytes < 33 * MIB
    assert abs(after.anonymous_bytes - before.anonymous_bytes) < MIB
    assert during.rss_bytes == during.anonymous_bytes + during.file_bytes
    if during.source == "smaps_rollup":
        assert during.uss_bytes is not None and during.pss_bytes is not None
        assert during.uss_bytes <= during.pss_bytes <= during.rss_bytes
    assert during.threads == 1
    assert during.descriptors == before.descriptors == after.descriptors
    assert before.mappings == after.mappings


def test_the_peak_is_of_the_phase(child: Child) -> None:
    probe = MemoryProbe(child.process.pid)
    before = probe.read()
    child.ask(32)
    child.ask(-1)
    passed = probe.read()
    quiet = probe.read()
    assert passed.peak_rss_bytes - before.rss_bytes > 31 * MIB
    if quiet.peak_since == "reading":
        assert quiet.peak_rss_bytes - quiet.rss_bytes < 2 * MIB
    else:
        assert quiet.peak_rss_bytes >= passed.peak_rss_bytes


def test_a_process_that_is_gone_is_told_apart(child: Child) -> None:
    probe = MemoryProbe(child.process.pid)
    child.process.kill()
    child.process.poll()
    with pytest.raises(ProcessGoneError):
        while True:  # dying takes a moment, then it is a zombie
            probe.read()
    child.process.wait()
    with pytest.raises(ProcessGoneError):
        probe.read()


def test_a_kernel_that_tells_less_gives_less(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    status = (
        "Name:\tx\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\nRssAnon:\t  150 kB\nThreads:\t3\nUid:\t0\t0\t0\t0\n"
    )
    (tmp_path / "7" / "status").write_text(status)
    (tmp_path / "7" / "clear_refs").mkdir()  # cannot be written
    memory = MemoryProbe(7, proc=tmp_path).read()
    assert (memory.source, memory.peak_since) == ("status", "start")
    assert (memory.rss_bytes, memory.anonymous_bytes, memory.file_bytes) == (
        200 * 1024,
        150 * 1024,
        50 * 1024,
    )
    assert (memory.peak_rss_bytes, memory.swap_bytes, memory.threads) == (300 * 1024, 0, 3)
    assert memory.pss_bytes is memory.uss_bytes is memory.mappings is memory.descriptors is None
