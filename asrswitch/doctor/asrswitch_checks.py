"""What is here of asrswitch itself: library, models, room for more, and whether somebody else measures."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TypedDict

import msgspec

from asrswitch import __version__, instruction_sets
from asrswitch.catalogue.directory import embedded_models, models_directory, present_models
from asrswitch.doctor.findings import Finding, Mark, limited, missing, ok
from asrswitch.errors import AsrSwitchError, LibraryError, printable
from asrswitch.hashing import sha256
from asrswitch.memory.guard import ConcurrentError, MachineLock, other_workers
from asrswitch.native.locate import VARIABLE, find_library
from asrswitch.plan import ALLOCATORS, DEFAULT_CLIP, DEFAULT_MODELS, allocator_environment
from asrswitch.worker.protocol import Command, Done, Transcribed
from asrswitch.worker_process import StoppedError, StopSignals, worker

_TIME_LIMIT_S = 60.0
_NEW_TOKENS = 32
# The catalogue's smallest model and as much again for a run's log and what is left to the system.
_ROOM_BYTES = 1 << 30
_GIB = 1 << 30
_REINSTALL = "install asrswitch again: `pip install --force-reinstall .`"


class _Library(TypedDict):
    lacking: list[str]
    instructions: dict[str, str]


def check_asrswitch(environ: Mapping[str, str], stop: StopSignals) -> list[Finding]:
    """Look at what is installed, and transcribe once.

    Raises:
        StoppedError: a signal came.
    """
    temporary = check_temporary_files()
    has_room = temporary.mark is Mark.OK  # a worker and the lock need some
    findings = []
    try:
        library = find_library(None, environ)
    except LibraryError as error:
        findings.append(_no_library(str(error).partition(": build")[0]))
    else:
        findings.append(check_library(library, environ))
        if has_room:
            findings.append(check_transcription(library, environ, stop))
    return [
        *findings,
        check_embedded_models(embedded_models()),
        check_fetched_models(environ),
        check_room(models_directory(environ)),
        check_results(Path.cwd()),
        temporary,
        check_allocators(),
        *([check_alone()] if has_room else []),
    ]


def check_library(path: Path, environ: Mapping[str, str]) -> Finding:
    """Which library a run would use, and what it can besides chatllm.cpp's interface."""
    command = [sys.executable, "-m", "asrswitch.doctor.look_at_library", str(path)]
    root = str(resources.files("asrswitch").joinpath(".."))
    try:
        done = subprocess.run(
            command, cwd=root, env=dict(environ), capture_output=True, timeout=_TIME_LIMIT_S, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return _no_library(f"{path}: cannot be looked at ({type(error).__name__})")
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        return _no_library(f"{path}: cannot be used ({printable(said[-1])})")
    told = msgspec.json.decode(done.stdout, type=_Library)
    ours = "of this package, " if path.parent.name == "native" and not environ.get(VARIABLE) else ""
    found = f"{path}, {ours}SHA-256 {sha256(path, environ)[:12]}…; asrswitch {__version__}"
    if told["lacking"]:
        return limited(
            "library",
            f"{found}; without {', '.join(told['lacking'])}",
            "predicted memory, `bench`, and the refusal of models that will not fit",
            f"the library of this package: unset {VARIABLE}, and leave out --library",
        )
    instructions = ", ".join(f"{kind} {name}" for kind, name in told["instructions"].items())
    return ok("library", f"{found}; with our extensions; fastest instructions: {instructions}")


def check_transcription(library: Path, environ: Mapping[str, str], stop: StopSignals) -> Finding:
    """One cycle of an embedded model in a worker: the same as a run's, unless the library cannot."""
    subject = "a transcription"
    model = resources.files("asrswitch") / "models" / f"{DEFAULT_MODELS[0]}.bin"
    clip = resources.files("asrswitch") / "samples" / DEFAULT_CLIP
    load: Command = {
        "command": "load",
        "load": {
            "model": str(model),
            "threads": 1,
            "max_new_tokens": _NEW_TOKENS,
        },
    }
    try:
        with (
            tempfile.TemporaryDirectory(prefix="asrswitch-") as scratch,
            worker(library, Path(scratch) / "worker.log", stop, environ) as process,
        ):
            process.request(load, Done, _TIME_LIMIT_S)
            heard = process.request({"command": "transcribe", "audio": str(clip)}, Transcribed, _TIME_LIMIT_S)
            process.request({"command": "unload"}, Done, _TIME_LIMIT_S)
    except StoppedError:
        raise
    except (AsrSwitchError, OSError) as error:
        return missing(
            subject,
            f"{DEFAULT_MODELS[0]} does not load, transcribe and unload: {printable(str(error))}",
            "any run with this library",
            f"another library ({VARIABLE}), or: {_REINSTALL}",
            needed=True,
        )
    used = instruction_sets.used(heard["statistics"]) or "instruction set not told"
    if heard["pieces"]:
        return ok(subject, f"{DEFAULT_MODELS[0]} loads, transcribes and unloads ({used})")
    return limited(
        subject,
        f"{DEFAULT_MODELS[0]} loads and gives no text ({used})",
        "texts, TTFT and speeds: the library does not read this model or this clip",
        f"another library: unset {VARIABLE}, or leave out --library",
    )


def check_embedded_models(found: list[Path]) -> Finding:
    """The models that a run takes when none are named."""
    names = [path.stem for path in found]
    lacking = [name for name in DEFAULT_MODELS if name not in names]
    if lacking:
        return missing(
            "embedded models",
            f"no {' and no '.join(lacking)}",
            "runs without -m",
            _REINSTALL,
            needed=True,
        )
    return ok("embedded models", ", ".join(names))


def check_fetched_models(environ: Mapping[str, str]) -> Finding:
    """Real models, and what fetches them."""
    subject, directory = "fetched models", models_directory(environ)
    found = [path.name for path in present_models(directory)]
    if found:
        return ok(subject, f"{', '.join(found)} in {directory}")
    if importlib.util.find_spec("huggingface_hub") is None:
        return missing(
            subject,
            "none, and huggingface_hub is not installed",
            "runs with real models by their names, and `models fetch`",
            "pip install huggingface_hub, or put files there by hand",
        )
    return limited(
        subject,
        f"none in {directory or 'any place: there is no home directory'}",
        "runs with real models by their names",
        "python -m asrswitch models fetch 0.6B",
    )


def check_room(directory: Path | None) -> Finding:
    """Whether a model would fit where models are put."""
    subject = "room for models"
    if directory is None:
        return limited(subject, "there is no home directory", "`models fetch` without --dest", "set HOME")
    nearest = next(path for path in (directory, *directory.parents) if path.is_dir())
    free = shutil.disk_usage(nearest).free
    found = f"{free / _GIB:,.1f} GiB free in {nearest}"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return limited(subject, f"{nearest} is not writable", "`models fetch` without --dest", "give --dest")
    if free < _ROOM_BYTES:
        return limited(
            subject, found, "fetched models: the smallest has 0.5 GiB", "make room, or give --dest"
        )
    return ok(subject, found)


def check_results(directory: Path) -> Finding:
    """Whether a run's log can be written without --out."""
    if os.access(directory, os.W_OK | os.X_OK):
        return ok("results", f"can be written to {directory / 'runs'}")
    return limited("results", f"{directory} is not writable", "runs without --out", "give --out DIR")


def check_allocators() -> Finding:
    """What --allocator all would compare."""
    found = [name for name in ALLOCATORS if allocator_environment(name) is not None]
    lacking = [name for name in ALLOCATORS if name not in found]
    if lacking:
        return limited(
            "allocators",
            ", ".join(found),
            f"{' and '.join(lacking)} in `--allocator all`",
            "apt install libjemalloc2 libtcmalloc-minimal4",
        )
    return ok("allocators", ", ".join(found))


def check_temporary_files() -> Finding:
    """Whether there is a place for what is needed for as long as a command runs."""
    try:
        with tempfile.TemporaryFile(prefix="asrswitch-") as file:
            file.write(b"a clip")
            file.flush()
    except OSError as error:
        reason = printable(error.strerror or str(error))
        remedy = "make room there, or name another place by TMPDIR"
        return missing("temporary files", reason, "any run", remedy, needed=True)
    return ok("temporary files", f"can be written to {printable(tempfile.gettempdir())}")


def check_alone(directory: Path | None = None, proc: Path = Path("/proc")) -> Finding:
    """Whether a run could begin at once."""
    subject, lost = "nobody else", "a run, until it has ended; two would measure each other"
    try:
        with MachineLock(directory, proc):
            pass
    except ConcurrentError as error:
        who, _, _ = str(error).partition("; ")
        return limited(subject, who, lost, "wait for it, or give --allow-concurrent")
    if others := other_workers(frozenset(), proc):
        return limited(subject, f"process {others[0]} holds models of another run", lost, "wait, or end it")
    return ok(subject, "no run holds the lock of this machine")


def _no_library(why: str) -> Finding:
    return missing(
        "library",
        printable(why),
        "any run",
        f"build it by `pip install .`, or name one by --library or {VARIABLE}",
        needed=True,
    )
