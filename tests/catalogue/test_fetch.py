"""Fetching from a hub on this machine: what arrives, breaks off, is wrong, or finds no room."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from fake_hub import COMMIT, PIECE_BYTES, Hub, serving
from huggingface_hub import constants

from asrswitch.catalogue import fetch as fetching
from asrswitch.catalogue import published
from asrswitch.catalogue.download import partial_path
from asrswitch.catalogue.fetch import fetch
from asrswitch.catalogue.published import CHECKPOINT, Host, Published, PublishedFile
from asrswitch.errors import AsrSwitchError, UsageError
from asrswitch.model_facts import model_facts
from helpers.checkpoint import Sizes, write_checkpoint

CONTENT = bytes(range(256)) * 1024  # 256 KiB: several pieces
SUM = hashlib.sha256(CONTENT).hexdigest()
NAME, FILE = "0.6B", "qwen3-asr-0.6b-q4_0.bin"
PATH = f"them/models/resolve/main/{FILE}"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as server:
        server.files[PATH] = CONTENT
        yield server


@pytest.fixture
def environ(hub: Hub, tmp_path: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": hub.url,
        "MODELSCOPE_DOMAIN": hub.url,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "ASRSWITCH_MODELS": str(tmp_path / "models"),
    }


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once, and little is lost when a connection breaks off."""
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", PIECE_BYTES)


def item(sha256: str | None = None, count: int | None = None, host: Host = Host.HUGGING_FACE) -> Published:
    files = (PublishedFile(FILE, count, sha256),)
    return Published(NAME, "q4_0", host, "them/models", "main", files, "Apache-2.0")


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put models into the catalogue in place of the real ones."""

    def put(*items: Published) -> None:
        monkeypatch.setattr(published, "PUBLISHED", items)
        monkeypatch.setattr(fetching, "PUBLISHED", items)

    put(item())
    return put


def get(environ: dict[str, str], name: str = NAME, type: str | None = None) -> tuple[Path, list[str]]:
    said: list[str] = []
    return fetch(name, type, None, environ, said.append), said


def left_over(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "models").iterdir())


@pytest.mark.usefixtures("offer")
def test_a_file_comes_whole_and_its_sum_is_checked_against_the_hubs(
    environ: dict[str, str], tmp_path: Path
) -> None:
    path, said = get(environ, NAME.lower())
    assert path == tmp_path / "models" / FILE
    assert path.read_bytes() == CONTENT
    assert left_over(tmp_path) == [FILE]
    assert said == [f"{path}: 262,144 bytes, Apache-2.0, SHA-256 {SUM}, as the hub states it"]


def test_the_catalogues_sum_counts_before_the_hubs(
    environ: dict[str, str], offer: Any, hub: Hub, tmp_path: Path
) -> None:
    offer(item(SUM, len(CONTENT)))
    hub.sums[PATH] = "f" * 64
    assert get(environ)[1][0].endswith(f"SHA-256 {SUM}, of the catalogue")


@pytest.mark.usefixtures("offer")
def test_what_is_there_is_not_fetched_again(environ: dict[str, str], hub: Hub) -> None:
    get(environ)
    hub.asked.clear()
    path, said = get(environ)
    assert (said, hub.asked) == ([f"{path}: is there already"], [])


def test_what_is_there_with_another_sum_is_refused_and_stays(
    environ: dict[str, str], offer: Any, tmp_path: Path
) -> None:
    get_to = tmp_path / "models" / FILE
    get_to.parent.mkdir()
    get_to.write_bytes(b"another")
    offer(item(SUM))
    with pytest.raises(AsrSwitchError, match="remove it and fetch again"):
        get(environ)
    assert get_to.read_bytes() == b"another"


@pytest.mark.usefixtures("offer")
def test_cuts_are_gone_on_from(environ: dict[str, str], hub: Hub) -> None:
    hub.cut_after = [100_000, 1, 70_000]
    path, _ = get(environ)
    assert path.read_bytes() == CONTENT
    assert hub.ranges == [None, "bytes=98304-", "bytes=98304-", "bytes=163840-"]


@pytest.mark.usefixtures("offer")
def test_what_a_dead_connection_left_is_gone_on_from_later(
    environ: dict[str, str], hub: Hub, tmp_path: Path
) -> None:
    hub.cut_after = [100_000] + [0] * 50
    with pytest.raises(AsrSwitchError, match=r"broke off .*; 98,304 of 262,144 bytes are kept") as caught:
        get(environ)
    assert f"put it at {tmp_path / 'models' / FILE}" in str(caught.value)
    assert left_over(tmp_path) == [f".{FILE}.download"]
    hub.cut_after, hub.ranges = [], []
    path, _ = get(environ)
    assert path.read_bytes() == CONTENT
    assert hub.ranges == ["bytes=98304-"]


@pytest.mark.usefixtures("offer")
def test_a_server_that_knows_no_ranges_begins_again(environ: dict[str, str], hub: Hub) -> None:
    hub.cut_after, hub.ignores_ranges = [100_000], True
    assert get(environ)[0].read_bytes() == CONTENT


@pytest.mark.usefixtures("offer")
def test_what_is_kept_of_a_longer_file_is_not_gone_on_from(environ: dict[str, str], tmp_path: Path) -> None:
    kept = partial_path(tmp_path / "models" / FILE)
    kept.parent.mkdir()
    kept.write_bytes(b"x" * (len(CONTENT) + 1))
    assert get(environ)[0].read_bytes() == CONTENT


@pytest.mark.usefixtures("offer")
def test_what_is_kept_of_another_file_is_found_out_and_removed(
    environ: dict[str, str], tmp_path: Path
) -> None:
    kept = partial_path(tmp_path / "models" / FILE)
    kept.parent.mkdir()
    kept.write_bytes(b"x" * 1000)
    with pytest.raises(AsrSwitchError, match=r"its SHA-256 is \w+, the hub's is"):
        get(environ)
    assert left_over(tmp_path) == []
    assert get(environ)[0].read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("in_catalogue", "at_hub", "says"),
    [
        ((None, None), "f" * 64, "the hub's is f{64}"),
        ((None, None), "f" * 40, "its git SHA-1 is .* the hub's is f{40}"),
        (("e" * 64, None), None, "the catalogue's is e{64}"),
        ((SUM, 7), None, "262,144 bytes arrived, 7 were announced"),
    ],
)
def test_a_wrong_sum_or_size_leaves_nothing(
    in_catalogue: tuple[str | None, int | None],
    at_hub: str | None,
    says: str,
    environ: dict[str, str],
    offer: Any,
    hub: Hub,
    tmp_path: Path,
) -> None:
    offer(item(*in_catalogue))
    if at_hub:
        hub.sums[PATH] = at_hub
    with pytest.raises(AsrSwitchError, match=says) as caught:
        get(environ)
    assert "it was removed" in str(caught.value)
    assert left_over(tmp_path) == []


@pytest.mark.usefixtures("offer")
def test_a_small_file_is_checked_by_its_name_in_git(environ: dict[str, str], hub: Hub) -> None:
    git = hashlib.sha1(b"blob 262144\0" + CONTENT).hexdigest()
    hub.sums[PATH] = git
    assert get(environ)[1][0].endswith(f"git SHA-1 {git}, as the hub states it")


@pytest.mark.usefixtures("offer")
def test_that_nothing_was_checked_is_said(environ: dict[str, str], hub: Hub) -> None:
    hub.sums[PATH] = "version-7"
    assert "not checked" in get(environ)[1][0]


@pytest.mark.usefixtures("offer")
def test_a_refusal_is_not_repeated(environ: dict[str, str], hub: Hub) -> None:
    hub.refuses = 403
    with pytest.raises(AsrSwitchError, match=r"broke off .*403"):
        get(environ)
    assert len(hub.ranges) == 1


@pytest.mark.usefixtures("offer")
def test_a_file_that_lies_elsewhere_is_followed(environ: dict[str, str], hub: Hub) -> None:
    hub.files["elsewhere/blob"] = hub.files.pop(PATH)
    hub.redirects[PATH] = "elsewhere/blob"
    assert get(environ)[0].read_bytes() == CONTENT


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.usefixtures("offer")
def test_where_there_is_no_room_nothing_is_begun(
    environ: dict[str, str], hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(1 << 40, 0, 1000))
    with pytest.raises(AsrSwitchError, match=r"1,000 bytes are free, .* needs 262,144"):
        get(environ)
    assert hub.ranges == [] and left_over(tmp_path) == []


@pytest.mark.usefixtures("offer")
def test_a_disk_that_fills_up_is_said_and_what_is_there_is_kept(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.file_download

    def full(_url: str, content: Any, **_options: object) -> None:
        content.write(CONTENT[:5000])
        content.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(huggingface_hub.file_download, "http_get", full)
        with pytest.raises(AsrSwitchError, match=r"No space left on device\); make room"):
            get(environ)
    assert partial_path(tmp_path / "models" / FILE).stat().st_size == 5000
    assert get(environ)[0].read_bytes() == CONTENT


@pytest.mark.usefixtures("offer")
@pytest.mark.parametrize("host", [Host.HUGGING_FACE, Host.MODELSCOPE])
def test_without_a_network_it_says_which_file_to_put_where(
    host: Host, environ: dict[str, str], offer: Any, tmp_path: Path
) -> None:
    offer(item(None, 1234, host))
    nobody = environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "MODELSCOPE_DOMAIN": "http://127.0.0.1:9"}
    with pytest.raises(AsrSwitchError) as caught:
        get(nobody)
    public = "huggingface.co" if host is Host.HUGGING_FACE else "www.modelscope.cn/models"
    said = str(caught.value)
    assert "http://127.0.0.1:9 cannot be reached" in said
    assert f"https://{public}/them/models/resolve/main/{FILE} (1,234 bytes)" in said
    assert f"put it at {tmp_path / 'models' / FILE}" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("host", [Host.HUGGING_FACE, Host.MODELSCOPE])
def test_a_file_that_the_hub_does_not_have(host: Host, environ: dict[str, str], offer: Any, hub: Hub) -> None:
    offer(item(host=host))
    hub.files.clear()
    with pytest.raises(AsrSwitchError, match=r"has no such file|does not show it"):
        get(environ)


def test_modelscope_tells_the_sum_in_its_list(environ: dict[str, str], offer: Any, hub: Hub) -> None:
    offer(item(host=Host.MODELSCOPE))
    hub.cut_after = [100_000]
    path, said = get(environ)
    assert path.read_bytes() == CONTENT
    assert f"SHA-256 {SUM}, as the hub states it" in said[0]
    assert hub.ranges == [None, "bytes=98304-"]
    assert not any(asked.startswith("HEAD") for asked in hub.asked)


def checkpoint(directory: Path, hub: Hub) -> Published:
    """A tiny checkpoint, served as the official ones are."""
    write_checkpoint(directory, Sizes(), 1)
    files = []
    for path in sorted(directory.iterdir()):
        content = path.read_bytes()
        digest = hub.add("them/official", COMMIT, path.name, content)
        files.append(PublishedFile(path.name, len(content), digest))
    return Published(
        "Qwen3-ASR-0.6B", CHECKPOINT, Host.HUGGING_FACE, "them/official", COMMIT, tuple(files), "MIT"
    )


def test_what_is_not_published_is_made_from_the_checkpoint(
    environ: dict[str, str], offer: Any, hub: Hub, tmp_path: Path
) -> None:
    offer(item(), checkpoint(tmp_path / "source", hub))
    path, said = get(environ, "0.6B", "q8_0")
    assert path == tmp_path / "models" / "qwen3-asr-0.6b-q8_0.bin"
    assert model_facts(path).tensors > 0
    assert said[0] == "0.6B is not published as q8_0: it is made from them/official"
    assert left_over(tmp_path) == ["Qwen3-ASR-0.6B", "qwen3-asr-0.6b-q8_0.bin"]
    assert get(environ, "0.6b", "q8_0")[1] == [f"{path}: is there already"]
    # The checkpoint is used again.
    hub.asked.clear()
    assert get(environ, "0.6B", "f16")[0].is_file() and hub.asked == []


def test_a_checkpoint_appears_when_its_last_file_is_there(
    environ: dict[str, str], offer: Any, hub: Hub, tmp_path: Path
) -> None:
    official = checkpoint(tmp_path / "source", hub)
    offer(official)
    last = official.files[-1].path
    content = hub.files.pop(f"them/official/resolve/{COMMIT}/{last}")
    with pytest.raises(AsrSwitchError, match="has no such file"):
        get(environ, official.name)
    assert left_over(tmp_path) == [f".{official.name}.download"]
    hub.add("them/official", COMMIT, last, content)
    hub.asked.clear()
    path, _ = get(environ, official.name.lower())
    assert sorted(file.name for file in path.iterdir()) == sorted(file.path for file in official.files)
    assert {asked.rpartition("/")[2] for asked in hub.asked} == {last}
    assert left_over(tmp_path) == [official.name]


def test_a_checkpoint_that_was_put_there_in_part_is_not_taken_for_whole(
    environ: dict[str, str], offer: Any, hub: Hub, tmp_path: Path
) -> None:
    official = checkpoint(tmp_path / "source", hub)
    offer(official)
    (tmp_path / "models" / official.name).mkdir(parents=True)
    with pytest.raises(AsrSwitchError, match=r"lacks .*config\.json"):
        get(environ, official.name)


@pytest.mark.usefixtures("offer")
@pytest.mark.parametrize(
    ("name", "type", "says"),
    [("7B", None, "7B as q4_0: not in the catalogue"), ("0.6B", "q9", "0.6B as q9: not in the catalogue")],
)
def test_what_is_not_in_the_catalogue(
    name: str, type: str | None, says: str, environ: dict[str, str]
) -> None:
    with pytest.raises(UsageError, match=says):
        get(environ, name, type)


def test_a_checkpoint_has_no_type(environ: dict[str, str], offer: Any, hub: Hub, tmp_path: Path) -> None:
    offer(checkpoint(tmp_path / "source", hub))
    with pytest.raises(UsageError, match=r"leave out --type, or fetch 0\.6B"):
        get(environ, "Qwen3-ASR-0.6B", "q4_0")


@pytest.mark.usefixtures("offer")
def test_without_a_home_a_place_must_be_given(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give --dest, or set ASRSWITCH_MODELS"):
        fetch(NAME, None, None, {"HF_ENDPOINT": hub.url}, print)
    path = fetch(NAME, None, tmp_path / "a" / "b", {"HF_ENDPOINT": hub.url}, print)
    assert path == tmp_path / "a" / "b" / FILE


@pytest.mark.usefixtures("offer")
def test_without_the_hubs_library_it_says_how_to_get_it(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(
        AsrSwitchError, match="pip install huggingface_hub`, or on a machine that can, download"
    ):
        get(environ)


def test_items_can_be_written_down() -> None:
    assert msgspec.json.decode(msgspec.json.encode(item(SUM)), type=Published) == item(SUM)
