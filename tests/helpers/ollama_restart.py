"""`python ollama_restart.py DIRECTORY`: ends the server of ollama_server.py, if there is one, and starts it.

As a service manager's command it comes to an end, and the server stays.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def end(directory: Path) -> None:
    """Kill the server, and wait until it is gone."""
    try:
        pid = int((directory / "pid").read_text())
        os.kill(pid, signal.SIGKILL)
        while not ended(pid):
            time.sleep(0.002)
    except OSError:  # there was none, or it is gone
        return


def ended(pid: int) -> bool:
    """Whether a process is gone or a zombie whose last thread has ended: until then its socket listens."""
    process = Path(f"/proc/{pid}")
    try:
        state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        return state == "Z" and len(list((process / "task").iterdir())) == 1
    except OSError:
        return True


def start(directory: Path) -> None:
    program = Path(__file__).with_name("ollama_server.py")
    words = [sys.executable, "-S", "-E", str(program), str(directory)]
    log = str(directory / "log")
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    # What malloc trims now and then, some 120 KiB of the interpreter's, is no model's.
    still = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
    os.posix_spawn(words[0], words, still, file_actions=actions, setsid=True)


if __name__ == "__main__":
    end(Path(sys.argv[1]))
    start(Path(sys.argv[1]))
