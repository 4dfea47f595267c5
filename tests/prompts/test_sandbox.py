"""The sandbox, from inside: each thing that code must not do is tried."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from asrswitch.errors import UsageError
from asrswitch.prompts.sandbox import Limits, Outcome, SandboxError, confinement, run_confined
from asrswitch.prompts.system_calls import computing_only
from support import ROOT, wait_for

SHORT = Limits(seconds=0.8)
REFUSED = "[Errno 1] Operation not permitted"


def _run(code: str, limits: Limits | None = None) -> Outcome:
    return run_confined({"code": code}, limits)


def _children() -> set[str]:
    return set(Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split())


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(autouse=True)
def _leaves_nothing() -> Iterator[None]:
    """No process, file or descriptor is left behind by any run."""
    before = _children(), _descriptors()
    yield
    assert (_children(), _descriptors()) == before


def test_what_answers_need_is_there() -> None:
    code = """
import bisect, collections, dataclasses, datetime, decimal, fractions, functools, hashlib, heapq, itertools
import json, math, random, re, statistics, string, time, typing, unicodedata, zlib
assert __name__ == "answer"
assert datetime.datetime.strptime("2024-02-29", "%Y-%m-%d").weekday() == 3
assert hashlib.sha256(b"").hexdigest().startswith("e3b0c442")
assert "é".encode("utf-16-le") == b"\\xe9\\x00"
@dataclasses.dataclass
class Point:
    x: "int"
print(Point(3), random.random(), time.time())
time.sleep(0.001)
def deep(n): return 0 if n == 0 else 1 + deep(n - 1)
assert deep(900) == 900
"""
    outcome = _run(code)
    assert outcome == Outcome(outcome.confinement) and outcome.passed


def test_pieces_share_a_module_and_run_in_order() -> None:
    assert run_confined({"a": "x = 1", "b": "assert x == 1"}).passed
    outcome = run_confined({"a": "x = 1", "b": "\nassert x == 2, 'not\\n2'", "c": "boom"})
    assert outcome.raised is not None and not outcome.passed
    assert (outcome.raised.piece, outcome.raised.line) == ("b", 2)
    assert (outcome.raised.kind, outcome.raised.text) == ("AssertionError", "not\\n2")


CALL = "import ctypes, errno, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
RAISE = "\nif result < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))"


# Such that they would do no harm if they succeeded.
ATTACKS = [
    "import os\nos.fork()",
    CALL + "result = libc.fork()" + RAISE,
    CALL + "result = libc.unshare(0x10000000)" + RAISE,
    "import os\nos.execv('/bin/true', ['true'])",
    "import subprocess\nsubprocess.run(['/bin/true'])",
    "import os\nos.posix_spawn('/bin/true', ['true'], {})",
    "import socket\nsocket.create_connection(('127.0.0.1', 9))",
    "import socket\nsocket.socket(socket.AF_UNIX)",
    "import socket\nsocket.socketpair()",
    "import os, signal\nos.kill(os.getppid(), 0)",
    "import os\nos.killpg(0, 0)",
    "import signal\nsignal.pidfd_send_signal(0, 0)",
    CALL + "result = libc.ptrace(16, os.getppid(), 0, 0)" + RAISE,
    CALL + "result = libc.prctl(1, 0, 0, 0, 0)" + RAISE,
    CALL + "result = libc.syscall(425, 1, 0)" + RAISE,  # io_uring_setup, which makes calls of its own
    # The kernel would send the parent a signal when the descriptor is ready.
    "import fcntl, os\nfcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
    "import fcntl, os\nfcntl.fcntl(0, fcntl.F_SETFL, os.O_ASYNC)",
    "import fcntl, struct\nfcntl.ioctl(0, 0x8901, struct.pack('i', 1))",  # FIOSETOWN, likewise
    "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (-1, -1))",
    "import os\nos.setpriority(os.PRIO_PROCESS, os.getppid(), 0)",
    "import os\nos.sched_setaffinity(os.getppid(), os.sched_getaffinity(0))",
    "import os\nos.setuid(0)",
    "import os\nos.mkdir('/tmp/made-by-an-answer')",
    "import os\nos.open('/tmp/made-by-an-answer', os.O_RDONLY | os.O_CREAT)",
    "import os\nos.open('/tmp', os.O_TMPFILE | os.O_RDWR)",
    "open('made-by-an-answer', 'w')",
    "import os\nos.memfd_create('more')",
    "import os\nos.ftruncate(1, 1 << 40)",
    "import os\nos.chmod('/tmp', 0o1777)",
]


def _try_each(attacks: Sequence[str], number: int) -> list[str]:
    """Those that do not raise PermissionError with this errno, tried one after the other in one sandbox."""
    code = f"""
allowed = []
for attack in {list(attacks)!r}:
    try:
        exec(attack, {{}})
        allowed.append(attack)
    except OSError as error:
        if error.errno != {number}:
            allowed.append((attack, str(error)))
if allowed:
    raise LookupError(repr(allowed))
"""
    outcome = _run(code)
    return [] if outcome.passed else [str(outcome)]


def test_attacks_are_refused() -> None:
    assert _try_each(ATTACKS, errno.EPERM) == []


def test_an_attack_that_succeeds_would_be_told() -> None:
    assert "LookupError" in _try_each(["import os\nos.getpid()"], errno.EPERM)[0]
    assert "LookupError" in _try_each(["open('/etc/passwd')"], errno.ESRCH)[0]


def test_a_fork_bomb_ends_at_its_first_fork() -> None:
    outcome = _run("import os\nfor _ in range(4): os.fork()")
    assert outcome.raised is not None
    assert (outcome.raised.kind, outcome.raised.text) == ("PermissionError", REFUSED)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import threading\nthreading.Thread(target=print).start()", "RuntimeError: can't start new thread"),
        (
            "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (-1, -1))",
            "ValueError: not allowed to raise maximum limit",
        ),
    ],
)
def test_refused_in_other_words(code: str, says: str) -> None:
    outcome = _run(code)
    assert outcome.raised is not None and f"{outcome.raised.kind}: {outcome.raised.text}" == says


def test_nothing_is_connected_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        port = server.getsockname()[1]
        assert not _run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}))").passed
        with pytest.raises(TimeoutError):
            server.accept()


def test_files_are_not_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    kept = tmp_path / "kept"
    kept.write_text("kept")
    kept.chmod(0o666)
    attacks = [
        f"open({str(tmp_path / 'new')!r}, 'w')",
        f"open({str(kept)!r}, 'a').write('more')",
        f"import os\nos.truncate({str(kept)!r}, 0)",
        f"import os\nos.open({str(kept)!r}, os.O_RDONLY | os.O_TRUNC)",
        f"import os\nos.unlink({str(kept)!r})",
        f"import os\nos.rename({str(kept)!r}, {str(tmp_path / 'other')!r})",
    ]
    assert _try_each(attacks, errno.EPERM) == []
    assert [path.name for path in tmp_path.iterdir()] == ["kept"] and kept.read_text() == "kept"


def test_only_pythons_own_library_is_read(tmp_path: Path) -> None:
    if not confinement().files:
        pytest.skip("this kernel has no Landlock, and then nothing confines what is read")
    (tmp_path / "file").write_text("x")
    files = ["/etc/passwd", "/proc/self/environ", "/proc/self/mem", tmp_path / "file", ROOT / "README.md"]
    attacks = [f"open({str(path)!r}, 'rb')" for path in files]
    attacks += [f"import os\nos.listdir({path!r})" for path in ("/", "/proc", "/tmp", ".")]
    assert _try_each(attacks, errno.EACCES) == []
    assert _run("import os\nopen(os.__file__).read()").passed


def test_nothing_is_handed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    code = """
import os, sys
assert not [name for name in os.environ if name != "LC_CTYPE"]  # which Python itself may set
assert sys.stdin.read() == "" and os.getcwd() == "/"
def is_open(number):
    try:
        return bool(os.fstat(number))
    except OSError:
        return False
assert [number for number in range(64) if is_open(number)] == [0, 1, 2, 3]
"""
    read, write = os.pipe()
    os.set_inheritable(read, True)
    try:
        outcome = _run(code)
    finally:
        os.close(read)
        os.close(write)
    assert outcome.passed, outcome


@pytest.mark.parametrize(
    "code",
    [
        "import time\ntime.sleep(60)",
        """
import signal
for number in {*range(1, 32)} - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
while True:
    print("x" * 10_000)
""",
    ],
)
def test_time_is_limited(code: str) -> None:
    began = time.monotonic()
    assert _run(code, SHORT).ended == "took longer than 0.8 s"
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "code",
    [
        "x = bytearray(1 << 30)",
        "x = []\nwhile True: x.append([x])",
    ],
)
def test_memory_is_limited(code: str) -> None:
    outcome = _run(code, Limits(seconds=20, memory_bytes=64 << 20))
    assert outcome.raised is not None and outcome.raised.kind == "MemoryError"


def test_what_is_told_of_it_is_limited() -> None:
    """The descriptor for the results can be found and written to; no more than 64 KiB arrive."""
    outcome = _run("import os\nwhile True: os.write(3, b'x' * 10_000)")
    assert not outcome.passed and outcome.raised is None
    outcome = _run("raise ValueError('x' * 1_000_000)")
    assert outcome.raised is not None and outcome.raised.text == "x" * 1000


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("import os\nos._exit(0)", "ended before its end was reached"),
        ("import os\nos._exit(3)", "ended with exit code 3"),
        ("import ctypes\nctypes.string_at(0)", "was ended by SIGSEGV"),
    ],
)
def test_an_end_before_its_end(code: str, ended: str) -> None:
    outcome = _run(code)
    assert outcome.ended == ended and not outcome.passed


def test_exceptions_that_do_not_want_to_be_told() -> None:
    outcome = _run("class Odd(BaseException):\n    def __str__(self): raise self\nraise Odd")
    assert outcome.raised is not None and (outcome.raised.kind, outcome.raised.text) == ("Odd", "")
    assert _run("\ud800").raised is not None


def test_it_holds_no_capability_and_can_gain_none() -> None:
    def run() -> None:
        with contextlib.suppress(SandboxError):  # it may be killed before it has told that it is confined
            _run("import time\ntime.sleep(60)", Limits(seconds=20))

    thread = threading.Thread(target=run)
    thread.start()
    children = Path(f"/proc/{os.getpid()}/task/{thread.native_id}/children")
    wait_for(lambda: bool(children.read_text()))
    status = Path(f"/proc/{children.read_text().split()[0]}/status")

    def told() -> dict[str, str]:
        lines = [line.partition(":") for line in status.read_text().splitlines()]
        return {name: rest.strip() for name, _, rest in lines}

    wait_for(lambda: told()["Seccomp"] == "2")
    found = told()
    os.kill(int(status.parent.name), signal.SIGKILL)
    thread.join()
    assert [int(found[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")] == [0, 0, 0, 0]
    assert found["NoNewPrivs"] == "1"


def test_it_ends_with_whoever_started_it() -> None:
    program = (
        "import sys, asrswitch.prompts.sandbox as s\n"
        "print('go', flush=True)\n"
        "s.run_confined({'code': 'import time\\ntime.sleep(60)'}, s.Limits(seconds=60))"
    )
    words = [sys.executable, "-c", program]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE) as runner:
        assert runner.stdout is not None
        runner.stdout.readline()
        children = Path(f"/proc/{runner.pid}/task/{runner.pid}/children")
        wait_for(lambda: bool(children.read_text()))
        child = Path(f"/proc/{children.read_text().split()[0]}")
        wait_for(lambda: "Seccomp:\t2" in (child / "status").read_text())
        runner.kill()
    wait_for(lambda: not child.exists() or "State:\tZ" in (child / "status").read_text())


def test_without_a_filter_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*real[:4], "riscv64")))
    with pytest.raises(
        SandboxError, match="code cannot be confined on riscv64, whose system calls are not known"
    ):
        confinement()


def test_a_filter_that_the_kernel_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asrswitch.prompts.sandbox.computing_only", lambda machine: bytes(8))
    with pytest.raises(
        SandboxError, match=r"code cannot be confined here \(.*Invalid argument.*choose prompts"
    ):
        confinement()


def test_a_filter_for_another_architecture_lets_nothing_run(monkeypatch: pytest.MonkeyPatch) -> None:
    other = computing_only("aarch64" if os.uname().machine == "x86_64" else "x86_64")
    monkeypatch.setattr("asrswitch.prompts.sandbox.computing_only", lambda machine: other)
    with pytest.raises(SandboxError, match="was ended by SIGSYS"):
        confinement()


WITHOUT_LANDLOCK = """#!{python}
import ctypes, os, struct, sys
# Load the call's number; where it is landlock_create_ruleset's fail with ENOSYS; else allow.
program = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (6, 0, 0, 0x50000 | 38), (6, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in program))
header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
prctl = ctypes.CDLL(None).prctl
zero = ctypes.c_ulong(0)
assert prctl(38, ctypes.c_ulong(1), zero, zero, zero) == 0
assert prctl(22, ctypes.c_ulong(2), ctypes.c_ulong(ctypes.addressof(header)), zero, zero) == 0
os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""


def test_a_kernel_without_landlock_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(WITHOUT_LANDLOCK.format(python=sys.executable))
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert not confinement().files
    assert _run("open('/etc/passwd')").passed
    assert _try_each(ATTACKS, errno.EPERM) == []


def test_a_python_that_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(SandboxError, match="does not start"):
        confinement()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SandboxError, match="/bin/false, ended with exit code 1") as raised:
        confinement()
    assert not isinstance(raised.value, UsageError)


ALLOWED, REFUSED_BY_FILTER, KILLED = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def _decide(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the filter returns, by the rules of classic BPF."""
    known = ARCHITECTURES[machine] if architecture is None else architecture
    data = struct.pack("<IIQ6Q", number, known, 0, *arguments, *[0] * (6 - len(arguments)))
    program = list(struct.iter_unpack("=HBBI", computing_only(machine)))
    at, word = 0, 0
    while True:
        operation, if_so, if_not, constant = program[at]
        at += 1
        if operation == 0x06:
            return int(constant)
        if operation == 0x20:
            word = struct.unpack_from("<I", data, constant)[0]
        elif operation == 0x54:
            word &= constant
        else:
            assert operation == 0x15
            at += if_so if word == constant else if_not


@pytest.mark.parametrize(
    ("machine", "read", "openat", "fcntl", "clone", "execve", "socket_"),
    [("x86_64", 0, 257, 72, 56, 59, 41), ("aarch64", 63, 56, 25, 220, 221, 198)],
)
def test_the_filter_of_each_architecture(
    machine: str, read: int, openat: int, fcntl: int, clone: int, execve: int, socket_: int
) -> None:
    assert _decide(machine, read) == ALLOWED
    assert _decide(machine, read, architecture=0x40000003) == KILLED
    assert [_decide(machine, openat, 0, 0, flags) for flags in (os.O_RDONLY, os.O_CLOEXEC)] == [ALLOWED] * 2
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_TMPFILE | os.O_WRONLY):
        assert _decide(machine, openat, 0, 0, flags) == REFUSED_BY_FILTER
    assert _decide(machine, fcntl, 0, 1) == ALLOWED
    assert _decide(machine, fcntl, 0, 8) == REFUSED_BY_FILTER
    # x32's numbers are those of x86-64 with a bit more; a number's upper half is nothing.
    for number in (clone, execve, socket_, read | 0x40000000, 9999):
        assert _decide(machine, number) == REFUSED_BY_FILTER
