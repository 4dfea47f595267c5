"""Facts about this machine that a run depends on: processor, memory, limits, settings, names and versions.

Which facts, and that they go with the figures, is pyperf's idea; what concerns memory is added. Everything
is read from /proc and /sys (proc(5), and the kernel's guides to cpufreq, transparent huge pages and cgroup
v2) below a root directory.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import socket
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from asrswitch import instruction_sets
from asrswitch.memory.cgroup import ControlGroupReader, locate, parse_membership, parse_mounts
from asrswitch.memory.probe import parse_table

_ROOT = Path("/")
_ASLR = {"0": "off", "1": "partial", "2": "full"}
# What the environment says to the worker's malloc, and which library takes malloc's place.
_ALLOCATOR_VARIABLES = ("GLIBC_TUNABLES", "LD_PRELOAD", "JEMALLOC_CONF", "MALLOC_CONF")
_ALLOCATOR_PREFIXES = ("MALLOC_", "TCMALLOC_", "MIMALLOC_")
_OTHER_ALLOCATORS = ("jemalloc", "tcmalloc", "mimalloc")


class Machine(msgspec.Struct, frozen=True):
    """Where a run was made; figures of different machines are not to be compared.

    None where the system does not tell. Logs of before a fact was collected have its default.
    """

    cpu: str
    physical_cores: int  # that this process may use
    memory_limit_bytes: int
    system: str
    libc: str
    python: str
    # Names and versions.
    hostname: str | None = None
    platform: str | None = None
    distribution: str | None = None
    kernel_version: str | None = None  # the build; the release is in `system`
    python_implementation: str | None = None
    compiler: str | None = None  # that built Python
    # The processor and this process's share of it.
    cpus: int | None = None  # logical, those that are online
    affinity: str | None = None  # of them, those that this process may use, as 0-3,8
    cpu_quota: float | None = None  # processors' worth of time that the control group has
    isolated_cpus: str | None = None
    numa_nodes: int | None = None
    smt: bool | None = None
    hypervisor: bool | None = None
    microcode: str | None = None
    instruction_sets: tuple[str, ...] = ()  # the engine's, of which the processor offers these
    instruction_set: str | None = None  # the one of them that the engine uses here
    # Its frequency.
    governor: str | None = None
    frequency_driver: str | None = None
    boost: bool | None = None
    frequency_max_mhz: float | None = None
    frequency_mhz: float | None = None  # at that moment, the mean over the processors of `affinity`
    temperature_c: float | None = None  # at that moment, of the hottest zone
    clock_source: str | None = None
    # Memory and what decides how it is handed out.
    memory_bytes: int | None = None
    memory_available_bytes: int | None = None  # at that moment
    page_bytes: int | None = None
    swap_bytes: int | None = None
    swap_used_bytes: int | None = None  # at that moment
    swappiness: int | None = None
    overcommit: int | None = None  # vm.overcommit_memory
    huge_pages: str | None = None  # transparent ones: always, madvise or never
    huge_pages_defrag: str | None = None
    cgroup: str | None = None  # its path
    cgroup_memory_limit_bytes: int | None = None
    aslr: str | None = None  # off, partial or full
    allocator: str | None = None  # which malloc, unless the plan says otherwise
    allocator_settings: dict[str, str] = {}  # what the environment says to it
    # How busy it was.
    load_average: tuple[float, float, float] | None = None  # over 1, 5 and 15 minutes
    running_tasks: int | None = None  # that ran or could have, this one included
    booted_at: str | None = None  # ISO 8601 with the offset from UTC
    uptime_s: float | None = None


def describe(root: Path = _ROOT, environ: Mapping[str, str] | None = None) -> Machine:
    """Collect the facts about this machine and this process's share of it.

    Args:
        root: where /proc, /sys and /etc are looked for.
        environ: what would choose an allocator or an instruction set; the process's own by default.
    """
    environ = os.environ if environ is None else environ
    group = ControlGroupReader(os.getpid(), root / "proc").read()
    cpuinfo = _read(root / "proc/cpuinfo")
    usable = sorted(os.sched_getaffinity(0))
    meminfo = parse_table(_read(root / "proc/meminfo"))
    swap = meminfo.get("SwapTotal")
    offered = instruction_sets.offered(cpu_flags(cpuinfo))
    libc = " ".join(platform.libc_ver()).strip() or "unknown"
    huge_pages = root / "sys/kernel/mm/transparent_hugepage"
    frequency = root / "sys/devices/system/cpu" / f"cpu{usable[0]}" / "cpufreq"
    load, running = _load(_read(root / "proc/loadavg"))
    uptime = _number(_read(root / "proc/uptime").partition(" ")[0])
    booted = _number(_field(_read(root / "proc/stat"), "btime", " ") or "")
    return Machine(
        cpu=_field(cpuinfo, "model name") or platform.processor() or platform.machine(),
        physical_cores=physical_cores(root),
        memory_limit_bytes=memory_limit_bytes(root),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        libc=libc,
        python=platform.python_version(),
        hostname=socket.gethostname(),
        platform=platform.platform(),
        distribution=(_field(_read(root / "etc/os-release"), "PRETTY_NAME", "=") or "").strip('"') or None,
        kernel_version=platform.version(),
        python_implementation=platform.python_implementation(),
        compiler=platform.python_compiler(),
        cpus=os.cpu_count(),
        affinity=as_ranges(usable),
        cpu_quota=cpu_quota(root),
        isolated_cpus=_read(root / "sys/devices/system/cpu/isolated") or None,
        numa_nodes=_count_nodes(root),
        smt=_switch(_read(root / "sys/devices/system/cpu/smt/active")),
        hypervisor="hypervisor" in cpu_flags(cpuinfo) if cpuinfo else None,
        microcode=_field(cpuinfo, "microcode"),
        instruction_sets=offered,
        instruction_set=environ.get(instruction_sets.VARIABLE) or (offered[-1] if cpuinfo else None),
        governor=_read(frequency / "scaling_governor") or None,
        frequency_driver=_read(frequency / "scaling_driver") or None,
        boost=_boost(root),
        frequency_max_mhz=_kilo(_read(frequency / "cpuinfo_max_freq")),
        frequency_mhz=_frequency_mhz(root, usable, cpuinfo),
        temperature_c=_temperature_c(root),
        clock_source=_read(root / "sys/devices/system/clocksource/clocksource0/current_clocksource") or None,
        memory_bytes=meminfo.get("MemTotal"),
        memory_available_bytes=meminfo.get("MemAvailable"),
        page_bytes=os.sysconf("SC_PAGE_SIZE"),
        swap_bytes=swap,
        swap_used_bytes=swap - meminfo["SwapFree"] if swap is not None and "SwapFree" in meminfo else None,
        swappiness=_whole(_read(root / "proc/sys/vm/swappiness")),
        overcommit=_whole(_read(root / "proc/sys/vm/overcommit_memory")),
        huge_pages=_chosen(_read(huge_pages / "enabled")),
        huge_pages_defrag=_chosen(_read(huge_pages / "defrag")),
        cgroup=parse_membership(_read(root / "proc" / str(os.getpid()) / "cgroup")),
        cgroup_memory_limit_bytes=group.limit_bytes if group else None,
        aslr=_ASLR.get(_read(root / "proc/sys/kernel/randomize_va_space")),
        allocator=_allocator(environ, libc),
        allocator_settings=_allocator_settings(environ),
        load_average=load,
        running_tasks=running,
        booted_at=None if booted is None else datetime.fromtimestamp(booted).astimezone().isoformat(),
        uptime_s=uptime,
    )


def physical_cores(root: Path = _ROOT) -> int:
    """Physical cores this process may use: its affinity mask, siblings counted once, within the CPU quota."""
    cores = {_siblings(root, cpu) for cpu in os.sched_getaffinity(0)}
    quota = cpu_quota(root)
    return max(1, len(cores) if quota is None else min(len(cores), math.ceil(quota)))


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Processors' worth of time that this process's control groups leave it; None where they do not limit."""
    proc = root / "proc"
    path = parse_membership(_read(proc / str(os.getpid()) / "cgroup"))
    quotas = []
    for mount in parse_mounts(_read(proc / "self" / "mountinfo")) if path else ():
        for directory in locate(path or "", mount):
            quota, _, period = _read(directory / "cpu.max").partition(" ")
            if quota.isdecimal() and period.isdecimal() and int(period):
                quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def total_memory_bytes() -> int:
    """All memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def memory_limit_bytes(root: Path = _ROOT) -> int:
    """Memory this process can reach before it is killed: the machine's, or its control group's if smaller."""
    group = ControlGroupReader(os.getpid(), root / "proc").read()
    total = total_memory_bytes()
    return total if group is None or group.limit_bytes is None else min(total, group.limit_bytes)


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """The features that ``/proc/cpuinfo`` lists, of the first processor."""
    return frozenset((_field(cpuinfo, "flags") or _field(cpuinfo, "Features") or "").split())


def as_ranges(numbers: Iterable[int]) -> str:
    """Numbers in ascending order as the kernel writes lists of processors: 0-3,8."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _siblings(root: Path, cpu: int) -> str:
    """Name of the physical core of a logical CPU; the CPU itself where the kernel does not tell."""
    topology = root / "sys/devices/system/cpu" / f"cpu{cpu}" / "topology"
    return _read(topology / "thread_siblings_list") or str(cpu)


def _count_nodes(root: Path) -> int | None:
    return sum(1 for _ in (root / "sys/devices/system/node").glob("node[0-9]*")) or None


def _boost(root: Path) -> bool | None:
    """Whether the processor may go above its base frequency; intel_pstate tells the opposite."""
    cpu = root / "sys/devices/system/cpu"
    off = _switch(_read(cpu / "intel_pstate/no_turbo"))
    return _switch(_read(cpu / "cpufreq/boost")) if off is None else not off


def _frequency_mhz(root: Path, usable: Iterable[int], cpuinfo: str) -> float | None:
    files = (root / "sys/devices/system/cpu" / f"cpu{cpu}" / "cpufreq/scaling_cur_freq" for cpu in usable)
    now = [mhz for file in files if (mhz := _kilo(_read(file))) is not None]
    if not now:  # virtual machines tell it here, if at all
        lines = (line.partition(":") for line in cpuinfo.splitlines() if line.startswith("cpu MHz"))
        now = [mhz for _, _, value in lines if (mhz := _number(value)) is not None]
    return round(sum(now) / len(now), 1) if now else None


def _temperature_c(root: Path) -> float | None:
    zones = (root / "sys/class/thermal").glob("thermal_zone*/temp")
    return max((value for zone in zones if (value := _kilo(_read(zone))) is not None), default=None)


def _allocator(environ: Mapping[str, str], libc: str) -> str:
    preloaded = environ.get("LD_PRELOAD", "")
    return next((name for name in _OTHER_ALLOCATORS if name in preloaded), libc)


def _allocator_settings(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in sorted(environ.items())
        if name in _ALLOCATOR_VARIABLES or name.startswith(_ALLOCATOR_PREFIXES)
    }


def _load(text: str) -> tuple[tuple[float, float, float] | None, int | None]:
    """Load averages and running tasks of ``/proc/loadavg``: 0.31 0.20 0.10 2/98 4711."""
    words = text.split()
    averages = [_number(word) for word in words[:3]]
    if len(words) < 4 or None in averages:
        return None, None
    one, five, fifteen = (average or 0.0 for average in averages)
    return (one, five, fifteen), _whole(words[3].partition("/")[0])


def _chosen(text: str) -> str | None:
    """The word in brackets: always [madvise] never."""
    return text.partition("[")[2].partition("]")[0] or None


def _field(text: str, name: str, separator: str = ":") -> str | None:
    """The value of the first line of that name."""
    for line in text.splitlines():
        key, _, value = line.partition(separator)
        if key.strip() == name:
            return value.strip() or None
    return None


def _switch(text: str) -> bool | None:
    return {"0": False, "1": True}.get(text)


def _whole(text: str) -> int | None:
    return int(text) if text.isdecimal() and text.isascii() else None


def _number(text: str) -> float | None:
    with contextlib.suppress(ValueError):
        value = float(text)
        return value if math.isfinite(value) else None
    return None


def _kilo(text: str) -> float | None:
    """The kernel gives kHz and thousandths of a degree."""
    value = _number(text)
    return None if value is None else round(value / 1000, 1)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
