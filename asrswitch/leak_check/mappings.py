"""Which file an address of a process belongs to."""

from __future__ import annotations

import bisect
import re

_LINE = re.compile(
    r"([0-9a-f]{1,16})-([0-9a-f]{1,16}) \S{4} ([0-9a-f]{1,16}) \S+ \d+ +(/.*?)(?: \(deleted\))?", re.ASCII
)


class Mappings:
    """The file mappings of a process, from the text of its ``/proc/PID/maps``."""

    def __init__(self, maps: str = "") -> None:
        found = (_LINE.fullmatch(line) for line in maps.splitlines())
        self._ranges = sorted(
            (int(match[1], 16), int(match[2], 16), int(match[3], 16), match[4]) for match in found if match
        )
        self._starts = [start for start, _, _, _ in self._ranges]

    def locate(self, address: int) -> tuple[str, int] | None:
        """The file and the offset in it."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        start, end, offset, path = self._ranges[index]
        return (path, address - start + offset) if address < end else None
