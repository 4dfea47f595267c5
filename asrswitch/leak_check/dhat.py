"""dhat's JSON profile (version 2): every allocation site with what it asked for and what was left at exit."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from asrswitch.leak_check.mappings import Mappings
from asrswitch.leak_check.memcheck import read_report
from asrswitch.leak_check.sites import Allocation, Frame, Tally

_VERSION = 2
# 0xADDRESS: FUNCTION (FILE:LINE), or (in OBJECT), or neither.
_FRAME = re.compile(
    r"0x([0-9A-F]{1,16}): (.+?)(?: \((?:in (?P<object>/.*)|(?P<source>[^()]*:\d+))\))?", re.ASCII | re.DOTALL
)


class _Point(msgspec.Struct):
    """A program point: total, and at exit; the keys are dhat's."""

    tb: int
    tbk: int
    eb: int
    ebk: int
    fs: list[int]


class _Profile(msgspec.Struct):
    dhatFileVersion: int
    mode: str
    pps: list[_Point]
    ftbl: list[str]


def read_dhat(path: Path, mappings: Mappings) -> tuple[Allocation, ...]:
    """Read a profile file.

    Raises:
        ReportError: it cannot be read, ends early, or is no heap profile of dhat's.
    """
    return read_report(path, "dhat's profile", lambda json: parse_dhat(json, mappings))


def parse_dhat(json: bytes, mappings: Mappings) -> tuple[Allocation, ...]:
    """Parse a profile; ``mappings`` name the objects, which dhat does not tell where it knows a line.

    Raises:
        ValueError: it ends early or is no heap profile of dhat's; the message is one line.
    """
    profile = msgspec.json.decode(json, type=_Profile)
    if profile.dhatFileVersion != _VERSION or profile.mode != "heap":
        raise ValueError(f"not a heap profile of version {_VERSION}")
    frames = [_frame(text, mappings) for text in profile.ftbl]
    allocations = []
    for point in profile.pps:
        if not all(0 <= index < len(frames) for index in point.fs):
            raise ValueError("a frame that is not in its table")
        allocations.append(
            Allocation(
                stack=tuple(frames[index] for index in point.fs),
                held=Tally(point.eb, point.ebk),
                kinds=frozenset({"at exit"}) if point.ebk else frozenset(),
                allocated=Tally(point.tb, point.tbk),
            )
        )
    return tuple(allocations)


def _frame(text: str, mappings: Mappings) -> Frame:
    match = _FRAME.fullmatch(text)
    if match is None:  # "[root]", which no stack names
        return Frame(0, text)
    address = int(match[1], 16)
    path, offset = mappings.locate(address) or (match["object"], address)
    return Frame(offset, None if match[2] == "???" else match[2], path, match["source"])
