"""chatllm.cpp's C interface as cffi declarations, and the loading of a library that has it.

The only module that owns an ``ffi`` and opens libraries. Imported by the measured process: keep it lean.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from typing import Any

import cffi

PRINT_TEXT = 0
PRINT_INFORMATION = 1
PRINT_ERROR = 2
PRINT_LOG = 11
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

_FAULTY_FILE = re.compile(
    r"^/.*: (.* at offset \d+: |is empty$|(vocabulary: the token|tensor) .* is missing$)"
)
# Those messages say what to do.
_OTHER_FILE = re.compile(r"'ggmm': not a chatllm\.cpp model file|: this engine runs no other model$")

ffi = cffi.FFI()
ffi.cdef(
    """
    struct chatllm_obj;
    typedef void (*f_chatllm_print)(void *user_data, int print_type, const char *utf8_str);
    typedef void (*f_chatllm_end)(void *user_data);

    struct chatllm_obj *chatllm_create(void);
    void chatllm_append_param(struct chatllm_obj *obj, const char *utf8_str);
    int chatllm_start(struct chatllm_obj *obj, f_chatllm_print print, f_chatllm_end end, void *user_data);
    int chatllm_user_input(struct chatllm_obj *obj, const char *utf8_str);
    void chatllm_restart(struct chatllm_obj *obj, const char *utf8_sys_prompt);
    void chatllm_show_statistics(struct chatllm_obj *obj);
    int chatllm_destroy(struct chatllm_obj *obj);
    // Some libraries with this interface have none of the functions that follow.
    void chatllm_abort_generation(struct chatllm_obj *obj);
    const char *chatllm_ext_ceiling_isa(const char *kind);
    int chatllm_ext_measure_ceiling(
        const char *kind, int n_threads, int n_slices, double slice_ms, double *rates);

    struct chatllm_ext_memory {
        int64_t loaded, clip, encoder, decoder, kv_cache, peak;
    };
    int chatllm_ext_memory_needs(
        struct chatllm_obj *obj, double seconds, int new_tokens, struct chatllm_ext_memory *needs);

    struct mallinfo2 {
        size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
    };
    struct mallinfo2 mallinfo2(void);
    int malloc_trim(size_t pad);
    // There where another allocator has taken malloc's place; never called.
    void mallctl(void);
    void tc_version(void);
    void mi_version(void);
    int madvise(void *address, size_t length, int advice);
    int mincore(void *address, size_t length, unsigned char *resident);
    int prctl(int option, unsigned long, unsigned long, unsigned long, unsigned long);
    """
)

FUNCTIONS = (
    "chatllm_create",
    "chatllm_append_param",
    "chatllm_start",
    "chatllm_user_input",
    "chatllm_restart",
    "chatllm_show_statistics",
    "chatllm_destroy",
)


def open_library(path: str) -> Any:
    """Open a library with chatllm.cpp's C interface.

    Raises:
        OSError: it cannot be opened, or it lacks one of ``FUNCTIONS``; the message is one line.
    """
    try:
        library = ffi.dlopen(path)
    except OSError as error:  # what ctypes would have found is no help
        raise OSError(str(error).partition("  Additionally, ctypes")[0]) from None
    for name in FUNCTIONS:
        if not hasattr(library, name):
            raise OSError(f"no function {name} in it")
    return library


def said(messages: Sequence[tuple[int, str]], kind: int) -> list[str]:
    """The texts of one kind, of (kind, text) in the order in which a library gave them; none is empty."""
    return [text for told, text in messages if told == kind and text]


def complaint(messages: Sequence[tuple[int, str]], function: str, status: int) -> str:
    """Why a function failed, in the library's own words where it has said anything.

    To what our engine says of a model file that is at fault, the remedy is added.
    """
    for kind in (PRINT_ERROR, PRINT_LOG, PRINT_INFORMATION):
        if texts := said(messages, kind):
            words = " ".join(texts)
            return f"{words}{_remedy(words)}" if function == "chatllm_start" else words
    return f"{function} returned {status}"


def _remedy(words: str) -> str:
    if words.endswith(": cannot open: Permission denied"):
        return "; check its permissions"
    if _FAULTY_FILE.search(words) and not _OTHER_FILE.search(words):
        return "; copy it again, or make it anew by `models convert`"
    return ""


def open_process() -> Any:
    """The symbols of the process itself: the C library."""
    return ffi.dlopen(None)


def die_with_parent(process: Any) -> None:
    """Have this process killed when the one that started it ends; ``process`` is of ``open_process``."""
    process.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
