"""memcheck's XML report (protocol 4): blocks that were never freed, and errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from xml.etree import ElementTree

import msgspec

from asrswitch.errors import AsrSwitchError
from asrswitch.leak_check.mappings import Mappings
from asrswitch.leak_check.sites import Allocation, Frame, Stack, Tally

# <kind> of a record of blocks that were still there when the process ended.
_KINDS = {
    "Leak_DefinitelyLost": "definitely lost",
    "Leak_IndirectlyLost": "indirectly lost",
    "Leak_PossiblyLost": "possibly lost",
    "Leak_StillReachable": "still reachable",
}
_DIRECT = re.compile(r"\(([\d,]{1,24}) direct, [\d,]+ indirect\)", re.ASCII)


_Report = TypeVar("_Report")


class ReportError(AsrSwitchError):
    """A file of valgrind's that makes no sense."""


def read_report(path: Path, what: str, parse: Callable[[bytes], _Report]) -> _Report:
    """Parse a file of valgrind's; ``parse`` raises ``ValueError`` with a line.

    Raises:
        ReportError: it cannot be read, ends early, or makes no sense.
    """
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise ReportError(f"{path}: {what} cannot be read ({error.strerror}); run again") from None
    except ValueError as error:
        raise ReportError(
            f"{path}: {what} ends early or makes no sense ({error}); make room and run again"
        ) from None


class Mistake(msgspec.Struct, frozen=True):
    """An invalid access, a use of a value that was never set, a wrong free."""

    kind: str
    what: str
    stack: Stack
    count: int


class MemcheckReport(msgspec.Struct, frozen=True):
    """Everything that a run left."""

    allocations: tuple[Allocation, ...]
    mistakes: tuple[Mistake, ...]


def read_memcheck(path: Path, mappings: Mappings) -> MemcheckReport:
    """Read a report file.

    Raises:
        ReportError: it cannot be read, ends early, or is no report of memcheck's.
    """
    return read_report(path, "valgrind's report", lambda xml: parse_memcheck(xml, mappings))


def parse_memcheck(xml: bytes, mappings: Mappings) -> MemcheckReport:
    """Parse a report; ``mappings`` name the objects of addresses that it does not.

    Raises:
        ValueError: it ends early or is no report of memcheck's; the message is one line.
    """
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, LookupError) as error:  # the latter: an encoding that Python lacks
        raise ValueError(str(error)) from None
    if root.tag != "valgrindoutput" or root.findtext("protocoltool") != "memcheck":
        raise ValueError("not a report of memcheck's")
    if [state.text for state in root.findall("status/state")][-1:] != ["FINISHED"]:
        raise ValueError("the process did not finish")
    counts = {pair.findtext("unique"): _number(pair, "count") for pair in root.findall("errorcounts/pair")}
    allocations, mistakes = [], []
    for record in root.findall("error"):
        kind = _text(record, "kind")
        stack = tuple(_stack(record, mappings))
        if kind in _KINDS:
            held = Tally(_own_bytes(record), _number(record, "xwhat/leakedblocks"))
            allocations.append(Allocation(stack, held, frozenset({_KINDS[kind]})))
        else:
            what = record.findtext("what") or record.findtext("xwhat/text") or kind
            mistakes.append(Mistake(kind, what, stack, counts.get(record.findtext("unique"), 1)))
    return MemcheckReport(tuple(allocations), tuple(mistakes))


def _stack(record: ElementTree.Element, mappings: Mappings) -> Iterator[Frame]:
    for frame in record.findall("stack[1]/frame"):
        address = int(_text(frame, "ip"), 16)
        path, offset = mappings.locate(address) or (frame.findtext("obj"), address)
        file, line = frame.findtext("file"), frame.findtext("line")
        source = f"{file}:{line}" if file and line else file
        yield Frame(offset, frame.findtext("fn"), path, source)


def _own_bytes(record: ElementTree.Element) -> int:
    """Bytes of the blocks themselves. memcheck adds what only they pointed to, and reports that again."""
    match = _DIRECT.search(_text(record, "xwhat/text"))
    return int(match[1].replace(",", "")) if match else _number(record, "xwhat/leakedbytes")


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"no {path} in {element.tag}")
    return text


def _number(element: ElementTree.Element, path: str) -> int:
    number = int(_text(element, path))
    if not 0 <= number < 1 << 63:
        raise ValueError(f"{path} is {number}")
    return number
