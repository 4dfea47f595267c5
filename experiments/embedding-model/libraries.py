"""What the libraries take before there is a model, and what a collection costs: libraries.py DIRECTORY."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
from pathlib import Path

CYCLES = 5


def resident() -> tuple[float, float]:
    """Anonymous and file-backed memory of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {
        name: words.split()[0] for name, words in (line.split(":", 1) for line in lines if " kB" in line)
    }
    return int(sizes["RssAnon"]) / 1024, int(sizes["RssFile"]) / 1024


def show(what: str, began: float) -> None:
    anonymous, file = resident()
    print(
        f"{what:40} {time.monotonic() - began:6.2f} s {anonymous:8.1f} MiB anonymous {file:8.1f} MiB of files"
    )


def unload_ms(directory: str) -> float:
    """The shortest of some unloads: the last reference is dropped, and what is left of it collected."""
    from sentence_transformers import SentenceTransformer

    times = []
    for _ in range(CYCLES):
        model = SentenceTransformer(directory, device="cpu")
        model.encode("A cat sat on the mat.")
        began = time.monotonic()
        del model
        gc.collect()
        times.append((time.monotonic() - began) * 1e3)
    return min(times)


def main(directory: str) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    show("the interpreter", time.monotonic())
    for name in ("torch", "transformers", "sentence_transformers"):
        began = time.monotonic()
        importlib.import_module(name)
        show(f"and {name}", began)
    print(f"unload and collection: {unload_ms(directory):.1f} ms")
    gc.collect()
    gc.freeze()
    print(f"the same, with all that was imported frozen: {unload_ms(directory):.1f} ms")


if __name__ == "__main__":
    main(sys.argv[1])
