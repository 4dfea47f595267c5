"""SHA-256 of files, and what is remembered of them."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import msgspec
import pytest

from asrswitch import hashing
from asrswitch.hashing import hash_file, sha256

LARGE = 16 << 20
AN_HOUR_AGO = time.time() - 3600


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(tmp_path / "cache")}


def large_file(path: Path, byte: bytes = b"a") -> str:
    """A file that is worth remembering and has rested; its sum."""
    path.write_bytes(byte * LARGE)
    os.utime(path, (AN_HOUR_AGO, AN_HOUR_AGO))
    return hashlib.sha256(byte * LARGE).hexdigest()


@pytest.fixture
def rested(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all files had been written long ago: their change time cannot be set."""
    monkeypatch.setattr(hashing, "_SETTLED_NS", 0)


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read to be hashed."""
    read: list[Path] = []

    def counting(path: Path) -> str:
        read.append(path)
        return hash_file(path)

    monkeypatch.setattr(hashing, "hash_file", counting)
    return read


def notes(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache").rglob("*.json"))


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)) * 5000])
def test_sums_are_those_of_the_content(content: bytes, tmp_path: Path, environ: dict[str, str]) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    assert sha256(file, environ) == hash_file(file) == hashlib.sha256(content).hexdigest()
    assert not notes(tmp_path)  # too small to be remembered


@pytest.mark.usefixtures("rested")
def test_a_large_file_is_read_once(tmp_path: Path, environ: dict[str, str], readings: list[Path]) -> None:
    file = tmp_path / "model.bin"
    wanted = large_file(file)
    assert [sha256(file, environ), sha256(file, environ)] == [wanted, wanted]
    assert readings == [file]


@pytest.mark.usefixtures("rested")
def test_a_file_that_was_exchanged_is_read_again(tmp_path: Path, environ: dict[str, str]) -> None:
    file, other = tmp_path / "model.bin", tmp_path / "other.bin"
    before = large_file(file)
    assert sha256(file, environ) == before
    after = large_file(other, b"b")  # of the same size and modification time
    other.replace(file)
    assert sha256(file, environ) == after != before


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path, environ: dict[str, str]) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(b"a" * LARGE)
    sha256(file, environ)
    assert not notes(tmp_path)


@pytest.mark.usefixtures("rested")
@pytest.mark.parametrize("note", [b"", b"not json", b'{"path": 1}', b"\xff" * 9])
def test_a_damaged_note_counts_for_nothing(note: bytes, tmp_path: Path, environ: dict[str, str]) -> None:
    file = tmp_path / "model.bin"
    wanted = large_file(file)
    sha256(file, environ)
    (written,) = notes(tmp_path)
    written.write_bytes(note)
    assert sha256(file, environ) == wanted


@pytest.mark.usefixtures("rested")
@pytest.mark.parametrize(
    ("field", "value"),
    [("bytes", 1), ("mtime_ns", 1), ("inode", 1), ("device", 1), ("path", "00"), ("sha256", "short")],
)
def test_a_note_of_another_file_counts_for_nothing(
    field: str, value: object, tmp_path: Path, environ: dict[str, str], readings: list[Path]
) -> None:
    file = tmp_path / "model.bin"
    wanted = large_file(file)
    sha256(file, environ)
    (written,) = notes(tmp_path)
    written.write_bytes(msgspec.json.encode(msgspec.json.decode(written.read_bytes()) | {field: value}))
    assert sha256(file, environ) == wanted
    assert len(readings) == 2


@pytest.mark.usefixtures("rested")
def test_without_a_place_for_notes_there_is_a_sum_all_the_same(tmp_path: Path) -> None:
    file, in_the_way = tmp_path / "model.bin", tmp_path / "file"
    wanted = large_file(file)
    in_the_way.touch()
    assert sha256(file, {}) == wanted
    assert sha256(file, {"XDG_CACHE_HOME": str(in_the_way)}) == wanted


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sha256(tmp_path / "nothing", {})


def test_a_directorys_sum_is_of_names_and_contents(tmp_path: Path, environ: dict[str, str]) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        (directory / "more").mkdir(parents=True)
        (directory / "a").write_bytes(b"1")
        (directory / "more" / "b").write_bytes(b"2")
    sums = [sha256(first, environ)]
    assert sums == [sha256(second, environ)]
    (second / "more" / "b").write_bytes(b"3")
    sums.append(sha256(second, environ))
    (second / "more" / "b").rename(second / "b")
    sums.append(sha256(second, environ))
    (second / "b").unlink()
    sums.append(sha256(second, environ))
    assert len(set(sums)) == 4
