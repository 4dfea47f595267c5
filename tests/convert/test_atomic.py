"""Files that appear whole or not at all: what stands at their name already."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from asrswitch.convert.atomic import atomic_output
from asrswitch.errors import AsrSwitchError


def refusal(path: Path) -> str:
    """The message, which begins with the name that was given."""
    with pytest.raises(AsrSwitchError) as caught, atomic_output(path):
        pass
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.isprintable()
    return message


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        assert "is not a plain file; give the name of one" in refusal(path)
    assert stat.S_ISFIFO(pipe.stat().st_mode) and link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [link, pipe]


@pytest.mark.parametrize("old", [b"old", None], ids=["to a file", "to nothing yet"])
def test_a_link_stays_and_its_target_is_replaced(old: bytes | None, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    target, link = folder / "target", tmp_path / "link"
    if old is not None:
        target.write_bytes(old)
    link.symlink_to("elsewhere/target")
    with atomic_output(link) as file:
        file.write(b"new")
        assert list(tmp_path.glob(".*")) == []  # beside the target, so that it can be renamed
    assert (str(link.readlink()), target.read_bytes()) == ("elsewhere/target", b"new")
    assert list(folder.iterdir()) == [target]


def test_links_in_a_circle_a_link_into_nowhere_and_a_long_name_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "nowhere").symlink_to("missing/file")
    assert "cannot be written: Too many levels of symbolic links" in refusal(tmp_path / "a")
    assert "missing does not exist" in refusal(tmp_path / "nowhere")
    assert "give it a shorter name" in refusal(tmp_path / ("x" * 300))
    assert "give it a shorter name" in refusal(tmp_path / ("x" * 250))  # with what is added to it
