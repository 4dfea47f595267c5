"""A model that a run loads."""

from __future__ import annotations

import msgspec


class Model(msgspec.Struct, frozen=True):
    """Weights with a label: a file, or for some backends a directory, or a name that only they know."""

    label: str
    path: str
    bytes: int | None = None
    synthetic: bool = False  # the file says that its weights are random: its text means nothing
    digest: str | None = None  # of the weights, by the account of a server that has them
