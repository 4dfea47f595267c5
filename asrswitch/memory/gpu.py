"""Memory on NVIDIA's GPUs, as their management library tells (NVML); without it nothing is known.

Source: NVIDIA's NVML API reference, "Device Queries"; the declarations are ours, by its ``nvml.h``. It names
processes by their numbers in the first namespace: within a container's own they are others, or none at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import cffi
import msgspec

if TYPE_CHECKING:
    from typing_extensions import Self

LIBRARY = "libnvidia-ml.so.1"
_SUCCESS, _INSUFFICIENT_SIZE = 0, 7
_NOT_AVAILABLE = 2**64 - 1
_FIRST_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO of the kernel's <linux/proc_ns.h>
_MORE_PROCESSES = 16  # that may begin between the question for their number and that for them
_ATTEMPTS = 3
_DECLARATIONS = """
    struct process {
        unsigned int pid;
        unsigned long long used;
        unsigned int gpu_instance, compute_instance;
    };
    struct memory {
        unsigned long long total, free, used;
    };
    int nvmlInit_v2(void);
    int nvmlShutdown(void);
    int nvmlDeviceGetCount_v2(unsigned int *count);
    int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device);
    int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory);
    int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *count, struct process *processes);
"""


class GpuMemory(msgspec.Struct, frozen=True):
    """Of all GPUs together, in bytes."""

    processes_bytes: int | None  # of the processes asked for; None where they cannot be told from others
    used_bytes: int  # by all processes and the driver
    total_bytes: int


class Gpus:
    """NVML, opened; a context manager. One thread at a time."""

    def __init__(self, library: Any, ffi: cffi.FFI, proc: Path) -> None:
        self._library = library
        self._ffi = ffi
        self._open = True
        self._sees_processes = False
        with contextlib.suppress(OSError):
            self._sees_processes = str((proc / "self" / "ns" / "pid").readlink()) == _FIRST_NAMESPACE

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let NVML go; a second call does nothing."""
        if self._open:
            self._open = False
            self._library.nvmlShutdown()

    def read(self, pids: Iterable[int]) -> GpuMemory | None:
        """What is in use now, and of that by these processes; None where a GPU does not answer."""
        wanted = frozenset(pids)
        count = self._ffi.new("unsigned int *")
        if self._library.nvmlDeviceGetCount_v2(count) != _SUCCESS:
            return None
        memory = self._ffi.new("struct memory *")
        used = total = 0
        parts: list[int | None] = []
        for index in range(count[0]):
            device = self._ffi.new("void **")
            if self._library.nvmlDeviceGetHandleByIndex_v2(index, device) != _SUCCESS:
                return None
            if self._library.nvmlDeviceGetMemoryInfo(device[0], memory) != _SUCCESS:
                return None
            used, total = used + memory.used, total + memory.total
            parts.append(self._of_processes(device[0], wanted))
        known = [part for part in parts if part is not None]
        is_told = self._sees_processes and len(known) == len(parts)
        return GpuMemory(sum(known) if is_told else None, used, total)

    def _of_processes(self, device: Any, wanted: frozenset[int]) -> int | None:
        """What those have on a device; None where NVML does not tell."""
        count = self._ffi.new("unsigned int *", 0)
        ask = self._library.nvmlDeviceGetComputeRunningProcesses_v3
        status = ask(device, count, self._ffi.NULL)
        for _ in range(_ATTEMPTS):
            if status != _INSUFFICIENT_SIZE:
                break
            count[0] += _MORE_PROCESSES
            found = self._ffi.new("struct process[]", count[0])
            status = ask(device, count, found)
            if status == _SUCCESS:
                sizes = [found[index].used for index in range(count[0]) if found[index].pid in wanted]
                return None if _NOT_AVAILABLE in sizes else sum(sizes)
        return 0 if status == _SUCCESS else None  # there are none


def open_gpus(library: str = LIBRARY, proc: Path = Path("/proc")) -> Gpus | None:
    """NVML, ready to be asked; None where there is no such library, or no driver for it.

    Args:
        library: its name or path.
        proc: says which namespace of processes this one is in.
    """
    ffi = cffi.FFI()
    ffi.cdef(_DECLARATIONS)
    try:
        opened = ffi.dlopen(library)
        opened.nvmlDeviceGetComputeRunningProcesses_v3  # noqa: B018 - the youngest of them
        if opened.nvmlInit_v2() != _SUCCESS:
            return None
    except (OSError, AttributeError):  # there is none, or one that is too old
        return None
    return Gpus(opened, ffi, proc)
