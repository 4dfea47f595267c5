"""The processes below others, as ``/proc`` tells (proc(5)). Standard library only: workers use it too."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")


def descendants(roots: Iterable[int], proc: Path = _PROC) -> list[int]:
    """All processes that the roots started, and those that these did; the roots are not among them.

    One whose parent has ended is its grandparent's no more (prctl(2), PR_SET_CHILD_SUBREAPER), and is found
    only where that makes it another root's.
    """
    found: dict[int, None] = {}
    open_ = list(roots)
    known = {*open_}
    while open_:
        for child in _children(open_.pop(), proc):
            if child not in known:
                known.add(child)
                found[child] = None
                open_.append(child)
    return [*found]


def members(group: str) -> list[int]:
    """The processes of a control group and of all groups below it (cgroups(7)); none of one that is gone."""
    found: dict[int, None] = {}
    for directory, _, files in os.walk(group):
        if "cgroup.procs" in files:
            with contextlib.suppress(OSError):
                words = (Path(directory) / "cgroup.procs").read_text().split()
                found |= dict.fromkeys(int(word) for word in words if word != "0")  # 0: not of ours to see
    return [*found]


def state_of(pid: int, proc: Path = _PROC) -> str | None:
    """The letter of a process's state, Z for one that has ended; None where there is no such process."""
    fields = _stat(proc / str(pid))
    return fields[0] if fields else None


def began_at(pid: int, proc: Path = _PROC) -> int | None:
    """When a process began, in the kernel's ticks: tells it from a later one of the same number."""
    fields = _stat(proc / str(pid))
    return int(fields[19]) if fields else None


def parent_of(pid: int, proc: Path = _PROC) -> int | None:
    """Which process another is below; None where there is no such process."""
    fields = _stat(proc / str(pid))
    return int(fields[1]) if fields else None


def name_of(pid: int, proc: Path = _PROC) -> str:
    """The name of a process's program, as far as the kernel keeps it."""
    with contextlib.suppress(OSError):
        return (proc / str(pid) / "comm").read_text(errors="replace").strip()
    return "?"


def _children(pid: int, proc: Path) -> list[int]:
    threads = proc / str(pid) / "task"
    found: list[int] = []
    try:
        for thread in threads.iterdir():
            found += map(int, (thread / "children").read_text().split())
    except FileNotFoundError:
        if not threads.exists():
            return []
        # A thread has ended, or the kernel was built without CONFIG_PROC_CHILDREN: ask each for its parent.
        others = [int(other.name) for other in proc.iterdir() if other.name.isdigit()]
        return [other for other in others if parent_of(other, proc) == pid]
    except OSError:  # it has ended
        return []
    return found


def _stat(directory: Path) -> list[str]:
    """The fields of ``stat`` from the state on: the name before them may hold anything."""
    with contextlib.suppress(OSError):
        return (directory / "stat").read_text(errors="replace").rpartition(")")[2].split()
    return []
