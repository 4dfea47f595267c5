"""`doctor`: its checks on made-up machines, and the command on this one."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from asrswitch import machine
from asrswitch.commands.doctor import render
from asrswitch.doctor import asrswitch_checks as ours
from asrswitch.doctor import machine_checks as machines
from asrswitch.doctor import measuring_checks as measuring
from asrswitch.doctor.findings import Diagnosis, Finding, Mark, Section, diagnose, limited, missing, ok
from asrswitch.leak_check import valgrind
from asrswitch.machine import Machine
from asrswitch.memory.cgroup import LimitedGroup
from asrswitch.worker_process import StopSignals
from support import ROOT

GIB = 1 << 30
AVX2 = frozenset({"avx2", "fma", "f16c"})
PLAIN = Machine(
    cpu="Test CPU",
    physical_cores=4,
    memory_limit_bytes=8 * GIB,
    system="Linux 6.1 x86_64",
    libc="glibc 2.36",
    python="3.11.7",
    cpus=4,
    affinity="0-3",
    governor="performance",
    memory_bytes=8 * GIB,
    memory_available_bytes=6 * GIB,
    swap_bytes=0,
    swap_used_bytes=0,
    huge_pages="madvise",
    load_average=(0.1, 0.1, 0.1),
)


def with_(**changes: Any) -> Machine:
    return msgspec.structs.replace(PLAIN, **changes)


def is_whole(finding: Finding) -> bool:
    """What is not well says what goes without it."""
    return finding.mark is Mark.OK or bool(finding.lost)


def test_a_good_machine_is_good() -> None:
    findings = machines.check_machine(PLAIN, AVX2, {})
    assert {finding.mark for finding in findings} == {Mark.OK}
    assert len({finding.subject for finding in findings}) == len(findings)


@pytest.mark.parametrize(
    ("changes", "subject", "says"),
    [
        ({"cpu_quota": 1.5}, "cores", "time of 1.5"),
        ({"memory_available_bytes": GIB // 2}, "memory", "available 0.5 GiB"),
        ({"memory_limit_bytes": GIB // 4}, "memory", "limit 0.2 GiB"),
        ({"swap_bytes": GIB, "swap_used_bytes": GIB // 2}, "swap", "0.5 GiB of 1.0 GiB in use"),
        ({"huge_pages": "never"}, "huge pages", "never"),
        ({"huge_pages": None}, "huge pages", "not told"),
        ({"governor": "powersave", "boost": True}, "frequency", "powersave"),
        ({"governor": None, "hypervisor": True}, "frequency", "virtual machine"),
        ({"load_average": (3.0, 0.0, 0.0)}, "load", "3.00"),
        ({"load_average": None}, "load", "not told"),
    ],
)
def test_what_limits_a_machine_is_told(changes: dict[str, Any], subject: str, says: str) -> None:
    findings = machines.check_machine(with_(**changes), AVX2, {})
    (told,) = [finding for finding in findings if finding.mark is not Mark.OK]
    assert (told.subject, told.mark) == (subject, Mark.LIMITED)
    assert says in told.found and is_whole(told)


def test_unused_swap_is_no_limit() -> None:
    assert machines.check_swap(with_(swap_bytes=GIB)).mark is Mark.OK


@pytest.mark.parametrize(
    ("flags", "environ", "mark", "begins", "has"),
    [
        (AVX2, {}, Mark.OK, "avx2;", "avxvnni lacks avx_vnni"),
        (AVX2, {"CHATLLM_ISA": "avx2"}, Mark.OK, "avx2;", "offers scalar, avx2"),
        (AVX2, {"CHATLLM_ISA": "scalar"}, Mark.LIMITED, "scalar, as CHATLLM_ISA says", ""),
        (AVX2, {"CHATLLM_ISA": "avx512"}, Mark.MISSING, "CHATLLM_ISA=avx512", "avx512_vnni"),
        (AVX2 - {"fma"}, {}, Mark.LIMITED, "scalar;", "avx2 lacks fma"),
    ],
)
def test_instruction_sets(
    flags: frozenset[str], environ: dict[str, str], mark: Mark, begins: str, has: str
) -> None:
    finding = machines.check_instruction_set(flags, environ)
    assert finding.mark is mark and is_whole(finding)
    assert finding.found.startswith(begins) and has in finding.found
    assert finding.needed == (mark is Mark.MISSING)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """All that measuring reads of a process, as a full kernel shows it."""
    place = tmp_path / "proc"
    for directory in (place / "self", place / str(os.getpid())):
        directory.mkdir(parents=True)
    point = tmp_path / "cgroup"
    (point / "here").mkdir(parents=True)
    (point / "here" / "memory.current").write_text("1048576")
    (point / "here" / "memory.max").write_text("2097152")
    files = {
        "self/status": "VmRSS: 1 kB\nVmHWM: 1 kB\nRssAnon: 1 kB\nThreads: 1\n",
        "self/clear_refs": "",
        "self/smaps_rollup": "Rss: 1 kB\nPss: 1 kB\n",
        "self/pagemap": "\0" * 8,
        "self/mountinfo": f"31 23 0:28 / {point} rw - cgroup2 cgroup2 rw\n",
        f"{os.getpid()}/cgroup": "0::/here\n",
    }
    for name, content in files.items():
        (place / name).write_text(content)
    return place


GLIBC = SimpleNamespace(mallinfo2=None, malloc_trim=None)


def by_subject(findings: list[Finding]) -> dict[str, Finding]:
    assert all(is_whole(finding) for finding in findings)
    return {finding.subject: finding for finding in findings}


def test_a_full_kernel_measures_all(proc: Path) -> None:
    found = by_subject(measuring.check_measuring(proc, GLIBC))
    for subject in ("resident memory", "peak of a phase", "PSS and USS", "page map", "control group", "heap"):
        assert found[subject].mark is Mark.OK, found[subject]
    assert "charges 1 MiB, limit 2 MiB" in found["control group"].found
    assert (proc / "self" / "clear_refs").read_text() == "5"


def test_a_sandbox_that_shows_nothing(tmp_path: Path) -> None:
    found = by_subject(measuring.check_measuring(tmp_path, SimpleNamespace(malloc_trim=None)))
    for subject in ("resident memory", "peak of a phase", "PSS and USS", "control group", "heap"):
        assert found[subject].mark is Mark.MISSING, found[subject]
    assert found["page map"].mark is Mark.LIMITED
    assert found["resident memory"].needed
    assert found["heap"].found == "the C library has no mallinfo2"
    assert list(tmp_path.iterdir()) == []


def test_the_old_control_groups_are_named(proc: Path) -> None:
    (proc / str(os.getpid()) / "cgroup").write_text("4:cpu,memory:/x\n0::/\n")
    assert "cgroup v1" in measuring.check_control_group(proc).found


def test_a_control_group_without_a_limit(proc: Path, tmp_path: Path) -> None:
    (tmp_path / "cgroup" / "here" / "memory.max").write_text("max")
    assert "no limit" in measuring.check_control_group(proc).found


def test_a_group_is_tried_with_a_process_and_removed(
    proc: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[Path] = []

    def around(pid: int, _limit: int, _proc: Path) -> LimitedGroup:
        assert Path(f"/proc/{pid}").exists()
        made.append(tmp_path / "group")
        made[0].mkdir()
        return LimitedGroup(made[0])

    monkeypatch.setattr(LimitedGroup, "around", around)
    assert measuring.check_limits(proc).mark is Mark.OK
    assert made and not made[0].exists()
    monkeypatch.setattr(LimitedGroup, "around", lambda *_: None)
    assert measuring.check_limits(proc).mark is Mark.LIMITED

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(resource, "prlimit", refused)
    assert measuring.check_limits(proc).mark is Mark.MISSING


@pytest.mark.parametrize(
    ("limit", "mark"), [(resource.RLIM_INFINITY, Mark.OK), (8 << 20, Mark.LIMITED), (0, Mark.LIMITED)]
)
def test_locked_memory(limit: int, mark: Mark, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (limit, limit))
    assert measuring.check_locked_memory().mark is mark


def test_valgrind_that_is_not_there_or_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    absent = measuring.check_valgrind()
    assert (absent.mark, absent.found) == (Mark.MISSING, "valgrind is not installed")
    monkeypatch.setattr(valgrind, "find_valgrind", lambda: str(tmp_path / "nowhere"))
    assert "does not run" in measuring.check_valgrind().found


def test_a_library_is_looked_at(fake_library: Path, tmp_path: Path) -> None:
    environ = dict(os.environ)
    finding = ours.check_library(fake_library, environ)
    assert finding.mark is Mark.LIMITED
    assert str(fake_library) in finding.found and "without chatllm_ext_" in finding.found
    nothing = tmp_path / "libnothing.so"
    nothing.write_bytes(b"not a library")
    broken = ours.check_library(nothing, environ)
    assert (broken.mark, broken.needed) == (Mark.MISSING, True)
    assert str(nothing) in broken.found and len(broken.found.splitlines()) == 1


def test_a_library_that_crashes_when_it_is_opened_is_missing(tmp_path: Path) -> None:
    source, library = tmp_path / "crash.c", tmp_path / "libcrash.so"
    source.write_text("__attribute__((constructor)) static void crash(void) { __builtin_trap(); }\n")
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    finding = ours.check_library(library, dict(os.environ))
    assert (finding.mark, finding.needed) == (Mark.MISSING, True)
    assert "cannot be used" in finding.found


def test_our_library_transcribes_with_the_instruction_set_that_is_told() -> None:
    library = ours.find_library(None, os.environ)
    with StopSignals() as stop:
        finding = ours.check_transcription(library, os.environ, stop)
    assert finding.mark is Mark.OK
    assert finding.found.endswith(f"({machine.describe().instruction_set})")


def test_a_library_that_cannot_load_the_model_is_missing(fake_library: Path) -> None:
    with StopSignals() as stop:
        finding = ours.check_transcription(fake_library, os.environ, stop)
    assert finding.mark in (Mark.MISSING, Mark.LIMITED) and is_whole(finding)


def test_no_place_for_temporary_files_is_a_line_of_the_report() -> None:
    assert ours.check_temporary_files().mark is Mark.OK
    done = subprocess.run(
        [sys.executable, "-m", "asrswitch", "doctor", "--json"],
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    sections = json.loads(done.stdout)["sections"]
    findings = {item["subject"]: item for section in sections for item in section["findings"]}
    told = findings["temporary files"]
    assert (told["mark"], told["needed"]) == ("missing", True)
    assert "No usable temporary directory" in told["found"] and "TMPDIR" in told["remedy"]


def test_models_and_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ours.check_embedded_models([Path("digits-small.bin"), Path("digits-large.bin")]).mark is Mark.OK
    assert ours.check_embedded_models([Path("digits-small.bin")]).needed
    environ = {"ASRSWITCH_MODELS": str(tmp_path)}
    assert ours.check_fetched_models(environ).remedy == "python -m asrswitch models fetch 0.6B"
    (tmp_path / "mine.bin").touch()
    assert "mine.bin" in ours.check_fetched_models(environ).found
    assert ours.check_room(None).mark is Mark.LIMITED
    free = SimpleNamespace(free=2 * GIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: free)
    assert ours.check_room(tmp_path / "not" / "there").mark is Mark.OK
    free.free = GIB // 2
    assert ours.check_room(tmp_path).mark is Mark.LIMITED


def test_who_holds_the_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    assert ours.check_alone(tmp_path, tmp_path / "proc").mark is Mark.OK
    with (tmp_path / "asrswitch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        finding = ours.check_alone(tmp_path, Path("/proc"))
    assert finding.mark is Mark.LIMITED
    assert f"process {os.getpid()} is measuring" in finding.found


def test_a_worker_of_others_is_named(tmp_path: Path) -> None:
    worker = tmp_path / "proc" / "4711"
    worker.mkdir(parents=True)
    (worker / "cmdline").write_bytes(b"python\0-m\0asrswitch.worker\0lib.so\0")
    assert "process 4711" in ours.check_alone(tmp_path, tmp_path / "proc").found


def test_a_run_is_possible_unless_something_needed_is_missing() -> None:
    here = Section("a", [ok("x", "there"), limited("y", "half", "speed"), missing("z", "no", "more")])
    assert diagnose("1", [here]).ready
    assert not diagnose("1", [here, Section("b", [missing("w", "no", "all", needed=True)])]).ready


def test_every_mark_is_a_word() -> None:
    sections = [
        Section(
            "a", [ok("x", "there"), limited("y", "half", "speed", "buy\x1b[31m"), missing("z", "no", "b")]
        )
    ]
    lines = [line.plain for line in render(diagnose("1", sections))]
    assert lines == [
        "a",
        "  ok       x  there",
        "  limited  y  half",
        "              without it: speed",
        "              to get it: buy\\x1b[31m",
        "  missing  z  no",
        "              without it: b",
        "a run is possible: 1 limited, 1 missing",
    ]


def doctor(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "asrswitch", "doctor", *words],
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_this_machine_can_run() -> None:
    told = doctor("--json")
    assert (told.returncode, told.stderr) == (0, "")
    diagnosis = msgspec.json.decode(told.stdout, type=Diagnosis)
    assert diagnosis.ready
    subjects = [finding.subject for section in diagnosis.sections for finding in section.findings]
    assert len(set(subjects)) == len(subjects)
    said = doctor()
    assert said.returncode == 0
    for subject in subjects:
        assert any(subject in line and line.split()[0] in ("ok", "limited", "missing")
                   for line in said.stdout.splitlines()), subject  # fmt: skip


@pytest.mark.parametrize(
    ("environ", "subject"),
    [({"ASRSWITCH_LIBRARY": "/nowhere.so"}, "library"), ({"CHATLLM_ISA": "abacus"}, "instruction set")],
)
def test_without_what_a_run_needs_the_exit_code_is_1(environ: dict[str, str], subject: str) -> None:
    told = doctor("--json", **environ)
    assert (told.returncode, told.stderr) == (1, "")
    diagnosis = json.loads(told.stdout)
    needed = [f["subject"] for s in diagnosis["sections"] for f in s["findings"]
              if f["needed"] and f["mark"] == "missing"]  # fmt: skip
    assert not diagnosis["ready"] and subject in needed


def test_wrong_usage_is_one_line() -> None:
    done = doctor("--nothing")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
