from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrswitch.memory.probe import Faults, MemoryProbe, ProcessGoneError, parse_faults, parse_table

MIB = 1 << 20

# Takes sizes in MiB: positive allocates and touches, negative gives back what was allocated last. Answers a
# line. What is allocated is shared memory where the child was started with an argument.
CHILD = """
import mmap, sys
held = []
for line in sys.stdin:
    size = int(line)
    if size > 0:
        held.append(mmap.mmap(-1, size << 20, flags=mmap.MAP_SHARED if sys.argv[1:] else mmap.MAP_PRIVATE))
        for page in range(0, size << 20, 4096):
            held[-1][page] = 1
    elif held:
        held.pop().close()
    print(flush=True)
"""


class Child:
    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ask(0)

    def ask(self, mebibytes: int) -> None:
        assert self.process.stdin and self.process.stdout
        print(mebibytes, file=self.process.stdin, flush=True)
        self.process.stdout.readline()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child()
    yield child
    child.end()


@pytest.fixture
def sharing_child() -> Iterator[Child]:
    child = Child("shared")
    yield child
    child.end()


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


def test_shared_memory_is_no_anonymous_memory(sharing_child: Child) -> None:
    probe = MemoryProbe(sharing_child.process.pid)
    before = probe.read()
    sharing_child.ask(16)
    during = probe.read()
    assert before.shared_bytes is not None and during.shared_bytes is not None
    assert abs(during.shared_bytes - before.shared_bytes - 16 * MIB) < MIB
    assert abs(during.file_bytes - before.file_bytes - 16 * MIB) < MIB
    assert abs(during.anonymous_bytes - before.anonymous_bytes) < MIB


def test_page_faults_are_of_the_phase(child: Child) -> None:
    probe = MemoryProbe(child.process.pid)
    assert probe.read().minor_faults == 0  # nothing since the probe was made: the child waits
    child.ask(32)
    busy = probe.read()
    quiet = probe.read()
    assert busy.minor_faults is not None and quiet.minor_faults is not None
    assert busy.minor_faults >= 16  # one at least for each of the largest pages there are
    assert (quiet.minor_faults, quiet.major_faults) == (0, 0)


def test_reading_costs_the_process_nothing(child: Child) -> None:
    probe = MemoryProbe(child.process.pid)
    probe.read()
    for _ in range(20):
        assert probe.read().minor_faults == 0


def test_the_hosts_available_memory_is_read(child: Child) -> None:
    available = MemoryProbe(child.process.pid).read().available_bytes
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert available is not None and 0 < available <= total


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
    assert memory.minor_faults is memory.major_faults is memory.available_bytes is None
    assert memory.shared_bytes is memory.cgroup is None


def test_what_a_kernel_tells_is_read(tmp_path: Path) -> None:
    """Files of a made-up process; the second reading is after it faulted more."""
    process, own = tmp_path / "7", tmp_path / "self"
    mount = tmp_path / "cgroup"
    for directory in (process / "fd", own, mount / "worker"):
        directory.mkdir(parents=True)
    status = (
        "VmHWM:\t300 kB\nVmRSS:\t200 kB\nRssAnon:\t150 kB\nRssShmem:\t20 kB\nVmSwap:\t8 kB\nThreads:\t3\n"
    )
    (process / "status").write_text(status)
    (process / "stat").write_text(stat_line("x", 100, 7))
    (process / "io").write_text("rchar: 99\nread_bytes: 4096\nwrite_bytes: 0\n")
    (process / "maps").write_text("one\ntwo\n")
    (process / "cgroup").write_text("0::/worker\n")
    (own / "mountinfo").write_text(f"1 2 0:3 / {mount} rw - cgroup2 none rw\n")
    (mount / "worker" / "memory.current").write_text("4096\n")
    (tmp_path / "meminfo").write_text("MemTotal:       9 kB\nMemAvailable:       5 kB\n")
    probe = MemoryProbe(7, proc=tmp_path)
    (process / "stat").write_text(stat_line("x", 130, 9))
    (process / "io").write_text("rchar: 99\nread_bytes: 12288\nwrite_bytes: 0\n")
    memory = probe.read()
    assert (memory.minor_faults, memory.major_faults, memory.read_bytes) == (30, 2, 8192)
    assert (memory.shared_bytes, memory.swap_bytes) == (20 * 1024, 8 * 1024)
    assert (memory.mappings, memory.descriptors, memory.available_bytes) == (2, 0, 5 * 1024)
    assert memory.cgroup is not None and memory.cgroup.current_bytes == 4096
    assert (process / "clear_refs").read_text() == "5"
    assert memory.peak_since == "reading"
    (process / "io").unlink()
    last = probe.read()
    assert (last.minor_faults, last.read_bytes) == (0, None)


def stat_line(name: str, minor: int, major: int) -> str:
    return f"7 ({name}) S 1 7 7 0 -1 4194304 {minor} 11 {major} 13 1 1 0 0 20 0 1 0\n"


@given(st.text(max_size=64), st.integers(0, 1 << 63), st.integers(0, 1 << 63))
def test_faults_are_found_behind_any_name(name: str, minor: int, major: int) -> None:
    line = stat_line(name, minor, major).encode("utf-8", "replace")
    assert parse_faults(line) == Faults(minor, major)


@given(st.binary(max_size=200))
def test_no_bytes_upset_the_parser_of_faults(stat: bytes) -> None:
    faults = parse_faults(stat)
    assert faults is None or min(faults) >= 0


@given(
    st.dictionaries(
        st.from_regex(re.compile(r"[A-Z][A-Za-z_()0-9]*", re.ASCII), fullmatch=True), st.integers(0, 1 << 50)
    )
)
def test_tables_are_read_with_their_units(fields: dict[str, int]) -> None:
    text = "".join(f"{name}:  {number:8} kB\n" for name, number in fields.items())
    assert parse_table("Name:\tsome thing\n" + text) == {name: n * 1024 for name, n in fields.items()}
    assert parse_table(text.replace(" kB", "")) == fields


@given(st.text())
def test_no_text_upsets_the_parser_of_tables(text: str) -> None:
    assert all(number >= 0 for number in parse_table(text).values())
