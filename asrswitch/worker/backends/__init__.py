"""What runs models: the protocol of a backend, and how one is found by its name.

Ours are modules beside this one. Others are entry points of the group ``asrswitch.backends``: callables that
take a configuration and give a ``Backend``. A backend lives in the measured process, so it should import no
more than it needs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from asrswitch.worker.protocol import Capabilities, LoadOptions

DEFAULT = "chatllm"
GROUP = "asrswitch.backends"
_LONGEST_WORDS = 300
_OURS = {
    DEFAULT: ("chatllm", "Models"),
    "command": ("command", "CommandBackend"),
    "ollama": ("ollama", "OllamaBackend"),
    "openai": ("openai", "OpenAIBackend"),
    "sentence-transformers": ("sentence_transformers", "SentenceTransformersBackend"),
    "transformers": ("transformers", "TransformersBackend"),
}


class BackendError(Exception):
    """A call failed, and the backend can go on; the message is one line that a user can act on.

    Any other exception ends the worker, which the run records and survives; the log has the traceback.
    """


def in_a_line(said: object) -> str:
    """What something says of itself, or of a failure, cut to what a line can take."""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    words = " ".join(text.split())[:_LONGEST_WORDS]
    return words or (type(said).__name__ if isinstance(said, Exception) else "nothing")


class Transcription:
    """What one clip or prompt gave. Times are ``time.monotonic_ns()``."""

    def __init__(
        self,
        submitted_ns: int,
        returned_ns: int,
        pieces: list[tuple[int, str]],
        statistics: list[str],
        peak_rss_bytes: int | None = None,
        reported: Mapping[str, float] | None = None,
        left_behind: Sequence[str] = (),
    ) -> None:
        """Keep what is given.

        Args:
            submitted_ns: when the clip or prompt was handed over.
            returned_ns: when everything was over.
            pieces: when each piece of the text came, and its characters; none of an embedding.
            statistics: lines that the engine says of itself.
            peak_rss_bytes: of processes that this ran and that are gone.
            reported: numbers that a program says of itself, as ``tokens``; times in ms have names that end in
                ``_ms``. None where no program is read, and each piece is a token.
            left_behind: names of processes that were still there, and were ended.
        """
        self.submitted_ns = submitted_ns
        self.returned_ns = returned_ns
        self.pieces = pieces
        self.statistics = statistics
        self.peak_rss_bytes = peak_rss_bytes
        self.reported = reported
        self.left_behind = left_behind


class Backend(Protocol):
    """Models by their labels, one at a time or several.

    Every method may raise ``BackendError``. One that is told that its backend does not do something, by
    ``capabilities``, is not called for it.
    """

    capabilities: Capabilities  # what it can do; asked once, before anything else

    def load(self, label: str, options: LoadOptions) -> tuple[int, int]:
        """Load a model, in place of one of this label; when that began, and when it could take input.

        Where ``capabilities["loads"]`` is false, this keeps the options for ``infer`` and takes no memory.
        """
        ...

    def infer(self, label: str, given: str) -> Transcription:
        """Transcribe a WAV file (16 kHz, mono, 16 bits) with nothing remembered of earlier ones.

        Where ``capabilities["takes"]`` is "text", what is given is a prompt and not a file's path.
        """
        ...

    def restart(self, label: str) -> tuple[int, int]:
        """Forget what was transcribed and keep the model; when that began and ended."""
        ...

    def unload(self, label: str) -> tuple[int, int]:
        """Give back all of a model's memory; when that began and ended.

        Where a server holds it, the label may be any that ``resident`` gives, whoever loaded that.
        """
        ...

    def renew(self) -> tuple[int, int]:
        """Start anew what holds the models, with nothing loaded; when that began, and when it could load.

        Asked only where ``capabilities["renews"]`` says so, after a failure or to make room.
        """
        ...

    def processes(self) -> Sequence[int | str]:
        """Besides this process, those that hold models now; their descendants are found by who asks.

        A text is the directory of a control group, as of a container: its processes are meant.
        """
        ...

    def resident(self) -> Sequence[str] | None:
        """The labels of the models that are loaded now; None where that cannot be told.

        A model that was not loaded from here is called as who holds it calls it.
        """
        ...


def ours() -> list[str]:
    """The backends that come with this package."""
    return [*_OURS]


def is_ours(name: str) -> bool:
    """Whether a backend comes with this package."""
    return name in _OURS


def names_of_others() -> list[str]:
    """The backends that other packages bring, without importing them."""
    from importlib import metadata

    return sorted({entry.name for entry in metadata.entry_points(group=GROUP)})


def make_backend(name: str, configuration: Mapping[str, Any]) -> Backend:
    """Import and make a backend.

    Raises:
        BackendError: there is none of this name, or it refuses its configuration.
    """
    make: Callable[[Mapping[str, Any]], Backend]
    if name in _OURS:
        module, function = _OURS[name]
        make = getattr(importlib.import_module(f"{__name__}.{module}"), function)
        return make(configuration)
    from importlib import metadata

    for entry in metadata.entry_points(group=GROUP, name=name):
        try:
            make = entry.load()
        except (ImportError, AttributeError) as error:
            raise BackendError(
                f"the backend {name} ({entry.value}) cannot be imported ({error}); install it again"
            ) from None
        return make(configuration)
    raise BackendError(f"no backend is called {name}; install the package that brings it")
