"""The tests' own Ollama server, from outside: started, given faults, asked what it holds, ended."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asrswitch.native.processes import descendants
from helpers.ollama_restart import ended
from support import wait_for

RESTART = Path(__file__).with_name("ollama_restart.py")
MIB = 1 << 20


def model(name: str, hold_mib: int = 8, **changes: Any) -> dict[str, Any]:
    """A model that holds so much anonymous memory; ``changes`` are

    ``mapped`` bytes of a file; ``size``, as the server states it; what it ``says``, or ``answers`` to prompts
    that have a part; ``thoughts`` before that; seconds a piece (``pause_s``), a word of the prompt
    (``word_s``), a load (``load_s``) or an unload (``unload_s``) takes.
    """
    held = hold_mib * MIB
    spec = {
        "name": name if ":" in name else f"{name}:latest",
        "hold": held,
        "size": held + changes.get("mapped", 0),
        "digest": hashlib.sha256(name.encode()).hexdigest(),
        "capabilities": ["completion", *(["thinking"] if "thoughts" in changes else [])],
        "says": "one two three four five six seven eight",
        "answers": {},
        "thoughts": 0,
    }
    return spec | changes


class OllamaServer:
    """A server that can be restarted by a command, as a user's would be."""

    def __init__(
        self, directory: Path, *models: dict[str, Any], max_loaded: int = 3, most_bytes: int | None = None
    ) -> None:
        self.directory = directory
        self.restart = [sys.executable, "-S", "-E", str(RESTART), str(directory)]
        settings = {"models": models, "max_loaded": max_loaded, "most_bytes": most_bytes}
        (directory / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        (directory / "requests.jsonl").touch()
        self.break_down()
        subprocess.run(self.restart, check=True, timeout=20)
        wait_for((directory / "port").exists)
        self.url = f"http://127.0.0.1:{(directory / 'port').read_text()}"

    @property
    def pid(self) -> int:
        return int((self.directory / "pid").read_text())

    def break_down(self, **faults: tuple[str, int]) -> None:
        """What goes wrong from now on: ``small=("load-500", 1)`` is once, with small:latest.

        ``load-500``, ``load-eof``, ``load-hang``, ``load-dies``; ``generate-500``, ``stream-error``,
        ``stream-eof``, ``stream-dies``; of an unload ``keeps`` (it stays listed) and ``pretends`` (it is not
        listed, and stays).
        """
        told = [{"model": f"{name}:latest", "kind": kind, "times": n} for name, (kind, n) in faults.items()]
        (self.directory / "faults.json").write_text(json.dumps(told), encoding="utf-8")

    def requests(self) -> list[dict[str, Any]]:
        """What was asked for by POST."""
        lines = (self.directory / "requests.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def holders(self) -> list[int]:
        """The processes that hold models."""
        return descendants([self.pid])

    def configure(self, restarts: bool = True, **keys: object) -> str:
        """Write a configuration file for this server, and give the --backend word."""
        told = {"url": self.url, **({"restart": self.restart} if restarts else {}), **keys}
        lines = [f"{key} = {json.dumps(value)}" for key, value in told.items()]
        file = self.directory / "ollama.toml"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return f"ollama:{file}"

    def end(self) -> None:
        pid = self.pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: ended(pid))


@contextlib.contextmanager
def serving(
    directory: Path, *models: dict[str, Any], max_loaded: int = 3, most_bytes: int | None = None
) -> Iterator[OllamaServer]:
    """A server that answers until the block ends, and keeps so many models and bytes of them loaded."""
    server = OllamaServer(directory, *models, max_loaded=max_loaded, most_bytes=most_bytes)
    try:
        yield server
    finally:
        server.end()
