"""Facts about the machine, from made-up /proc and /sys."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrswitch import instruction_sets, machine
from asrswitch.machine import Machine, as_ranges, describe

CPUINFO = """\
processor\t: 0
model name\t: Test CPU @ 3 GHz
microcode\t: 0x42
cpu MHz\t\t: 2000.0
flags\t\t: fpu hypervisor fma f16c avx2 avx_vnni

processor\t: 1
cpu MHz\t\t: 3000.0
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def group(root: Path, files: dict[str, str]) -> Path:
    """A control group of this process, inside another, with these files."""
    point = root / "sys/fs/cgroup"
    write(root, {
        f"proc/{os.getpid()}/cgroup": "0::/outer/inner\n",
        "proc/self/mountinfo": f"31 23 0:28 / {point} rw - cgroup2 cgroup2 rw\n",
    })  # fmt: skip
    return write(point, files)


@pytest.fixture
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})


@pytest.mark.parametrize(
    ("usable", "quota", "cores"),
    [
        ({0, 1, 2, 3}, None, 2),
        ({0, 2}, None, 1),
        ({0, 1}, "max 100000", 2),
        ({0, 1, 2, 3}, "150000 100000", 2),
        ({0, 1, 2, 3}, "50000 100000", 1),
        ({0, 7}, None, 2),  # a CPU whose topology is unknown counts as a core
    ],
)
def test_siblings_count_once_within_affinity_and_quota(
    usable: set[int], quota: str | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cpu, siblings in {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}.items():
        topology = f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        write(tmp_path, {topology: f"{siblings}\n"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: usable)
    group(tmp_path, {"outer/inner/cpu.max": quota} if quota else {})
    assert machine.physical_cores(tmp_path) == cores


def test_the_smallest_quota_around_counts(tmp_path: Path) -> None:
    group(tmp_path, {"outer/inner/cpu.max": "max 100000", "outer/cpu.max": "50000 100000"})
    assert machine.cpu_quota(tmp_path) == 0.5


def test_the_smaller_memory_limit_counts(tmp_path: Path) -> None:
    whole = machine.memory_limit_bytes(tmp_path)
    assert whole == machine.total_memory_bytes()
    point = group(tmp_path, {"outer/inner/memory.current": "4096", "outer/inner/memory.max": "1048576\n"})
    assert machine.memory_limit_bytes(tmp_path) == 1 << 20 < whole
    write(point, {"outer/inner/memory.max": "max\n"})
    assert machine.memory_limit_bytes(tmp_path) == whole


@pytest.mark.usefixtures("two_processors")
def test_everything_that_a_machine_tells(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    root = write(tmp_path, {
        "proc/cpuinfo": CPUINFO,
        "proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 500 kB\nSwapTotal: 100 kB\nSwapFree: 40 kB\n",
        "proc/loadavg": "0.50 0.25 0.125 3/98 4711\n",
        "proc/uptime": "360.5 700.1\n",
        "proc/stat": "cpu 1 2 3\nbtime 1795244888\n",
        "proc/sys/vm/swappiness": "60\n",
        "proc/sys/vm/overcommit_memory": "1\n",
        "proc/sys/kernel/randomize_va_space": "2\n",
        "etc/os-release": 'ID=test\nPRETTY_NAME="Test Linux 1"\n',
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
        "sys/kernel/mm/transparent_hugepage/defrag": "always defer [never]\n",
        "sys/devices/system/node/node0/cpulist": "0\n",
        "sys/devices/system/node/node1/cpulist": "1\n",
        "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
        "sys/class/thermal/thermal_zone0/temp": "41500\n",
        "sys/class/thermal/thermal_zone1/temp": "55000\n",
        f"{cpu}/cpu0/cpufreq/scaling_governor": "performance\n",
        f"{cpu}/cpu0/cpufreq/scaling_driver": "test-pstate\n",
        f"{cpu}/cpu0/cpufreq/cpuinfo_max_freq": "4000000\n",
        f"{cpu}/cpu0/cpufreq/scaling_cur_freq": "2500000\n",
        f"{cpu}/cpu1/cpufreq/scaling_cur_freq": "3500000\n",
        f"{cpu}/cpufreq/boost": "1\n",
        f"{cpu}/smt/active": "0\n",
        f"{cpu}/isolated": "1\n",
    })  # fmt: skip
    group(root, {
        "outer/inner/memory.current": "4096", "outer/inner/memory.max": "8192",
        "outer/inner/cpu.max": "150000 100000",
    })  # fmt: skip
    environ = {"LD_PRELOAD": "/usr/lib/libjemalloc.so.2", "MALLOC_ARENA_MAX": "2", "HOME": "/root"}
    found = describe(root, environ)
    told = {name: getattr(found, name) for name in EXPECTED}
    assert told == EXPECTED
    assert found.booted_at is not None and found.booted_at.startswith("2026-11-2")
    assert found.hostname and found.platform and found.compiler and found.kernel_version


EXPECTED = {
    "cpu": "Test CPU @ 3 GHz",
    "physical_cores": 2,
    "memory_limit_bytes": 8192,
    "distribution": "Test Linux 1",
    "affinity": "0-1",
    "cpu_quota": 1.5,
    "isolated_cpus": "1",
    "numa_nodes": 2,
    "smt": False,
    "hypervisor": True,
    "microcode": "0x42",
    "instruction_sets": ("scalar", "avx2", "avxvnni"),
    "instruction_set": "avxvnni",
    "governor": "performance",
    "frequency_driver": "test-pstate",
    "boost": True,
    "frequency_max_mhz": 4000.0,
    "frequency_mhz": 3000.0,
    "temperature_c": 55.0,
    "clock_source": "tsc",
    "memory_bytes": 1000 * 1024,
    "memory_available_bytes": 500 * 1024,
    "swap_bytes": 100 * 1024,
    "swap_used_bytes": 60 * 1024,
    "swappiness": 60,
    "overcommit": 1,
    "huge_pages": "madvise",
    "huge_pages_defrag": "never",
    "cgroup": "/outer/inner",
    "cgroup_memory_limit_bytes": 8192,
    "aslr": "full",
    "allocator": "jemalloc",
    "allocator_settings": {"LD_PRELOAD": "/usr/lib/libjemalloc.so.2", "MALLOC_ARENA_MAX": "2"},
    "load_average": (0.5, 0.25, 0.125),
    "running_tasks": 3,
    "uptime_s": 360.5,
}


@pytest.mark.usefixtures("two_processors")
def test_a_machine_that_tells_nothing_is_described_all_the_same(tmp_path: Path) -> None:
    found = describe(tmp_path, {})
    assert (found.governor, found.boost, found.huge_pages, found.load_average) == (None, None, None, None)
    assert (found.cgroup, found.swap_used_bytes, found.instruction_set) == (None, None, None)
    assert found.memory_limit_bytes == machine.total_memory_bytes()
    assert found.allocator == found.libc


@pytest.mark.usefixtures("two_processors")
@pytest.mark.parametrize(
    ("files", "mhz", "boost"),
    [
        ({"proc/cpuinfo": CPUINFO}, 2500.0, None),
        ({"sys/devices/system/cpu/intel_pstate/no_turbo": "1"}, None, False),
        ({"sys/devices/system/cpu/intel_pstate/no_turbo": "0"}, None, True),
    ],
)
def test_frequency_and_boost_where_others_tell_them(
    files: dict[str, str], mhz: float | None, boost: bool | None, tmp_path: Path
) -> None:
    found = describe(write(tmp_path, files), {})
    assert (found.frequency_mhz, found.boost) == (mhz, boost)


@pytest.mark.parametrize(
    "content", ["", "x", "0.1 0.2", "\0\0", "nan nan nan 1/2 3", "9" * 400, "[ ] [", ": :"]
)
def test_nonsense_in_any_file_is_no_error(content: str, tmp_path: Path) -> None:
    names = ("cpuinfo", "meminfo", "loadavg", "uptime", "stat", "sys/vm/swappiness", "self/mountinfo")
    write(tmp_path, {f"proc/{name}": content for name in names})
    write(tmp_path, {f"proc/{os.getpid()}/cgroup": content})
    write(tmp_path, {"sys/kernel/mm/transparent_hugepage/enabled": content})
    write(tmp_path, {"sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": content})
    msgspec.json.encode(describe(tmp_path, {}))


def test_this_machine_goes_through_a_log_and_an_old_log_can_be_read() -> None:
    here = describe()
    assert msgspec.json.decode(msgspec.json.encode(here), type=Machine) == here
    assert here.memory_bytes and here.affinity and here.load_average
    old = {
        "cpu": "c",
        "physical_cores": 1,
        "memory_limit_bytes": 2,
        "system": "s",
        "libc": "l",
        "python": "p",
    }
    assert msgspec.convert(old, Machine).huge_pages is None


def test_the_instruction_set_that_the_environment_names_is_the_one(tmp_path: Path) -> None:
    write(tmp_path, {"proc/cpuinfo": CPUINFO})
    assert describe(tmp_path, {"CHATLLM_ISA": "scalar"}).instruction_set == "scalar"


def test_the_instruction_set_of_a_transcription() -> None:
    lines = ("stage mel: 1.2 ms", "kernels: avx512, threads: 2")
    assert instruction_sets.used(lines) == "avx512"
    assert instruction_sets.used(lines[:1]) is None


@given(st.sets(st.integers(0, 300)))
def test_ranges_name_each_number_once(numbers: set[int]) -> None:
    named = []
    for part in as_ranges(sorted(numbers)).split(","):
        first, _, last = part.partition("-")
        named += range(int(first), int(last or first) + 1) if part else []
    assert named == sorted(numbers)
