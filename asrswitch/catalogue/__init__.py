"""Models by name: which are published, which are here, and how the others get here."""

from __future__ import annotations

from asrswitch.catalogue.directory import TYPES, find_model, models_directory
from asrswitch.catalogue.naming import label_and_path

__all__ = ["TYPES", "find_model", "label_and_path", "models_directory"]
