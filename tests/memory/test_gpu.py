"""What NVML tells, by a library of the tests' own with its functions: no GPU is where these run."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asrswitch.memory.gpu import GpuMemory, Gpus, open_gpus

SOURCE = Path(__file__).parent / "fake_nvml.c"
FIRST_NAMESPACE = "pid:[4026531836]"
Tell = Callable[[str], None]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1")
    compiler = os.environ.get("CC", "cc")
    words = [
        compiler,
        "-shared",
        "-fPIC",
        "-D_GNU_SOURCE",
        "-O1",
        "-Wall",
        "-Werror",
        "-o",
        path,
        str(SOURCE),
    ]
    subprocess.run(words, check=True)
    return path


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch) -> Tell:
    return lambda text: monkeypatch.setenv("FAKE_NVML", text)


@pytest.fixture
def gpus(library: str, tell: Tell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpus]:
    """In the first namespace of processes, wherever the tests run."""
    tell("")
    (tmp_path / "self" / "ns").mkdir(parents=True)
    (tmp_path / "self" / "ns" / "pid").symlink_to(FIRST_NAMESPACE)
    opened = open_gpus(library, proc=tmp_path)
    assert opened is not None
    with opened:
        yield opened


def test_memory_of_processes_is_summed_over_devices_and_told_from_that_of_others(
    gpus: Gpus, tell: Tell
) -> None:
    tell("0:11:500 0:12:6000 1:11:30 1:99:2")
    assert gpus.read([11]) == GpuMemory(530, 67_000, 2_000_000)
    assert gpus.read([11, 12]) == GpuMemory(6530, 67_000, 2_000_000)
    assert gpus.read([13]) == GpuMemory(0, 67_000, 2_000_000)


def test_many_processes_are_asked_for_again_with_room(gpus: Gpus, tell: Tell) -> None:
    tell(" ".join(f"0:{pid}:1" for pid in range(1, 51)))
    told = gpus.read(range(1, 51))
    assert told is not None and told.processes_bytes == 50


@pytest.mark.parametrize("text", ["0:11:-1", "0:11:500 not-allowed"])
def test_what_it_does_not_tell_is_not_known(text: str, gpus: Gpus, tell: Tell) -> None:
    tell(text)
    assert gpus.read([11]) == GpuMemory(None, 67_000, 2_000_000)


def test_what_it_does_not_tell_of_others_does_not_matter(gpus: Gpus, tell: Tell) -> None:
    tell("0:12:-1 1:11:30")
    assert gpus.read([11]) == GpuMemory(30, 67_000, 2_000_000)


def test_in_another_namespace_processes_have_other_numbers(library: str, tell: Tell, tmp_path: Path) -> None:
    tell("0:11:500")
    (tmp_path / "self" / "ns").mkdir(parents=True)
    (tmp_path / "self" / "ns" / "pid").symlink_to("pid:[4026532000]")
    opened = open_gpus(library, proc=tmp_path)
    assert opened is not None
    with opened:
        assert opened.read([11]) == GpuMemory(None, 67_000, 2_000_000)


def test_a_device_that_is_lost_is_nothing_known(gpus: Gpus, tell: Tell) -> None:
    tell("lost")
    assert gpus.read([11]) is None


def test_no_device_is_no_memory(gpus: Gpus, tell: Tell) -> None:
    tell("no-device")
    assert gpus.read([11]) == GpuMemory(0, 0, 0)


def test_without_library_or_driver_nothing_is_known(library: str, tell: Tell, tmp_path: Path) -> None:
    assert open_gpus(str(tmp_path / "libnvidia-ml.so.1")) is None
    assert open_gpus("libm.so.6") is None  # one that has none of the functions
    tell("no-driver")
    assert open_gpus(library) is None


def test_it_is_let_go_once(library: str, tell: Tell) -> None:
    count = ctypes.CDLL(library).fake_opened
    tell("")
    before = count()
    opened = open_gpus(library)
    assert opened is not None and count() == before + 1
    opened.close()
    opened.close()
    assert count() == before
