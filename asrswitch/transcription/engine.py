"""A model loaded in this process, through a library with chatllm.cpp's C interface."""

from __future__ import annotations

import codecs
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from asrswitch import native
from asrswitch.audio import write_wav
from asrswitch.errors import AsrSwitchError, LibraryError
from asrswitch.native import ffi
from asrswitch.transcription.splitting import Samples
from asrswitch.worker.backends.chatllm import command_line
from asrswitch.worker.protocol import LoadOptions


class EngineError(AsrSwitchError):
    """The engine could not load a model or transcribe; the message is its own where it gave one."""


class Run(msgspec.Struct, frozen=True):
    """One input: when it was submitted and answered, each piece of text, the engine's statistics lines."""

    submitted_ns: int
    returned_ns: int
    pieces: list[tuple[int, str]]
    statistics: list[str]


class Engine:
    """One model. It is used by one thread at a time; only ``abort`` may be called beside another call.

    Calls of the library let other Python threads run (cffi releases the interpreter's lock around them);
    its callbacks come on the calling thread.
    """

    def __init__(self, library: Path, options: LoadOptions) -> None:
        """Load the model.

        Raises:
            LibraryError: it is no library with that interface.
            EngineError: the model cannot be loaded.
        """
        try:
            self._library = _open_library(str(library))
        except OSError as error:
            raise LibraryError(
                f"{library}: not a library with chatllm.cpp's C interface ({error}); name another"
            ) from None
        self._lines: list[tuple[int, str]] = []
        self._listen: Callable[[int, bytes], None] | None = None
        self._lost: BaseException | None = None  # what kept a callback from receiving
        # Kept with the object: the library calls them for as long as it lives.
        self._callbacks: tuple[Any, ...] = (
            ffi.callback("f_chatllm_print", self._on_print, onerror=self._on_failure),
            ffi.callback("f_chatllm_end", lambda _user: None),
        )
        self._clip = _memory_file()
        started_ns = time.monotonic_ns()
        self._object = self._library.chatllm_create()
        if self._object == ffi.NULL:
            os.close(self._clip)
            raise EngineError("out of memory: the engine made no object")
        for word in command_line(options):
            self._library.chatllm_append_param(self._object, os.fsencode(word))
        status = self._library.chatllm_start(self._object, *self._callbacks, ffi.NULL)
        self.load_ms = (time.monotonic_ns() - started_ns) / 1e6
        if isinstance(self._lost, KeyboardInterrupt):  # it came just then
            self.close()
            raise self._lost
        if status != 0:
            failure = self._failure("chatllm_start", status)
            self.close()
            raise failure

    def run(self, samples: Samples, listen: Callable[[str], None]) -> Run:
        """Transcribe 16 kHz mono samples; ``listen`` is called with each piece of text, on this thread.

        Raises:
            EngineError: it failed, or was aborted.
        """
        pieces: list[tuple[int, str]] = []
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # some libraries split characters

        def on_text(at_ns: int, text: bytes) -> None:
            piece = decoder.decode(text)
            pieces.append((at_ns, piece))
            listen(piece)

        self._library.chatllm_restart(self._object, ffi.NULL)  # not every library forgets by itself
        self._lines.clear()
        self._lost = None
        path = self._write(samples)
        message = f"{{{{audio:{path}}}}}".encode()
        self._listen = on_text
        submitted_ns = time.monotonic_ns()
        status = self._library.chatllm_user_input(self._object, message)
        returned_ns = time.monotonic_ns()
        self._listen = None
        if status != 0:
            failure = self._failure("chatllm_user_input", status)
            raise EngineError(str(failure).replace(f"{path}: ", ""))
        if self._lost:
            raise EngineError("out of memory: there was none to receive the text in")
        errors = native.said(self._lines, native.PRINT_ERROR)
        if errors and not pieces:  # some libraries report a failure and return 0
            raise EngineError(" ".join(errors))
        if rest := decoder.decode(b"", final=True):
            pieces[-1] = (pieces[-1][0], pieces[-1][1] + rest)
            listen(rest)
        self._lines.clear()
        self._library.chatllm_show_statistics(self._object)
        return Run(submitted_ns, returned_ns, pieces, native.said(self._lines, native.PRINT_INFORMATION))

    def abort(self) -> None:
        """End the input in progress, if there is one; one that is just beginning may not hear it.

        Without effect where the library cannot.
        """
        if hasattr(self._library, "chatllm_abort_generation"):
            self._library.chatllm_abort_generation(self._object)

    def close(self) -> None:
        """Unload; a second call does nothing.

        Raises:
            EngineError: the library says that it could not.
        """
        if self._object == ffi.NULL:
            return
        status = self._library.chatllm_destroy(self._object)
        self._object = ffi.NULL
        self._callbacks = ()
        os.close(self._clip)
        if status != 0:
            raise self._failure("chatllm_destroy", status)

    def _write(self, samples: Samples) -> str:
        """Put the clip into a file in memory, where the last one was, and give its path."""
        os.ftruncate(self._clip, 0)
        os.lseek(self._clip, 0, os.SEEK_SET)
        write_wav(self._clip, samples)
        return f"/proc/{os.getpid()}/fd/{self._clip}"

    def _on_print(self, _user: Any, kind: int, text: Any) -> None:
        now = time.monotonic_ns()
        content = ffi.string(text) if text else b""
        if kind != native.PRINT_TEXT:
            self._lines.append((kind, content.decode("utf-8", "replace").strip()))
        elif self._listen:
            self._listen(now, content)

    def _on_failure(self, _kind: type[BaseException], error: BaseException, _trace: Any) -> None:
        self._lost = error

    def _failure(self, function: str, status: int) -> EngineError:
        return EngineError(native.complaint(self._lines, function, status))


@functools.cache
def _open_library(path: str) -> Any:
    """Open each library once: cffi keeps 2 KB for every opening, and the system has it but once anyway."""
    return native.open_library(path)


def _memory_file() -> int:
    """A descriptor of a file that is only in memory."""
    try:
        return os.memfd_create("asrswitch-clip", os.MFD_CLOEXEC)
    except OSError as error:
        raise EngineError(f"no file in memory can be made ({error.strerror}); raise the limit") from None
