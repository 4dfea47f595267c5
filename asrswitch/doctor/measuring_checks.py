"""What measuring can do here: each means that a reading or a limit uses is tried once."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asrswitch.doctor.findings import Finding, limited, missing, ok
from asrswitch.errors import AsrSwitchError
from asrswitch.leak_check import valgrind
from asrswitch.memory.cgroup import ControlGroupReader, LimitedGroup
from asrswitch.memory.probe import parse_table

_MIB = 1 << 20
_ENTRY_BYTES = 8  # of pagemap
_GROUP_LIMIT_BYTES = 1 << 30
_WAITS = "import sys; sys.stdin.read()"


def check_measuring(proc: Path, process: Any) -> list[Finding]:
    """Try what measuring needs.

    Args:
        proc: where processes are shown.
        process: the symbols of the C library.
    """
    return [
        check_status(proc),
        check_peak_reset(proc),
        check_rollup(proc),
        check_pagemap(proc),
        check_control_group(proc),
        check_limits(proc),
        check_heap(process),
        check_locked_memory(),
        check_valgrind(),
    ]


def check_status(proc: Path) -> Finding:
    """Resident memory, without which there is no reading at all."""
    subject = "resident memory"
    table = parse_table(_text(proc / "self/status"))
    if {"VmRSS", "VmHWM", "RssAnon", "Threads"} <= table.keys():
        return ok(subject, "told by /proc/PID/status")
    return missing(
        subject,
        "/proc/PID/status does not tell it",
        "any run: nothing can be read of a worker",
        "mount /proc, and use Linux 4.5 or later",
        needed=True,
    )


def check_peak_reset(proc: Path) -> Finding:
    """Whether the kernel's maximum of resident memory can be set back."""
    try:
        with _opened(proc / "self/clear_refs", os.O_WRONLY) as file:
            os.write(file, b"5")
    except OSError as error:
        return missing(
            "peak of a phase",
            f"/proc/PID/clear_refs cannot be written ({error.strerror})",
            "peaks of single phases: a peak is that since the worker began (`peak_since`)",
            "a kernel with CONFIG_PROC_PAGE_MONITOR, and no sandbox that replaces /proc",
        )
    return ok("peak of a phase", "can be set back through /proc/PID/clear_refs")


def check_rollup(proc: Path) -> Finding:
    """Exact readings, and shares of what several processes map."""
    if "Pss" in parse_table(_text(proc / "self/smaps_rollup")):
        return ok("PSS and USS", "told by /proc/PID/smaps_rollup")
    return missing(
        "PSS and USS",
        "/proc/PID/smaps_rollup cannot be read",
        "PSS and USS; RSS may be off by some pages",
        "Linux 4.14 or later, and no sandbox that replaces /proc",
    )


def check_pagemap(proc: Path) -> Finding:
    """What lets a worker take the page faults that a trimmed copy leaves."""
    try:
        with _opened(proc / "self/pagemap", os.O_RDONLY) as file:
            entry = os.pread(file, _ENTRY_BYTES, 0)
    except OSError as error:
        entry, why = b"", f" ({error.strerror})"
    else:
        why = ""
    if len(entry) == _ENTRY_BYTES:
        return ok("page map", "told by /proc/PID/pagemap")
    return limited(
        "page map",
        f"/proc/PID/pagemap cannot be read{why}",
        "undisturbed times after a trim of a copy: the worker's next phase takes its page faults",
        "--trim never, or a kernel with CONFIG_PROC_PAGE_MONITOR",
    )


def check_control_group(proc: Path) -> Finding:
    """What the control group is charged for, and what it may have."""
    subject = "control group"
    group = ControlGroupReader(os.getpid(), proc).read()
    if group is None:
        old = any(
            "memory" in line.split(":")[1].split(",")
            for line in _text(proc / str(os.getpid()) / "cgroup").splitlines()
            if line.count(":") >= 2
        )
        return missing(
            subject,
            "memory is accounted for by cgroup v1" if old else "no cgroup v2 accounts for memory",
            "the group's memory in readings, and its limit in forecasts and in what is refused",
            "boot with systemd.unified_cgroup_hierarchy=1" if old else "mount cgroup v2 with `memory` in it",
        )
    limit = "no limit" if group.limit_bytes is None else f"limit {group.limit_bytes / _MIB:,.0f} MiB"
    return ok(subject, f"cgroup v2 charges {group.current_bytes / _MIB:,.0f} MiB, {limit}")


def check_limits(proc: Path) -> Finding:
    """What holds a worker to --memory-limit."""
    subject = "--memory-limit"
    lost = "--memory-limit with page cache: the worker's own memory alone is limited (rlimit)"
    try:
        kept = resource.prlimit(0, resource.RLIMIT_DATA)
        resource.prlimit(0, resource.RLIMIT_DATA, kept)
    except OSError as error:
        return missing(subject, f"prlimit is refused ({error.strerror})", "--memory-limit", "another sandbox")
    if _makes_group(proc):
        return ok(subject, "a control group can be made, and prlimit works")
    return limited(
        subject,
        "prlimit works; no control group can be made",
        lost,
        "cgroup v2, and root or a delegated group: `systemd-run --user --scope -p Delegate=yes …`",
    )


def check_heap(process: Any) -> Finding:
    """What malloc tells of itself."""
    lacking = [name for name in ("mallinfo2", "malloc_trim") if not hasattr(process, name)]
    if lacking:
        return missing(
            "heap",
            f"the C library has no {' and no '.join(lacking)}",
            "heap in use and kept back: a leak and a pool cannot be told apart by malloc's own account",
            "glibc 2.33 or later",
        )
    return ok("heap", "malloc tells what is in use and kept back (mallinfo2), and gives back when asked")


def check_locked_memory() -> Finding:
    """What --lock may pin."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return ok("--lock", "any amount of memory may be pinned")
    return limited(
        "--lock",
        f"{soft / _MIB:,.1f} MiB of memory may be pinned",
        "--lock of larger models",
        "`ulimit -l unlimited`, docker --ulimit memlock=-1",
    )


def check_valgrind() -> Finding:
    """What leak-check needs."""
    subject, lost = "valgrind", "`leak-check`: the places in the library that lose memory"
    try:
        path = valgrind.find_valgrind()
        return ok(subject, f"{valgrind.version(path)}, {path}")
    except AsrSwitchError as error:
        return missing(subject, str(error).partition(", and")[0], lost, "apt install valgrind")


def _makes_group(proc: Path) -> bool:
    """Whether a process can be moved into a control group of its own; none of it stays."""
    try:
        waiting = subprocess.Popen([sys.executable, "-S", "-c", _WAITS], stdin=subprocess.PIPE)
    except OSError:
        return False
    try:
        group = LimitedGroup.around(waiting.pid, _GROUP_LIMIT_BYTES, proc)
    finally:
        waiting.kill()
        waiting.communicate()
    if group is None:
        return False
    group.remove()
    return True


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
