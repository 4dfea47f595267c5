"""How many Python objects stay of each load of a model: retained_objects.py DIRECTORY [OTHER_DIRECTORY].

First by safetensors and torch alone, of the first directory's file; then by sentence-transformers, of each.
"""

from __future__ import annotations

import gc
import os
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


def retained(load: Callable[[], None]) -> float:
    """Objects that are there after a load and were not before it, over many loads."""

    def repeat(times: int) -> int:
        for _ in range(times):
            load()
        gc.collect()
        return sys.getallocatedblocks()

    before = repeat(LOADS // 2)
    return (repeat(LOADS) - before) / LOADS


def reading(read: Read, file: Path, names: Sequence[str]) -> Callable[[], None]:
    """A load by safetensors alone."""

    def load() -> None:
        with safe_open(file, framework="pt", device="cpu") as opened:
            for name in names:
                read(opened, name)

    return load


def by_way(file: Path) -> None:
    """What stays of loads of a whole model."""
    with safe_open(file, framework="pt", device="cpu") as opened:
        names = [*opened.keys()]
    print(f"safetensors {safetensors.__version__}, torch {torch.__version__}, {len(names)} tensors")
    for said, read in WAYS.items():
        count = retained(reading(read, file, names))
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
        stays = retained(reading(WAYS["get_tensor(name)"], file, ["b"] * 100)) / 100
        print(f"bytes {before:5,} to {before + count:5,}: {stays:5.2f} objects each time that it is read")


def by_library(directory: str) -> None:
    """What stays where the whole model is loaded, used and let go."""
    from sentence_transformers import SentenceTransformer

    def load() -> None:
        model = SentenceTransformer(directory, device="cpu")
        model.encode("A cat sat on the mat.")
        del model
        gc.collect()

    print(f"{Path(directory).name}, by sentence-transformers: {retained(load):.1f} objects a load")


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    by_way(Path(sys.argv[1]) / "model.safetensors")
    with tempfile.TemporaryDirectory() as made:
        by_place(Path(made))
    gc.freeze()
    for word in sys.argv[1:]:
        by_library(word)
