"""Open a library in a process of its own and tell what it has: a library may crash who opens it."""

from __future__ import annotations

import json
import sys

from asrswitch import native

EXTENSIONS = ("chatllm_ext_memory_needs", "chatllm_ext_ceiling_isa", "chatllm_ext_measure_ceiling")
_KINDS = ("int8", "bf16", "f32")


def main() -> int:
    """Print it as JSON; a library that cannot be used is a line on standard error and exit code 1."""
    try:
        library = native.open_library(sys.argv[1])
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    instructions = {}
    if hasattr(library, "chatllm_ext_ceiling_isa"):
        for kind in _KINDS:
            name = library.chatllm_ext_ceiling_isa(kind.encode())
            if name != native.ffi.NULL:
                instructions[kind] = native.ffi.string(name).decode("ascii", "replace")
    lacking = [name for name in EXTENSIONS if not hasattr(library, name)]
    print(json.dumps({"lacking": lacking, "instructions": instructions}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
