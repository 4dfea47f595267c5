"""What the machine went through while a run measured on it: counters before and after."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import msgspec


class Conditions(msgspec.Struct, frozen=True):
    """The machine at a moment; counters are since it was started, None where it does not tell."""

    load_average: float | None  # processes that ran or waited to, over the last minute
    swapped_in_pages: int | None
    throttled: int | None  # how often a core was slowed for its temperature
    stolen_ticks: int | None  # that the hypervisor gave to others
    all_ticks: int | None  # of all processors


def read_conditions(proc: Path = Path("/proc"), system: Path = Path("/sys")) -> Conditions:
    """Read them now. Sources: proc(5), and the kernel's documentation of ``thermal_throttle``."""
    ticks = _ticks(_text(proc / "stat"))
    swapped = re.search(r"^pswpin (\d+)$", _text(proc / "vmstat"), re.MULTILINE)
    return Conditions(
        load_average=_load_average(proc),
        swapped_in_pages=int(swapped[1]) if swapped else None,
        throttled=_throttled(system),
        stolen_ticks=ticks[7] if len(ticks) > 7 else None,
        all_ticks=sum(ticks[:8]) if ticks else None,  # a guest's are in the first already
    )


def _load_average(proc: Path) -> float | None:
    with contextlib.suppress(ValueError, IndexError):
        return float(_text(proc / "loadavg").split()[0])
    return None


def _throttled(system: Path) -> int | None:
    """Of each core once: its logical processors count the same events."""
    counts: dict[str, int] = {}
    processors = system / "devices" / "system" / "cpu"
    for file in processors.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"):
        core = _text(file.parent.parent / "topology" / "core_cpus_list") or file.parent.parent.name
        with contextlib.suppress(ValueError):
            counts[core] = int(_text(file))
    return sum(counts.values()) if counts else None


def _ticks(stat: str) -> list[int]:
    line = stat.partition("\n")[0].split()
    return [int(word) for word in line[1:] if word.isdecimal()] if line[:1] == ["cpu"] else []


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return os.fsdecode(path.read_bytes())
    return ""
