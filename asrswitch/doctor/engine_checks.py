"""What backends besides our own engine find here, and what checks of answers need."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata

from asrswitch import ollama
from asrswitch.doctor.findings import Finding, limited, missing, ok
from asrswitch.errors import UsageError
from asrswitch.memory.gpu import LIBRARY, open_gpus
from asrswitch.prompts.sandbox import SandboxError, confinement
from asrswitch.worker.backends import BackendError
from asrswitch.worker.backends.ollama import make_server

_PATIENCE_S = 2.0  # a server on this machine answers within milliseconds
_MIB = 1 << 20


def check_engines(environ: Mapping[str, str]) -> list[Finding]:
    """Try what other backends and prompts need; ``environ`` says where an Ollama server is."""
    return [check_ollama(environ), check_hugging_face(), check_gpus(), check_sandbox()]


def check_ollama(environ: Mapping[str, str]) -> Finding:
    """Whether a server answers where OLLAMA_HOST says, or where it usually is."""
    subject, lost = "Ollama", "--backend ollama"
    remedy = f"start its server, or say by {ollama.HOST_VARIABLE} where one is"
    try:
        configuration = ollama.read_configuration(None, environ)
        told = make_server(configuration).call("GET", "/api/version", within_s=_PATIENCE_S)
    except (UsageError, BackendError) as error:
        return missing(subject, str(error).partition(";")[0], lost, remedy)
    version = told.get("version") if isinstance(told, dict) else None
    if not isinstance(version, str):
        return missing(subject, f"{configuration['url']}: what answers is not Ollama", lost, remedy)
    return ok(subject, f"{version} at {configuration['url']}")


def check_hugging_face() -> Finding:
    """Whether the libraries are installed; none is imported, which takes seconds."""
    subject = "Hugging Face's libraries"
    found: dict[str, str | None] = {}
    for name in ("torch", "transformers", "sentence-transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    said = ", ".join(f"{name} {version}" if version else f"no {name}" for name, version in found.items())
    if all(found.values()):
        return ok(subject, said)
    return missing(
        subject,
        said,
        "--backend transformers, --backend sentence-transformers",
        "pip install 'asrswitch[hugging-face]'; docs/hugging-face.md says how without CUDA",
    )


def check_gpus() -> Finding:
    """Whether NVIDIA's management library tells what is in use, and by whom."""
    subject = "memory of GPUs"
    gpus = open_gpus()
    if gpus is None:
        return missing(
            subject,
            f"there is no {LIBRARY}, or no driver for it",
            "GPU memory in readings, where any is used",
        )
    with gpus:
        told = gpus.read(())
    if told is None:
        return limited(subject, "NVML does not tell of every GPU", "GPU memory in readings")
    said = f"{told.used_bytes / _MIB:,.0f} of {told.total_bytes / _MIB:,.0f} MiB in use, told by NVML"
    if told.processes_bytes is None:
        return limited(subject, said, "that of single processes: all that is in use is read instead")
    return ok(subject, said)


def check_sandbox() -> Finding:
    """Whether code in answers can be confined, and from reading files too."""
    subject = "checks of answers"
    try:
        holds = confinement()
    except SandboxError as error:
        return missing(subject, str(error), "prompts whose check is a pattern or code")
    if holds.files:
        return ok(subject, "code in answers is confined by seccomp and Landlock")
    return limited(
        subject,
        "code in answers is confined by seccomp",
        "files that you may read are not kept from it",
        "Linux 5.13 or later, with Landlock",
    )
