"""``python -m asrswitch leak-check`` from outside, on a library that misbehaves as it is told."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from asrswitch.leak_check.report import LeakCheckReport
from asrswitch.leak_check.sites import Holder
from asrswitch.stats.series import Word
from support import ROOT, alive, wait_for

needs_valgrind = pytest.mark.skipif(
    shutil.which("valgrind") is None, reason="valgrind is not installed: `apt install valgrind`"
)


@pytest.fixture(scope="session")
def leaky_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """leaky_chatllm.c, compiled with its lines."""
    library = tmp_path_factory.mktemp("library") / "libleaky.so"
    source = Path(__file__).with_name("leaky_chatllm.c")
    words = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-g", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*words, "-o", library, source], check=True)
    return library


@pytest.fixture
def command(leaky_library: Path, clip: Path) -> Callable[..., list[str]]:
    """The command line of a check of that library, as short as it can be."""

    def build(*words: str) -> list[str]:
        start = [sys.executable, "-m", "asrswitch", "leak-check", "--allow-concurrent"]
        start += ["--library", str(leaky_library)]
        audio = [] if "--audio" in words else ["--audio", str(clip)]
        return [*start, *audio, "--cycles", "3", *words]

    return build


@pytest.fixture
def check(command: Callable[..., list[str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run it to its end."""

    def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*words),
            cwd=ROOT,
            env=os.environ | environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.mark.valgrind
@needs_valgrind
def test_memcheck_names_what_is_lost_in_each_cycle(
    check: Callable[..., subprocess.CompletedProcess[str]], script: Callable[..., str], tmp_path: Path
) -> None:
    """The model's transformer and a growing list are leaks with their sites; tables made once are none."""
    model = script("leaky", lose=4096, chain=64, tables=500, stray=1, kernels="avx2")
    out = tmp_path / "out"
    done = check("-m", model, "--check", "--format", "json", "--out", str(out))
    assert (done.returncode, done.stderr) == (3, "")
    report = msgspec.json.decode(done.stdout, type=LeakCheckReport)
    assert report.word is Word.LEAK
    grown = [site for site in report.sites if site.bytes_per_cycle]
    assert [(site.bytes_per_cycle, site.blocks_per_cycle, site.holder) for site in grown] == [
        (4096, 1, Holder.LIBRARY),
        (64, 1, Holder.LIBRARY),
    ]
    for site, function in zip(grown, ("build_transformer", "append_to_chain"), strict=True):
        names = [frame.function for frame in site.stack]
        assert names[1:3] == [function, "chatllm_start"]
        assert (site.stack[1].source or "").startswith("leaky_chatllm.c:")
    totals = {total.holder: total for total in report.totals}
    assert (totals[Holder.LIBRARY].once.bytes, totals[Holder.LIBRARY].bytes_per_cycle) == (500, 4160)
    assert totals[Holder.PYTHON].once.bytes > 0
    mistakes = [(item.kind, item.stack[0].function, item.count) for item in report.library_mistakes]
    assert mistakes == [("InvalidRead", "read_astray", 3), ("UninitCondition", "read_astray", 3)]
    assert report.instruction_sets == report.native_instruction_sets == ("avx2",)
    assert sorted(path.name for path in out.iterdir()) == ["memcheck-2.xml", "memcheck-3.xml"]


@pytest.mark.valgrind
@needs_valgrind
def test_what_is_made_once_is_no_leak(
    check: Callable[..., subprocess.CompletedProcess[str]], script: Callable[..., str]
) -> None:
    first, second = script("a", tables=500), script("b")
    done = check("-m", first, "-m", second, "--check")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "verdict: flat, no block of the library's is added by a cycle of each of 2 models" in lines
    assert any(line.startswith("library: 500 bytes in 1 block made once") for line in lines)
    assert "errors: 0" in lines
    assert any("AVX-512" in line and "not what ran" in line for line in lines)


@pytest.mark.valgrind
@needs_valgrind
def test_massif_draws_the_heap_and_tells_its_growth(
    check: Callable[..., subprocess.CompletedProcess[str]], script: Callable[..., str]
) -> None:
    """Without --check, a leak is told and the exit code is 0."""
    model = script("leaky", lose=65536, tables=500)
    done = check("-m", model, "--tool", "massif", "--format", "json", "--cycles", "6")
    assert (done.returncode, done.stderr) == (0, "")
    report = msgspec.json.decode(done.stdout, type=LeakCheckReport)
    assert report.word is Word.LEAK and report.curve
    assert report.curve.growth_bytes_per_cycle == pytest.approx(65536, abs=1024)
    assert len(report.curve.cycles) == 6
    assert all(cycle.after_bytes for cycle in report.curve.cycles)
    assert len(report.curve.snapshots) > 50


@pytest.mark.valgrind
@needs_valgrind
def test_dhat_tells_who_allocates(
    check: Callable[..., subprocess.CompletedProcess[str]], script: Callable[..., str]
) -> None:
    done = check("-m", script("leaky", chain=64), "--tool", "dhat", "--check")
    assert (done.returncode, done.stderr) == (3, "")
    assert "verdict: leak, per cycle library: 64 bytes in 1 block" in done.stdout
    assert "64 bytes in 1 block per cycle, at exit, library: 128 bytes" in done.stdout
    assert "append_to_chain (leaky_chatllm.c:" in done.stdout
    _, _, busy = done.stdout.partition("sites that allocate in every cycle, the most first:\n")
    assert " bytes in 1 block asked for per cycle, library; 0 bytes left at exit" in busy.splitlines()[0]
    assert "chatllm_create" in busy.splitlines()[2]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--cycles", "2"), 2, "--cycles is 2"),
        (("--cycles", "many"), 2, "--cycles"),
        (("--tool", "helgrind"), 2, "--tool"),
        (("--threads", "0"), 2, "--threads"),
        (("--timeout", "nan"), 2, "--timeout"),
        (("-m", "a=/nothing/there.bin"), 2, "there is no such file"),
        (("--audio", "/nothing/there.wav"), 2, "there is no such file"),
        (("--driver", "/nothing/there"), 2, "--driver"),
        (("--driver", "/bin/true", "--tool", "massif"), 2, "--driver with --tool massif"),
        (("--library", "/nothing/there.so"), 2, "there is no such library"),
    ],
)
def test_wrong_usage_is_a_line(
    words: tuple[str, ...], code: int, says: str, check: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = check(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert done.stderr.startswith("asrswitch: ") and says in done.stderr


def test_without_valgrind_the_remedy_is_told(
    check: Callable[..., subprocess.CompletedProcess[str]], script: Callable[..., str], tmp_path: Path
) -> None:
    done = check("-m", script("leaky"), PATH=str(tmp_path))
    message = "asrswitch: valgrind is not installed, and leak-check needs it: `apt install valgrind`\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


@pytest.mark.valgrind
@needs_valgrind
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"fail": 1}, "leaky: told to fail"),
        ({"crash": 1}, "under massif, leaky: the worker was killed by SIGSEGV"),
    ],
)
def test_a_failing_library_is_a_line(
    settings: dict[str, int],
    says: str,
    check: Callable[..., subprocess.CompletedProcess[str]],
    script: Callable[..., str],
) -> None:
    done = check("-m", script("leaky", **settings), "--tool", "massif")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert says in done.stderr


@pytest.mark.valgrind
@needs_valgrind
def test_a_driver_must_make_its_cycles(
    check: Callable[..., subprocess.CompletedProcess[str]], script: Callable[..., str]
) -> None:
    """One that prints no line for each has made none, and one that fails is quoted."""
    done = check("-m", script("any"), "--driver", "/bin/true")
    message = "asrswitch: /bin/true: printed 0 lines for 2 cycles; it is no cycle driver\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)
    done = check("-m", script("any"), "--driver", shutil.which("seq") or "", "--check")
    assert (done.returncode, done.stdout) == (1, "")
    assert "seq under memcheck: the worker ended with exit code 1; it said: " in done.stderr


@pytest.mark.valgrind
@needs_valgrind
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_leaves_nothing_behind(
    number: signal.Signals, command: Callable[..., list[str]], script: Callable[..., str], tmp_path: Path
) -> None:
    scratch, ready = tmp_path / "scratch", tmp_path / "ready"
    scratch.mkdir()
    process = subprocess.Popen(
        command("-m", script("leaky", hang=ready), "--tool", "massif"),
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(ready.exists, 60)
    (child,) = children(process.pid)
    assert b"massif" in Path(f"/proc/{child}/cmdline").read_bytes()
    process.send_signal(number)
    output, said = process.communicate(timeout=30)
    wait_for(lambda: not alive(child))
    assert output == ""
    if number is not signal.SIGKILL:
        assert (process.returncode, said) == (128 + number, f"asrswitch: stopped by {number.name}\n")
        assert list(scratch.iterdir()) == []


def children(parent: int) -> list[int]:
    """Processes whose parent it is."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found
