from __future__ import annotations

import os
from pathlib import Path

import pytest

from asrswitch import machine


def cpus(directory: Path, siblings: dict[int, str]) -> Path:
    for cpu, cores in siblings.items():
        topology = directory / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(cores + "\n")
    return directory


@pytest.mark.parametrize(
    ("usable", "quota", "cores"),
    [
        ({0, 1, 2, 3}, None, 2),
        ({0, 2}, None, 1),
        ({0, 1}, "max 100000", 2),
        ({0, 1, 2, 3}, "150000 100000", 2),
        ({0, 1, 2, 3}, "50000 100000", 1),
        ({0, 7}, None, 2),  # a CPU whose topology is unknown counts as a core
    ],
)
def test_siblings_count_once_within_affinity_and_quota(
    usable: set[int], quota: str | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    siblings = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}
    monkeypatch.setattr(machine, "_CPU", cpus(tmp_path / "cpu", siblings))
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: usable)
    if quota:
        (tmp_path / "cpu.max").write_text(quota)
    assert machine.physical_cores() == cores


def test_the_smaller_memory_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    whole = machine.memory_limit_bytes()
    (tmp_path / "memory.max").write_text("1048576\n")
    assert machine.memory_limit_bytes() == 1 << 20 < whole
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.memory_limit_bytes() == whole
