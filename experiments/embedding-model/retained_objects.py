"""How many Python objects stay of each load of a safetensors file, with nothing but that library and torch.

Usage: python retained_objects.py DIRECTORY, of a model.
"""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import safe_open
from safetensors.torch import save_file

LOADS = 50
Read = Callable[[Any, str], Any]
WAYS: dict[str, Read] = {
    "nothing is read": lambda opened, name: None,
    "get_slice(name)": lambda opened, name: opened.get_slice(name),
    "get_slice(name)[...]": lambda opened, name: opened.get_slice(name)[...],
    "get_tensor(name)": lambda opened, name: opened.get_tensor(name),
}


def retained(read: Read, file: Path, names: Sequence[str]) -> float:
    """Objects that are there after a load and were not before it, over many loads."""

    def load(times: int) -> None:
        for _ in range(times):
            with safe_open(file, framework="pt", device="cpu") as opened:
                for name in names:
                    read(opened, name)
        gc.collect()

    load(5)
    before = sys.getallocatedblocks()
    load(LOADS)
    return (sys.getallocatedblocks() - before) / LOADS


def by_way(file: Path) -> None:
    """What stays of loads of a whole model."""
    with safe_open(file, framework="pt", device="cpu") as opened:
        names = [*opened.keys()]
    print(f"safetensors {safetensors.__version__}, torch {torch.__version__}, {len(names)} tensors")
    for said, read in WAYS.items():
        count = retained(read, file, names)
        print(f"{said:22} {count:8.2f} objects a load, {count / len(names):5.2f} a tensor")


def by_place(directory: Path) -> None:
    """What stays of one tensor, by where in the file's data it begins and ends.

    Python keeps one object each for the whole numbers up to 256.
    """
    for before, count in ((16, 16), (16, 1024), (1024, 1024)):
        file = directory / "two.safetensors"
        save_file(
            {"a": torch.zeros(before, dtype=torch.uint8), "b": torch.zeros(count, dtype=torch.uint8)}, file
        )
        stays = retained(WAYS["get_tensor(name)"], file, ["b"] * 100) / 100
        print(f"bytes {before:5,} to {before + count:5,}: {stays:5.2f} objects each time that it is read")


if __name__ == "__main__":
    by_way(Path(sys.argv[1]) / "model.safetensors")
    with tempfile.TemporaryDirectory() as made:
        by_place(Path(made))
