"""The files that a model is: one, or all that lie in a directory and below it."""

from __future__ import annotations

from pathlib import Path


def files_of(path: Path) -> list[Path]:
    """The files by their real paths, sorted; each once, for a hub's cache has links to them.

    A path that is no directory is its own, whether there is such a file or not.
    """
    if not path.is_dir():
        return [path.resolve()]
    return sorted({file.resolve() for file in path.rglob("*") if file.is_file()})
