"""Writes src/model/unicode_tables.inc: letters, numbers and white space, which the pre-tokeniser tells apart.

    python tools/make_unicode_tables.py > src/model/unicode_tables.inc

Unicode 16.0.0 is the version behind `\\p{L}`, `\\p{N}` and `\\s` in Hugging Face `tokenizers` 0.23.3: all
code points were compared with it. `tests/test_tokenizer_parity.py` compares those that its Python knows.
Needs Python 3.14, whose unicodedata has that version, or the package unicodedata2==16.0.0.
"""

from __future__ import annotations

import importlib
import sys
import unicodedata
from collections.abc import Callable, Iterator

VERSION = "16.0.0"


def category_function() -> Callable[[str], str]:
    """The general category of a character, from whichever database has the wanted version."""
    if unicodedata.unidata_version == VERSION:
        return unicodedata.category
    try:
        other = importlib.import_module("unicodedata2")
    except ImportError:
        sys.exit(
            f"Unicode {VERSION} is needed, this Python has {unicodedata.unidata_version}: "
            f"pip install unicodedata2=={VERSION}"
        )
    if other.unidata_version != VERSION:
        sys.exit(f"Unicode {VERSION} is needed, unicodedata2 has {other.unidata_version}")
    category: Callable[[str], str] = other.category
    return category


def char_class(char: str, category: str) -> str | None:
    """letter, number, space (the property White_Space: separators, TAB to CR, NEL) or None."""
    if category[0] == "L":
        return "letter"
    if category[0] == "N":
        return "number"
    if category[0] == "Z" or char in "\t\n\v\f\r\x85":
        return "space"
    return None


def ranges() -> Iterator[tuple[int, int, str]]:
    """Maximal runs of one class: first and last code point, class."""
    category = category_function()
    first, current = 0, None
    for code in range(0x110001):
        found = char_class(chr(code), category(chr(code))) if code < 0x110000 else None
        if found != current:
            if current is not None:
                yield first, code - 1, current
            first, current = code, found


def main() -> None:
    rows = [f"{{0x{first:04X}, 0x{last:04X}, CharClass::{name}}}," for first, last, name in ranges()]
    print(f"// Made by tools/make_unicode_tables.py from Unicode {VERSION}. {len(rows)} ranges, sorted.")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
