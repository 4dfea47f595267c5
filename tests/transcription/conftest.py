"""Models to transcribe with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import asrswitch


@pytest.fixture(scope="session")
def digits() -> Iterator[asrswitch.Model]:
    """The larger embedded model, loaded."""
    with asrswitch.load("digits-large", threads=2) as model:
        yield model


@pytest.fixture
def fake(fake_library: Path, script: Callable[..., str]) -> Iterator[Callable[..., asrswitch.Model]]:
    """Load the fake library with a script: ``fake(text="x", pieces=1)``."""
    models = []

    def load(**settings: object) -> asrswitch.Model:
        path = script("fake", **settings).partition("=")[2]
        models.append(asrswitch.load(path, library=fake_library))
        return models[-1]

    yield load
    for model in models:
        model.close()
