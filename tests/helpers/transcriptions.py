"""The tests' own transcription server, from outside: started, given faults, ended; backends that ask it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asrswitch.openai_configuration import read_configuration
from asrswitch.worker.backends.openai import OpenAIBackend
from asrswitch.worker.protocol import LoadOptions

PROGRAM = Path(__file__).with_name("transcription_server.py")
SMALL, LARGE = "org/digits-small", "org/digits-large"


class TranscriptionServer:
    """A server that can be restarted by a command, as a user's would be."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.restart = self._command("restart")
        subprocess.run(self._command("start"), check=True, timeout=20)
        self.url = f"http://127.0.0.1:{(directory / 'port').read_text()}"

    @property
    def pid(self) -> int:
        return int((self._directory / "pid").read_text())

    def stop(self) -> None:
        subprocess.run(self._command("stop"), check=True, timeout=20)

    def renew(self) -> None:
        subprocess.run(self.restart, check=True, timeout=20)

    def break_down(self, faults: Mapping[str, int] | None = None, key: str = "") -> None:
        """What goes wrong from now on, and how often; requests without the key are refused."""
        request = urllib.request.Request(
            f"{self.url}/faults", json.dumps({**(faults or {}), "key": key}).encode()
        )
        urllib.request.urlopen(request, timeout=10).close()

    def last_form(self) -> dict[str, str]:
        """The fields of the last transcription's form, without the file."""
        with urllib.request.urlopen(f"{self.url}/requests", timeout=10) as reply:
            form: dict[str, str] = json.load(reply)[-1]
        return form

    def configuration(self, directory: Path, preset: str = "llama-router", more: str = "") -> Path:
        """A file with a preset's keys, this server's address and its restart; ``more`` is added."""
        file = directory / "server.toml"
        restart = json.dumps(self.restart)
        file.write_text(
            f'preset = "{preset}"\nurl = "{self.url}"\nrestart = {restart}\n{more}\n', encoding="utf-8"
        )
        return file

    def backend(self, preset: str = "llama-router", **changes: Any) -> OpenAIBackend:
        configuration = read_configuration(preset, {})
        return OpenAIBackend({**configuration, "url": self.url, "restart": self.restart, **changes})

    def _command(self, verb: str) -> list[str]:
        return [sys.executable, str(PROGRAM), verb, str(self._directory)]


def options(model: str, **more: Any) -> LoadOptions:
    made: LoadOptions = {"model": model, "threads": 1, "max_new_tokens": 99}
    return {**made, **more}  # type: ignore[typeddict-item]
