from __future__ import annotations

import itertools
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrswitch.memory.cgroup import (
    ControlGroup,
    ControlGroupReader,
    LimitedGroup,
    Mount,
    locate,
    parse_membership,
    parse_mounts,
)

# What a path may hold; mountinfo writes some of it as octal numbers.
segments = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: name not in (".", "..")
)
paths = st.lists(segments, max_size=4).map(lambda names: "/" + "/".join(names))


def mountinfo_line(mount: Mount, kind: str = "cgroup2", optional: str = "shared:9 ") -> str:
    root, point = (
        text.replace("\\", r"\134").replace(" ", r"\040").replace("\t", r"\011").replace("\n", r"\012")
        for text in (mount.root, mount.point)
    )
    return f"41 31 0:38 {root} {point} rw,relatime {optional}- {kind} cgroup rw\n"


@given(paths, paths, st.sampled_from(["", "shared:9 ", "shared:9 master:3 "]))
def test_mounts_are_found_among_others(root: str, point: str, optional: str) -> None:
    mount = Mount(root, point)
    other = mountinfo_line(Mount("/", "/sys/fs/cgroup/memory"), kind="cgroup")
    assert parse_mounts(other + mountinfo_line(mount, optional=optional) + other) == [mount]


@given(st.text())
def test_no_text_upsets_the_parsers(text: str) -> None:
    parse_membership(text)
    parse_mounts(text)
    parse_mounts(f"1 2 0:3 {text} {text} rw - cgroup2 x rw")


@given(paths, paths, paths)
def test_groups_lie_inside_the_mount_innermost_first(root: str, inside: str, point: str) -> None:
    path = str(PurePosixPath(root + "/" + inside))
    directories = locate(path, Mount(root, point))
    assert directories[-1] == Path(point)
    assert directories[0] == Path(point, inside.lstrip("/"))
    for inner, outer in itertools.pairwise(directories):
        assert inner.parent == outer


@pytest.mark.parametrize(
    ("path", "root", "inner"),
    [
        ("/system.slice/a.service", "/", "system.slice/a.service"),
        ("/docker/abc/worker", "/docker/abc", "worker"),
        ("/", "/", "."),
        ("/docker/other", "/docker/abc", None),
        ("/../../user.slice", "/", None),
    ],
)
def test_where_a_group_lies(path: str, root: str, inner: str | None) -> None:
    directories = locate(path, Mount(root, "/cg"))
    assert directories[:1] == ([] if inner is None else [Path("/cg", inner)])


def test_membership_is_that_of_version_2() -> None:
    assert parse_membership("4:memory:/old\n0::/a/b:c\n") == "/a/b:c"
    assert parse_membership("4:memory:/old\n") is None
    assert parse_membership("0::/a (deleted)\n") == "/a"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A mounted tree ``slice/service/worker`` and a process 7 in its innermost group."""
    mount = tmp_path / "the mount"
    (mount / "slice" / "service" / "worker").mkdir(parents=True)
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "self").mkdir()
    (tmp_path / "proc" / "7" / "cgroup").write_text("4:memory:/x\n0::/slice/service/worker\n")
    line = mountinfo_line(Mount("/", str(mount)))
    (tmp_path / "proc" / "self" / "mountinfo").write_text(line)
    return mount


def fill(directory: Path, **files: object) -> None:
    for name, content in files.items():
        (directory / f"memory.{name}").write_text(f"{content}\n")


def test_the_smallest_limit_around_a_process_counts(tree: Path, tmp_path: Path) -> None:
    inner = tree / "slice" / "service" / "worker"
    fill(inner, current=1000, peak=3000, max="max")
    fill(inner.parent, current=5000, peak=6000, max=8000)
    fill(inner.parent.parent, current=7000, peak=9000, max=9500)
    reader = ControlGroupReader(7, tmp_path / "proc")
    assert reader.read() == ControlGroup(1000, 3000, 8000, 2500)
    fill(inner, max=4000)
    assert reader.read() == ControlGroup(1000, 3000, 4000, 2500)
    (inner / "memory.peak").unlink()  # before Linux 5.19
    for directory in (inner, inner.parent, inner.parent.parent):
        fill(directory, max="max")
    assert reader.read() == ControlGroup(1000, None, None)


def test_a_group_without_the_controller_is_charged_to_the_one_around_it(tree: Path, tmp_path: Path) -> None:
    fill(tree / "slice", current=7000, peak=9000, max=9500)
    assert ControlGroupReader(7, tmp_path / "proc").read() == ControlGroup(7000, 9000, 9500, 2500)


def test_page_cache_that_a_group_can_give_up_is_left_in_it(tree: Path, tmp_path: Path) -> None:
    inner = tree / "slice" / "service" / "worker"
    fill(inner, current=7000, max=9500, stat="anon 3000\nactive_file 500\ninactive_file 3000\nshmem 500")
    assert ControlGroupReader(7, tmp_path / "proc").read() == ControlGroup(7000, None, 9500, 6000)
    fill(inner, current=10_000, max=9500, stat="anon 10000\nactive_file x")  # above its limit for a moment
    assert ControlGroupReader(7, tmp_path / "proc").read() == ControlGroup(10_000, None, 9500, 0)


def test_a_process_that_was_moved_is_followed(tree: Path, tmp_path: Path) -> None:
    fill(tree / "slice", current=7000, max="max")
    (tree / "limited").mkdir()
    fill(tree / "limited", current=1, peak=2, max=3)
    reader = ControlGroupReader(7, tmp_path / "proc")
    assert reader.read() == ControlGroup(7000, None, None)
    (tmp_path / "proc" / "7" / "cgroup").write_text("0::/limited\n")
    assert reader.read() == ControlGroup(1, 2, 3, 2)


def test_where_nothing_accounts_there_is_no_group(tree: Path, tmp_path: Path) -> None:
    assert ControlGroupReader(7, tmp_path / "proc").read() is None
    assert ControlGroupReader(8, tmp_path / "proc").read() is None
    assert ControlGroupReader(7, tmp_path / "nowhere").read() is None


@pytest.fixture
def ours(tree: Path, tmp_path: Path) -> Path:
    """The group that this process is in, in the tree; its parent hands the memory controller on."""
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/slice/service/worker\n")
    (tree / "slice" / "service" / "cgroup.subtree_control").write_text("cpu memory pids\n")
    return tree / "slice" / "service" / "worker"


def test_a_limited_group_is_made_beside_ours(ours: Path, tmp_path: Path) -> None:
    group = LimitedGroup.around(42, 1 << 30, tmp_path / "proc")
    assert group is not None
    made = ours.parent / "asrswitch-42"
    assert (made / "memory.max").read_text() == str(1 << 30)
    assert (made / "memory.swap.max").read_text() == "0"
    assert (made / "cgroup.procs").read_text() == "42"
    for file in made.iterdir():  # the kernel removes a group with its files, other file systems do not
        file.unlink()
    group.remove()
    assert not made.exists()


def test_where_no_group_may_be_made_there_is_none(ours: Path, tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    (ours.parent / "asrswitch-42").mkdir()  # as of a worker of that number that could not be removed
    assert LimitedGroup.around(42, 1 << 30, proc) is None
    (ours.parent / "cgroup.subtree_control").write_text("cpu pids\n")
    assert LimitedGroup.around(43, 1 << 30, proc) is None
    assert not (ours.parent / "asrswitch-43").exists()
    (proc / "self" / "cgroup").write_text("0::/\n")  # the root, as in a container
    assert LimitedGroup.around(43, 1 << 30, proc) is None
    (proc / "self" / "cgroup").write_text("4:memory:/old\n")
    assert LimitedGroup.around(43, 1 << 30, proc) is None
