"""What this machine can do, what of a report it cannot give, and how to get that."""

from __future__ import annotations
