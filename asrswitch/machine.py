"""Facts about this machine that a run depends on: cores, memory limit, names and versions."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

import msgspec

_CPU = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")


class Machine(msgspec.Struct, frozen=True):
    """Where a run was made; figures of different machines are not to be compared."""

    cpu: str
    physical_cores: int
    memory_limit_bytes: int
    system: str
    libc: str
    python: str


def describe() -> Machine:
    """Collect the facts about this machine and this process's share of it."""
    return Machine(
        cpu=_cpu_model(),
        physical_cores=physical_cores(),
        memory_limit_bytes=memory_limit_bytes(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        libc=" ".join(platform.libc_ver()).strip() or "unknown",
        python=platform.python_version(),
    )


def physical_cores() -> int:
    """Physical cores this process may use: its affinity mask, siblings counted once, within the CPU quota."""
    usable = os.sched_getaffinity(0)
    cores = {_siblings(cpu) for cpu in usable}
    quota = _cpu_quota()
    return max(1, len(cores) if quota is None else min(len(cores), math.ceil(quota)))


def total_memory_bytes() -> int:
    """All memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def memory_limit_bytes() -> int:
    """Memory this process can reach before it is killed: the machine's, or its control group's if smaller."""
    total = total_memory_bytes()
    limit = _read(_CGROUP / "memory.max")
    return min(total, int(limit)) if limit.isdigit() else total


def _siblings(cpu: int) -> str:
    """Name of the physical core of a logical CPU; the CPU itself where the kernel does not tell."""
    return _read(_CPU / f"cpu{cpu}" / "topology" / "thread_siblings_list") or str(cpu)


def _cpu_quota() -> float | None:
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _cpu_model() -> str:
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
