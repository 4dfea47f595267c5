"""The control group that a process's memory is charged to (cgroup v2); sizes in bytes.

Sources: proc_pid_mountinfo(5), cgroups(7), and the kernel's cgroup-v2 guide for the files of the memory
controller.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import msgspec

_REMOVAL_S = 1.0
_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(msgspec.Struct, frozen=True):
    """A place where a part of the cgroup v2 tree can be seen: ``root`` of the tree lies at ``point``."""

    root: str
    point: str


class ControlGroup(msgspec.Struct, frozen=True):
    """What the group has that a process is charged to; None where its kernel does not tell, or sets no limit.

    Other processes may be charged to the same group, and page cache is charged too.
    """

    current_bytes: int
    peak_bytes: int | None  # since the group was made; Linux 5.19 and later
    limit_bytes: int | None  # the smallest of its own and those of the groups that it lies in
    left_bytes: int | None = None  # the least that any of these limits leaves, once page cache is given up


def parse_mounts(mountinfo: str) -> list[Mount]:
    """The cgroup v2 mounts of a mountinfo file."""
    mounts = []
    for line in mountinfo.split("\n"):
        fields, _, source = line.partition(" - ")
        words = fields.split(" ")
        if source.split(" ")[0] == "cgroup2" and len(words) >= 5:
            mounts.append(Mount(_plain(words[3]), _plain(words[4])))
    return mounts


def parse_membership(cgroup: str) -> str | None:
    """The path in the cgroup v2 tree that a ``/proc/PID/cgroup`` file tells; None where it tells none."""
    for line in cgroup.split("\n"):
        if line.startswith("0::/"):
            return line[len("0::") :].removesuffix(" (deleted)")
    return None


def locate(path: str, mount: Mount) -> list[Path]:
    """The directories of a group and of those it lies in, innermost first; empty where the mount hides it."""
    try:
        inside = PurePosixPath(path).relative_to(mount.root)
    except ValueError:
        return []
    if ".." in inside.parts:  # outside the part of the tree that this process is shown
        return []
    return [Path(mount.point, inside), *(Path(mount.point, parent) for parent in inside.parents)]


class ControlGroupReader:
    """Reads the group of one process, also after the process was moved to another."""

    def __init__(self, pid: int, proc: Path = Path("/proc")) -> None:
        self._membership = proc / str(pid) / "cgroup"
        self._mounts = parse_mounts(_text(proc / "self" / "mountinfo") or "")

    def read(self) -> ControlGroup | None:
        """What is charged to the group; None where no cgroup v2 accounts for the process's memory."""
        path = parse_membership(_text(self._membership) or "")
        if path is None:
            return None
        for mount in self._mounts:
            directories = locate(path, mount)
            # A group without the memory controller is charged to the nearest one around it that has it.
            for index, directory in enumerate(directories):
                current = _number(directory / "memory.current")
                if current is not None:
                    around = directories[index:]
                    limits = [
                        limit for outer in around if (limit := _number(outer / "memory.max")) is not None
                    ]
                    left = [room for outer in around if (room := _left(outer)) is not None]
                    return ControlGroup(
                        current_bytes=current,
                        peak_bytes=_number(directory / "memory.peak"),
                        limit_bytes=_smallest(limits),
                        left_bytes=_smallest(left),
                    )
        return None


class LimitedGroup:
    """A control group of a process's own, beside ours, that bounds all it is charged for, page cache too."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @classmethod
    def around(cls, pid: int, limit_bytes: int, proc: Path = Path("/proc")) -> LimitedGroup | None:
        """Make a group and move the process into it; None where we may not, or have no cgroup v2 for memory.

        It lies beside our own group: one inside it would not be given the controller, since a group that has
        processes hands none on.
        """
        path = parse_membership(_text(proc / "self" / "cgroup") or "")
        for mount in parse_mounts(_text(proc / "self" / "mountinfo") or ""):
            around = locate(path, mount) if path is not None else []
            if len(around) < 2 or "memory" not in (_text(around[1] / "cgroup.subtree_control") or "").split():
                continue
            group = cls(around[1] / f"asrswitch-{pid}")
            try:
                group._directory.mkdir()
                (group._directory / "memory.max").write_text(str(limit_bytes))
                with contextlib.suppress(OSError):  # there is no such file without swap
                    (group._directory / "memory.swap.max").write_text("0")
                (group._directory / "cgroup.procs").write_text(str(pid))
            except OSError:
                group.remove()
            else:
                return group
        return None

    def remove(self) -> None:
        """Remove the group, whose process is gone; it may be busy for a moment after that."""
        deadline = time.monotonic() + _REMOVAL_S
        while self._directory.is_dir():
            with contextlib.suppress(OSError):
                self._directory.rmdir()
                return
            if time.monotonic() > deadline:
                return
            time.sleep(_REMOVAL_S / 100)


def _smallest(numbers: Sequence[int | None]) -> int | None:
    return min((number for number in numbers if number is not None), default=None)


def _left(group: Path) -> int | None:
    """What a group may still be charged, counting as free the page cache that it would give up first."""
    limit, current = _number(group / "memory.max"), _number(group / "memory.current")
    if limit is None or current is None:
        return None
    cache = 0
    for line in (_text(group / "memory.stat") or "").splitlines():
        name, _, value = line.partition(" ")
        if name in ("active_file", "inactive_file") and value.isdecimal():
            cache += int(value)
    return max(0, limit - max(0, current - cache))


def _plain(field: str) -> str:
    """A field of mountinfo, where space, tab, newline and backslash are written as octal numbers."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def _number(path: Path) -> int | None:
    text = (_text(path) or "").strip()
    return int(text) if text.isdecimal() and text.isascii() else None  # "max" is no limit


def _text(path: Path) -> str | None:
    with contextlib.suppress(OSError):
        return path.read_bytes().decode("utf-8", "surrogateescape")
    return None
