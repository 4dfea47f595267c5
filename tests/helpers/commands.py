"""Commands to a worker."""

from __future__ import annotations

from typing import Any


def load(model: str, **options: object) -> dict[str, Any]:
    """Load what a ``LABEL=PATH`` word names; ``options`` replace the defaults."""
    path = model.partition("=")[2]
    return {"command": "load", "load": {"model": path, "threads": 3, "max_new_tokens": 9} | options}
