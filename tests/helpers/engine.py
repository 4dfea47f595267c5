"""The engine through its C interface, with its traces; for tests only."""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from asrswitch.native.locate import find_library

_PRINT_TEXT, _PRINT_INFORMATION, _PRINT_ERROR = 0, 1, 2
_KERNELS = re.compile(r"kernels: (\w+), threads: (\d+)")

_Print = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
_End = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_Trace = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_float),
    ctypes.POINTER(ctypes.c_int64),
    ctypes.c_int,
)


class EngineError(Exception):
    """What the engine said through its error callback."""


@dataclass
class Result:
    """One transcription: its text and every traced tensor, in the order of their calls.

    `instruction_set` and `threads` are what the engine says that it used.
    """

    text: str = ""
    traces: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    instruction_set: str = ""
    threads: int = 0

    def one(self, name: str) -> NDArray[np.float32]:
        """The tensor `name`, which must have been traced once."""
        (tensor,) = self.traces[name]
        return tensor

    @property
    def prompt_ids(self) -> list[int]:
        return [int(value) for value in self.one("prompt_ids")]

    @property
    def ids(self) -> list[int]:
        """The generated tokens."""
        return [int(tensor[0]) for tensor in self.traces["token"]]

    @property
    def logits(self) -> NDArray[np.float32]:
        """The logits [vocabulary] of the first step."""
        return self.traces["logits"][0]


class Engine:
    """A loaded model; a context manager. `parameters` are words of the engine's command line."""

    def __init__(self, model: Path, *parameters: str) -> None:
        self._library = _open(find_library(None, os.environ))
        self._errors: list[str] = []
        self._result = Result()
        # The library calls these for as long as the object lives.
        self._callbacks = (_Print(self._print), _End(lambda _: None), _Trace(self._trace))
        self._object: int | None = self._library.chatllm_create()
        for word in ("-m", str(model), *parameters):
            self._library.chatllm_append_param(self._object, word.encode())
        status = self._library.chatllm_start(self._object, self._callbacks[0], self._callbacks[1], None)
        if status != 0:
            self.close()
            raise EngineError("; ".join(self._errors))

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._object is not None:
            self._library.chatllm_destroy(self._object)
            self._object = None

    def run(self, wav: Path) -> Result:
        """Transcribe a WAV file from an empty context."""
        self._result = Result()
        self._library.chatllm_restart(self._object, None)
        self._library.chatllm_ext_set_trace(self._object, self._callbacks[2], None)
        if self._library.chatllm_user_input(self._object, f"{{{{audio:{wav}}}}}".encode()) != 0:
            raise EngineError("; ".join(self._errors))
        self._library.chatllm_show_statistics(self._object)
        return self._result

    def _print(self, _: int | None, kind: int, text: bytes) -> None:
        if kind == _PRINT_TEXT:
            self._result.text += text.decode()
        elif kind == _PRINT_INFORMATION:
            if match := _KERNELS.fullmatch(text.decode()):
                self._result.instruction_set, self._result.threads = match[1], int(match[2])
        elif kind == _PRINT_ERROR:
            self._errors.append(text.decode())

    def _trace(
        self,
        _: int | None,
        name: bytes,
        data: ctypes._Pointer[ctypes.c_float],
        shape: ctypes._Pointer[ctypes.c_int64],
        dimensions: int,
    ) -> None:
        tensor = np.ctypeslib.as_array(data, tuple(shape[:dimensions])).copy()
        self._result.traces.setdefault(name.decode(), []).append(tensor)


def _open(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.chatllm_create.restype = ctypes.c_void_p
    library.chatllm_append_param.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.chatllm_append_param.restype = None
    library.chatllm_start.argtypes = [ctypes.c_void_p, _Print, _End, ctypes.c_void_p]
    library.chatllm_user_input.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.chatllm_restart.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.chatllm_restart.restype = None
    library.chatllm_show_statistics.argtypes = [ctypes.c_void_p]
    library.chatllm_show_statistics.restype = None
    library.chatllm_destroy.argtypes = [ctypes.c_void_p]
    library.chatllm_ext_set_trace.argtypes = [ctypes.c_void_p, _Trace, ctypes.c_void_p]
    return library
