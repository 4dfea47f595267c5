"""Files in the page cache and out of it, with the kernel's own count of what was read as the witness."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asrswitch.memory import page_cache
from asrswitch.memory.page_cache import prepare, resident_bytes
from helpers.disk import directory_on_disk, file_system, mapped_and_locked
from support import ROOT

SIZE = 300 * mmap.PAGESIZE + 7


@pytest.fixture
def file() -> Iterator[Path]:
    with directory_on_disk() as directory:
        path = directory / "weights.bin"
        path.write_bytes(os.urandom(SIZE))  # not on the disk yet
        yield path


def bytes_read_from_disk(path: Path) -> int:
    """What the kernel had to fetch for this process to read the file."""

    def count() -> int:
        lines = Path("/proc/self/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))

    before = count()
    assert len(path.read_bytes()) == SIZE
    return count() - before


def test_a_cold_file_must_be_read_from_the_disk_and_a_warm_one_not(file: Path) -> None:
    for _ in range(2):
        cold = prepare(file, "cold")
        assert (cold.bytes, cold.before_bytes, cold.resident_bytes, cold.proven) == (SIZE, SIZE, 0, True)
        warm = prepare(file, "warm")
        assert (warm.bytes, warm.before_bytes, warm.resident_bytes, warm.proven) == (SIZE, 0, SIZE, True)
        assert cold.reason is warm.reason is None
        assert bytes_read_from_disk(file) == 0
        assert prepare(file, "cold").proven
        assert bytes_read_from_disk(file) >= SIZE


def test_a_directory_is_all_files_below_it(file: Path) -> None:
    below = file.parent / "more" / "weights.bin"
    below.parent.mkdir()
    below.write_bytes(os.urandom(SIZE))
    (file.parent / "empty").touch()
    cold = prepare(file.parent, "cold")
    assert (cold.bytes, cold.before_bytes, cold.resident_bytes, cold.proven) == (2 * SIZE, 2 * SIZE, 0, True)
    assert prepare(below, "warm").proven
    warm = prepare(file.parent, "warm")
    assert (warm.before_bytes, warm.resident_bytes, warm.proven) == (SIZE, 2 * SIZE, True)


def test_a_hubs_snapshot_is_links_and_each_file_counts_once(file: Path) -> None:
    snapshot = file.parent / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    for name in ("weights.bin", "the-same.bin"):
        (snapshot / name).symlink_to(file)
    (snapshot / "gone").symlink_to(file.parent / "no-such-file")
    for state, resident in (("cold", 0), ("warm", SIZE)):
        found = prepare(snapshot, state)
        assert (found.bytes, found.resident_bytes, found.proven) == (SIZE, resident, True)
    assert prepare(file, "cold").before_bytes == SIZE
    assert bytes_read_from_disk(snapshot / "weights.bin") >= SIZE


def test_one_file_that_stays_is_no_proof_for_its_directory(file: Path) -> None:
    (file.parent / "other.bin").write_bytes(os.urandom(4096))
    with mapped_and_locked(file) as pid:
        found = prepare(file.parent, "cold")
    assert (found.proven, found.resident_bytes) == (False, SIZE)
    assert found.reason is not None and f"process {pid} (" in found.reason


def test_what_is_as_it_was_to_be_stays_so(file: Path) -> None:
    prepare(file, "cold")
    assert prepare(file, "cold").before_bytes == 0
    prepare(file, "warm")
    assert prepare(file, "warm").before_bytes == SIZE


@pytest.mark.parametrize("pages_at_a_time", [1, 7, 300])
def test_a_part_is_counted_in_pages_however_long_the_pieces(
    file: Path, pages_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_cache, "_PIECE", pages_at_a_time * mmap.PAGESIZE)
    prepare(file, "cold")
    with file.open("rb", buffering=0) as opened:
        descriptor = opened.fileno()
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # nothing ahead
        assert resident_bytes(descriptor) == 0
        os.pread(descriptor, 1, 20 * mmap.PAGESIZE)
        one = resident_bytes(descriptor)
        assert one is not None and 0 < one < SIZE and one % mmap.PAGESIZE == 0
        os.pread(descriptor, 7, 300 * mmap.PAGESIZE)
        both = resident_bytes(descriptor)
        assert both is not None and one < both < SIZE
    assert prepare(file, "warm").before_bytes == both
    assert prepare(file, "cold").before_bytes == SIZE


def test_a_file_that_another_process_maps_is_not_proven_cold(file: Path) -> None:
    with mapped_and_locked(file) as pid:
        found = prepare(file, "cold")
        assert not found.proven and found.resident_bytes == SIZE
        assert found.reason is not None and f"process {pid} (" in found.reason and "end it" in found.reason
        assert prepare(file, "warm").proven
    assert prepare(file, "cold").proven  # it has ended


_OVERLAY = """
set -e
mkdir upper work merged && mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged
head -c 5000000 /dev/urandom > lower/new
"$PYTHON" -c '
from pathlib import Path
from asrswitch.memory.page_cache import prepare
print([prepare(Path("merged/new"), state).proven for state in ("cold", "warm", "cold")])'
"""


def test_what_is_not_written_yet_below_an_overlay_is_dropped_too() -> None:
    with directory_on_disk() as directory:
        (directory / "lower").mkdir()
        try_it = ["unshare", "--mount", "sh", "-c"]
        mount = "mkdir -p u w m && mount -t overlay overlay -o lowerdir=lower,upperdir=u,workdir=w m"
        if subprocess.run([*try_it, mount], cwd=directory, capture_output=True, check=False).returncode:
            pytest.skip("an overlay cannot be mounted here: that takes root, and a kernel that has it")
        environ = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*try_it, _OVERLAY], cwd=directory, env=environ, capture_output=True, text=True, check=False
        )
        assert done.stdout == "[True, True, True]\n", done.stderr


def test_memory_that_is_a_file_system_cannot_be_cold() -> None:
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK) or file_system(shared) != "tmpfs":
        pytest.skip("there is no tmpfs at /dev/shm that may be written")
    path = shared / f"asrswitch-test-{os.getpid()}"
    try:
        path.write_bytes(bytes(9999))
        found = prepare(path, "cold")
        assert (found.proven, found.resident_bytes) == (False, 9999)
        assert found.reason == "tmpfs keeps its files in memory: put the model on a disk"
        assert prepare(path, "warm").proven
    finally:
        path.unlink(missing_ok=True)


_AS_NOBODY = """
import json, os, sys
from pathlib import Path
from asrswitch.memory.page_cache import prepare
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
found = [prepare(Path(sys.argv[1]), state) for state in ("warm", "cold")]
print(json.dumps([[one.proven, one.before_bytes, one.resident_bytes, one.reason] for one in found]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_what_the_kernel_does_not_tell_is_no_proof(file: Path) -> None:
    file.chmod(0o644)
    command = [sys.executable, "-c", _AS_NOBODY, str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for proven, before, now, reason in json.loads(done.stdout):
        assert (proven, before, now) == (False, None, None)
        assert "owner" in reason and "write" in reason


def test_a_long_reading_can_be_ended(file: Path) -> None:
    prepare(file, "cold")

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        prepare(file, "warm", stop)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        prepare(tmp_path / "missing", "cold")
