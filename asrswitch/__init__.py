"""What switching between speech models costs, and whether the memory comes back.

``load`` and ``Model.transcribe`` are the engine for other programs; see docs/python-api.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asrswitch.transcription.api import Chunk, Model, Result, Stream, Timings, load

__all__ = ["Chunk", "Model", "Result", "Stream", "Timings", "__version__", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # The command line and the measured process import this package too, and are to stay quick and lean.
    if name in __all__:
        return getattr(importlib.import_module("asrswitch.transcription.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
