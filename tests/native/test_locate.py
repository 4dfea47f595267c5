from __future__ import annotations

import sys
from pathlib import Path

import pytest

from asrswitch.errors import LibraryError
from asrswitch.native import open_library
from asrswitch.native.locate import VARIABLE, find_library


def test_the_option_wins_over_the_environment(tmp_path: Path) -> None:
    given, named = tmp_path / "given.so", tmp_path / "named.so"
    given.touch()
    named.touch()
    assert find_library(str(given), {VARIABLE: str(named)}) == given
    assert find_library(None, {VARIABLE: str(named)}) == named


def test_a_library_that_is_not_there_is_named() -> None:
    with pytest.raises(LibraryError, match=r"/nowhere/lib\.so"):
        find_library("/nowhere/lib.so", {})


def test_an_installed_distribution_is_found_from_a_clone_without_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, clone = tmp_path / "site", tmp_path / "clone"
    built = site / "asrswitch" / "native" / "libchatllm.so"
    built.parent.mkdir(parents=True)
    built.touch()
    information = site / "asrswitch-9.9.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: asrswitch\nVersion: 9.9\n")
    (information / "RECORD").write_text("asrswitch/native/libchatllm.so,,\n")
    clone.mkdir()
    monkeypatch.setattr("asrswitch.native.locate.resources.files", lambda _package: clone)
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    assert find_library(None, {}) == built
    monkeypatch.setattr(sys, "path", [str(clone)])
    with pytest.raises(LibraryError, match="pip install"):
        find_library(None, {})


def test_only_a_library_with_the_interface_opens(fake_library: Path, tmp_path: Path) -> None:
    open_library(str(fake_library))
    text = tmp_path / "libtext.so"
    text.write_text("not a library")
    with pytest.raises(OSError, match="libtext") as caught:
        open_library(str(text))
    assert "ctypes" not in str(caught.value)
    with pytest.raises(OSError, match="chatllm_create"):
        open_library("libc.so.6")
