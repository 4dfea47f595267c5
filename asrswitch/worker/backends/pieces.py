"""Text that arrives in chunks of bytes."""

from __future__ import annotations

import codecs


def whole_characters(chunks: list[tuple[int, bytes]]) -> list[tuple[int, str]]:
    """Decode chunks that may split a character: it belongs to the chunk that completes it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    last = len(chunks) - 1
    return [(at, decoder.decode(chunk, final=index == last)) for index, (at, chunk) in enumerate(chunks)]
