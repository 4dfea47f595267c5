"""`python ollama_runner.py BYTES [FILE]`: holds memory, and a file mapped, until its input ends.

What the tests' Ollama server starts for each loaded model. Writes a line when every page has been touched.
"""

from __future__ import annotations

import mmap
import os
import sys

PAGE = mmap.PAGESIZE


def main(words: list[str]) -> None:
    count = int(words[0])
    held = mmap.mmap(-1, count, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held[::PAGE] = b"x" * len(range(0, count, PAGE))
    if len(words) > 1:
        descriptor = os.open(words[1], os.O_RDONLY)
        mapped = mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ)
        os.close(descriptor)
        os.environ["TOUCHED"] = str(len(mapped[::PAGE]))
    os.write(1, b"ready\n")
    while os.read(0, 1):
        pass
    os._exit(0)  # the mappings go with the process


if __name__ == "__main__":
    main(sys.argv[1:])
