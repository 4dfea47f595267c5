"""A seccomp filter that lets a process compute, read files and sleep, and refuses every other system call.

It is a list of what is allowed, so that calls which are not thought of here, or not made yet, are refused:
with EPERM, which Python raises as PermissionError. There are no new processes and threads, no programs,
sockets, signals, changes of limits, and nothing is opened for writing or made.

Sources: seccomp(2); the numbers are of Linux's arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h, the operations of linux/bpf_common.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

_LOAD, _AND, _IF_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06  # each with a constant; a word is loaded
_ALLOW, _KILL_PROCESS, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16  # offsets in seccomp_data
_ARGUMENT_BYTES = 8  # the low half comes first
_WRITES = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC  # O_TMPFILE wants O_WRONLY or O_RDWR with it
_COMMANDS = (fcntl.F_DUPFD, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_DUPFD_CLOEXEC)

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_* of linux/audit.h
# Opening is allowed for reading, fcntl with those commands. Numbers by architecture; None where it has none.
_OPEN, _OPENAT, _FCNTL = (2, None), (257, 56), (72, 25)
# Allowed whatever the arguments; among them calls that only older or other C libraries make.
_ALLOWED: dict[str, tuple[int, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "poll": (7, None),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "pread64": (17, 67),
    "readv": (19, 65),
    "writev": (20, 66),
    "access": (21, None),
    "getcwd": (79, 17),
    "readlink": (89, None),
    "select": (23, None),
    "sched_yield": (24, 124),
    "dup": (32, 23),
    "dup2": (33, None),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "exit": (60, 93),
    "restart_syscall": (219, 128),
    "exit_group": (231, 94),
    "uname": (63, 160),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "times": (100, 153),
    "time": (201, None),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "getdents64": (217, 61),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "newfstatat": (262, 79),
    "readlinkat": (267, 78),
    "faccessat": (269, 48),
    "pselect6": (270, 72),
    "ppoll": (271, 73),
    "dup3": (292, 24),
    "getrandom": (318, 278),
    "statx": (332, 291),
    "faccessat2": (439, 439),
}

_Instruction = tuple[int, int, int, int]  # sock_filter: operation, skipped if so, skipped if not, constant


def computing_only(machine: str) -> bytes:
    """The filter's program, an array of sock_filter.

    Args:
        machine: as uname(2) calls it.

    Raises:
        KeyError: its system calls are not known here.
    """
    architecture = _ARCHITECTURES[machine]
    column = list(_ARCHITECTURES).index(machine)
    program = [
        # Calls of another architecture, which the processor may know too, have other numbers.
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    allow, refuse = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)
    for numbers in _ALLOWED.values():
        program += _where(numbers[column], [allow])
    for numbers, flags in ((_OPEN, 1), (_OPENAT, 2)):
        reading = [_load_argument(flags), (_AND, 0, 0, _WRITES), *_where(0, [allow]), refuse]
        program += _where(numbers[column], reading)
    # With F_SETOWN and O_ASYNC the kernel would send signals to others.
    commands = [_load_argument(1)]
    for command in _COMMANDS:
        commands += _where(command, [allow])
    program += _where(_FCNTL[column], commands)
    program.append(refuse)
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _load_argument(index: int) -> _Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS_AT + _ARGUMENT_BYTES * index)


def _where(value: int | None, then: list[_Instruction]) -> list[_Instruction]:
    """What is done where the loaded word is ``value``; otherwise it is skipped."""
    return [] if value is None else [(_IF_EQUAL, 0, len(then), value), *then]
