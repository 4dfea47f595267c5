"""Runs a model through a library with chatllm.cpp's C interface."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from asrswitch import native
from asrswitch.native import ffi
from asrswitch.worker.backends import Backend, BackendError, Transcription
from asrswitch.worker.backends.pieces import whole_characters
from asrswitch.worker.protocol import (
    CeilingMeasured,
    CeilingOptions,
    LoadOptions,
    MemoryNeeds,
)


class Models(Backend):
    """The models of one library by their labels; it has some methods more."""

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        """Open ``configuration["library"]``. Raises ``BackendError`` where it is no such library."""
        library = configuration["library"]
        try:
            self._library = native.open_library(library)
        except OSError as error:
            raise BackendError(
                f"{library}: not a library with chatllm.cpp's C interface ({error}); "
                "name another by --library, or build ours by `pip install .`"
            ) from None
        self.capabilities = {
            "streams": True,
            "loads": True,
            "restarts": True,
            "forces_language": True,
            "runs_processes": False,
        }
        self._models: dict[str, ChatllmModel] = {}

    def load(self, label: str, options: LoadOptions) -> tuple[int, int]:
        return self._of(label).load(options)

    def infer(self, label: str, given: str) -> Transcription:
        return self._of(label).transcribe(given)

    def restart(self, label: str) -> tuple[int, int]:
        return self._of(label).restart()

    def unload(self, label: str) -> tuple[int, int]:
        return self._of(label).unload()

    def renew(self) -> tuple[int, int]:
        raise BackendError("models are held by the worker itself: there is nothing else to start anew")

    def processes(self) -> Sequence[int | str]:
        return ()

    def resident(self) -> Sequence[str]:
        return [label for label, model in self._models.items() if model.is_loaded]

    def memory_needs(self, label: str, options: LoadOptions, clip_s: float) -> MemoryNeeds:
        """As ``ChatllmModel.memory_needs``."""
        return self._of(label).memory_needs(options, clip_s)

    def measure_ceiling(self, label: str, options: CeilingOptions) -> CeilingMeasured:
        """As ``ChatllmModel.measure_ceiling``."""
        return self._of(label).measure_ceiling(options)

    def _of(self, label: str) -> ChatllmModel:
        """The model of that label, loaded or not; kept, so that cycles are alike in what Python holds."""
        if label not in self._models:
            self._models[label] = ChatllmModel(self._library)
        return self._models[label]


class ChatllmModel:
    """At most one loaded model. Every method raises ``BackendError`` where the library reports a failure."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._object: Any = ffi.NULL
        self._callbacks: tuple[Any, ...] = ()
        self._received: list[tuple[int, int, bytes]] = []
        self._lost = False  # what the library wrote, since the last transcription began

    @property
    def is_loaded(self) -> bool:
        return bool(self._object != ffi.NULL)

    def load(self, options: LoadOptions) -> tuple[int, int]:
        """Create and start an object; times of the call of create and of the moment it can take input."""
        words = [word.encode() for word in command_line(options)]
        received = self._received = []

        def on_print(_user: Any, kind: int, text: Any) -> None:
            now = time.monotonic_ns()
            received.append((now, kind, ffi.string(text) if text else b""))

        def on_end(_user: Any) -> None:
            return

        def on_failure(kind: type[BaseException], error: BaseException, trace: Any) -> None:
            self._lost = True

        # Kept with the object: the library calls them for as long as it lives.
        self._callbacks = (
            ffi.callback("f_chatllm_print", on_print, onerror=on_failure),
            ffi.callback("f_chatllm_end", on_end),
        )
        started_ns = time.monotonic_ns()
        self._object = self._library.chatllm_create()
        if self._object == ffi.NULL:
            raise BackendError("chatllm_create returned no object")
        for word in words:
            self._library.chatllm_append_param(self._object, word)
        status = self._library.chatllm_start(self._object, *self._callbacks, ffi.NULL)
        ended_ns = time.monotonic_ns()
        if status != 0:
            raise self._failure("chatllm_start", status)
        received.clear()
        return started_ns, ended_ns

    def transcribe(self, audio: str) -> Transcription:
        """Transcribe a file; the object must be loaded and its context empty."""
        self._received.clear()
        self._lost = False
        message = f"{{{{audio:{audio}}}}}".encode()
        submitted_ns = time.monotonic_ns()
        status = self._library.chatllm_user_input(self._object, message)
        returned_ns = time.monotonic_ns()
        if status != 0:
            raise self._failure("chatllm_user_input", status)
        if self._lost:
            raise BackendError("out of memory: there was none to receive the text in")
        pieces = whole_characters(
            [(at, text) for at, kind, text in self._received if kind == native.PRINT_TEXT]
        )
        errors = native.said(self._messages(), native.PRINT_ERROR)
        if errors and not pieces:  # some libraries report a failure and return 0
            raise BackendError(" ".join(errors))
        self._received.clear()
        self._library.chatllm_show_statistics(self._object)
        statistics = native.said(self._messages(), native.PRINT_INFORMATION)
        self._received.clear()
        return Transcription(submitted_ns, returned_ns, pieces, statistics)

    def restart(self) -> tuple[int, int]:
        """Clear the conversation."""
        self._received.clear()
        started_ns = time.monotonic_ns()
        self._library.chatllm_restart(self._object, ffi.NULL)
        ended_ns = time.monotonic_ns()
        if errors := native.said(self._messages(), native.PRINT_ERROR):  # there is no other way to report one
            raise BackendError(" ".join(errors))
        return started_ns, ended_ns

    def unload(self) -> tuple[int, int]:
        """Destroy the object."""
        started_ns = time.monotonic_ns()
        status = self._library.chatllm_destroy(self._object)
        ended_ns = time.monotonic_ns()
        self._object = ffi.NULL
        self._callbacks = ()
        if status != 0:
            raise self._failure("chatllm_destroy", status)
        self._received = []
        return started_ns, ended_ns

    def memory_needs(self, options: LoadOptions, clip_s: float) -> MemoryNeeds:
        """Load, ask what an input of ``clip_s`` seconds would take, unload; ours alone can tell."""
        if not hasattr(self._library, "chatllm_ext_memory_needs"):
            raise BackendError("this library does not predict its memory")
        needs = ffi.new("struct chatllm_ext_memory *")
        try:
            self.load(options)
            status = self._library.chatllm_ext_memory_needs(
                self._object, clip_s, options["max_new_tokens"], needs
            )
            if status != 0:
                raise self._failure("chatllm_ext_memory_needs", status)
        finally:
            self.unload()
        return {
            "loaded": needs.loaded,
            "clip": needs.clip,
            "encoder": needs.encoder,
            "decoder": needs.decoder,
            "kv_cache": needs.kv_cache,
            "peak": needs.peak,
        }

    def measure_ceiling(self, options: CeilingOptions) -> CeilingMeasured:
        """What the processor can do at best; other libraries than ours do not know how to measure it."""
        if not hasattr(self._library, "chatllm_ext_measure_ceiling"):
            raise BackendError("this library does not measure ceilings")
        kind, slices = options["kind"].encode(), options["slices"]
        isa = self._library.chatllm_ext_ceiling_isa(kind)
        if isa == ffi.NULL:
            raise BackendError(f"no ceiling is called {options['kind']}")
        rates = ffi.new("double[]", slices)
        status = self._library.chatllm_ext_measure_ceiling(
            kind, options["threads"], slices, options["slice_ms"], rates
        )
        if status != 0:
            raise BackendError(
                f"the ceiling {options['kind']} cannot be measured with {options['threads']} threads; "
                "use fewer or free memory"
            )
        return {"isa": ffi.string(isa).decode(), "rates": list(rates)}

    def _messages(self) -> list[tuple[int, str]]:
        return [(kind, text.decode("utf-8", "replace").strip()) for _, kind, text in self._received]

    def _failure(self, function: str, status: int) -> BackendError:
        return BackendError(native.complaint(self._messages(), function, status))


def command_line(options: LoadOptions) -> list[str]:
    """The words given to ``chatllm_append_param``; names that chatllm.cpp's own parser knows as well.

    ``-l`` is the size of the KV cache. ``-c`` is not passed: it limits how much of a longer conversation is
    repeated, and every transcription here is a conversation of its own. Sampling is switched off:
    chatllm.cpp's default is not greedy.
    """
    words = ["-m", options["model"], "-n", str(options["threads"]), "--temp", "0", "--hide_banner"]
    words += ["--max_new_tokens", str(options["max_new_tokens"]), "--multimedia_file_tags", "{{", "}}"]
    if (context := options.get("context")) is not None:
        words += ["-l", str(context)]
    if (language := options.get("language")) is not None:
        words += ["--set", "language", language]
    # Only our library knows these.
    if options.get("preload"):
        words.append("--preload")
    if options.get("lock"):
        words.append("--lock")
    return words
