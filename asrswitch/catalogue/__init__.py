"""Models by name: which are published, which are here, and how the others get here."""

from __future__ import annotations

from asrswitch.catalogue.directory import find_model, models_directory

__all__ = ["find_model", "models_directory"]
