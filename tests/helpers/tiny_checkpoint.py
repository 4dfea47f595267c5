"""A random Qwen3-ASR checkpoint around a given byte-level vocabulary, for tests of the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

from helpers.checkpoint import ADDED_TOKENS, Sizes, write_checkpoint


def write_tiny_checkpoint(directory: Path, vocab: dict[str, int], merges: list[str], seed: int) -> Path:
    """Write a checkpoint of one small layer each into the empty or missing `directory`, and return it.

    `vocab` maps tokens in the GPT-2 byte alphabet to the ids 0, 1, 2, …; `merges` are lines `left right`.
    The 62 official added tokens follow at the ids from len(vocab) on.
    """
    sizes = Sizes(vocab_size=len(vocab) + len(ADDED_TOKENS), conv_channels=8)
    write_checkpoint(directory, sizes, seed)
    (directory / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *merges, ""]
    (directory / "merges.txt").write_text("\n".join(lines), encoding="utf-8", newline="\n")
    return directory
