"""The program that an answer's code runs in: it gives up all that it can, and then runs what it is told.

Started by ``sandbox.run_confined`` as a script, with nothing but Python's own library. It reads a job from
standard input, a JSON object: ``parent`` (process id), ``memory_bytes``, ``cpu_s``, ``results_bytes``,
``filter`` (a seccomp filter's program in hexadecimal) and ``pieces``, pairs of a name and Python statements
that are run one after the other in one module. It writes two lines of JSON to standard output:
``{"refused": why or null, "files": whether reading is confined}`` once it is confined, and ``{"raised":
null or {"kind", "text", "piece", "line"}}`` at the end, which is missing where the code did not come to it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import types
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38  # linux/prctl.h
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
# The same on all architectures; linux/landlock.h.
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIRECTORY = 1, 2, 4, 8
_PATH_BENEATH = 1
_OPEN_FILES = 64
_RESERVE = 1 << 20  # bytes to tell of the end with, where the code has used up its memory
_LONGEST = 1000  # characters of an exception that are told

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Confine this process, run the pieces, and tell what came of it."""
    job = json.load(sys.stdin)
    results = os.dup(1)
    os.dup2(2, 1)  # what the code prints goes where standard error goes: nowhere
    reserve = [bytearray(_RESERVE)]
    try:
        files = _confine(job)
    except OSError as error:
        _tell(results, {"refused": str(error), "files": False})
        return
    _tell(results, {"refused": None, "files": files})
    raised = _run(job["pieces"], reserve)
    _tell(results, {"raised": raised})
    os._exit(0)  # nothing of the code's runs after its end


def _tell(results: int, what: dict[str, Any]) -> None:
    os.write(results, json.dumps(what).encode() + b"\n")


def _confine(job: dict[str, Any]) -> bool:
    """Give up all that computing does not need; whether that includes reading any file.

    Raises:
        OSError: the kernel refuses to.
    """
    readable = _libraries()  # looked up while /proc can be read
    resource.setrlimit(resource.RLIMIT_AS, (job["memory_bytes"],) * 2)
    # The parent has a clock of its own, but may be stopped.
    resource.setrlimit(resource.RLIMIT_CPU, (job["cpu_s"],) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (job["results_bytes"],) * 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES,) * 2)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != job["parent"]:
        raise OSError("the parent has ended")
    _prctl(_PR_SET_DUMPABLE, 0)  # no core file, wherever core_pattern(5) sends it
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _drop_capabilities()
    files = _confine_files(readable)
    _confine_calls(bytes.fromhex(job["filter"]))
    return files


def _prctl(option: int, value: int, address: int = 0) -> None:
    _check(_libc.prctl(option, *map(ctypes.c_ulong, (value, address, 0, 0))), f"prctl({option})")


def _check(result: int, name: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _drop_capabilities() -> None:
    """All of root's, if there are any: capset(2)."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, bytes(24)), "capset")


def _libraries() -> list[str]:
    """Python's own library, and where the loader finds those that its modules need."""
    with Path("/proc/self/maps").open(encoding="utf-8", errors="surrogateescape") as maps:
        mapped = {line.split(maxsplit=5)[5].rstrip("\n") for line in maps if ".so" in line}
    places = {str(Path(name).parent) for name in mapped if name.startswith("/")}
    return sorted({*filter(None, sys.path), *places, "/etc/ld.so.cache"})


def _confine_files(readable: list[str]) -> bool:
    """Let only these be read, by Landlock; False where this kernel has none.

    Raises:
        OSError: it has, and refuses a rule.
    """
    handled = struct.pack("=Q", _EXECUTE | _WRITE_FILE | _READ_FILE | _READ_DIRECTORY)
    rules = _libc.syscall(_LANDLOCK_CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), 0)
    if rules < 0:
        return False
    for path in readable:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # Python lists an archive of its library, which is seldom there
        allowed = _READ_FILE | (_READ_DIRECTORY if Path(path).is_dir() else 0)
        rule = struct.pack("=Qi", allowed, place)
        _check(_libc.syscall(_LANDLOCK_ADD_RULE, rules, _PATH_BENEATH, rule, 0), "landlock_add_rule")
        os.close(place)
    _check(_libc.syscall(_LANDLOCK_RESTRICT_SELF, rules, 0), "landlock_restrict_self")
    os.close(rules)
    return True


def _confine_calls(program: bytes) -> None:
    """Refuse what the filter refuses, from here on: prctl(2), seccomp(2)."""
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    described = ctypes.create_string_buffer(header, len(header))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(described))


def _run(pieces: list[list[str]], reserve: list[bytearray]) -> dict[str, Any] | None:
    """Run the pieces in a module of their own; the exception that ended them, or None."""
    module = types.ModuleType("answer")
    sys.modules["answer"] = module  # where dataclasses and pickle look
    for name, source in pieces:
        try:
            exec(compile(source, f"<{name}>", "exec", dont_inherit=True), module.__dict__)
        except BaseException as error:  # SystemExit too: an end before the check's is none
            reserve.clear()
            return _raised(error, name)
    return None


def _raised(error: BaseException, piece: str) -> dict[str, Any]:
    try:
        text = str(error)
    except BaseException:  # its class may be the code's
        text = ""
    if isinstance(error, SyntaxError) and error.filename == f"<{piece}>":
        line, text = error.lineno, error.msg
    else:
        line, trace = None, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == f"<{piece}>":
                line = trace.tb_lineno
            trace = trace.tb_next
    return {"kind": type(error).__name__, "text": str(text)[:_LONGEST], "piece": piece, "line": line}


if __name__ == "__main__":
    main()
