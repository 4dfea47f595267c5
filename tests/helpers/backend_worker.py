"""A worker with a backend, spoken to line by line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from support import ROOT


class BackendWorker:
    """A context manager; what the worker says it is able to do is in ``hello``, or why it cannot be."""

    def __init__(
        self, name: str, configuration: Mapping[str, Any], environ: Mapping[str, str] | None = None
    ) -> None:
        words = [sys.executable, "-m", "asrswitch.worker", "--backend", name, json.dumps(configuration)]
        self.process = subprocess.Popen(
            words, cwd=ROOT, env={**os.environ, **(environ or {})}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._hello: dict[str, Any] | None = None

    def __enter__(self) -> BackendWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def hello(self) -> dict[str, Any]:
        if self._hello is None:
            self._hello = self._answer()
        return self._hello

    def ask(self, command: str, label: str = "a", **more: Any) -> dict[str, Any]:
        """Its answer, which has ``error`` where the command failed."""
        assert self.process.stdin and self.hello
        self.process.stdin.write(json.dumps({"command": command, "label": label, **more}).encode() + b"\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        answer = json.loads(self.process.stdout.readline())
        assert isinstance(answer, dict)
        return answer
