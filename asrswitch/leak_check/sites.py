"""Allocation sites: whose they are, and which of them grow from a shorter run to a longer one."""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from asrswitch.stats.series import Word

# Skipped on the way outwards: they allocate for whoever called them.
_RUNTIME = re.compile(r"(vgpreload_|(libc|ld-linux.*|libm|libpthread|libdl|libstdc\+\+|libgcc_s)[-.].*so)")
# By their names: the interpreter, and what cffi calls libraries with.
_INTERPRETER = re.compile(r"libpython3|libffi|_cffi_backend|python[\d.]*t?$")
# Other modules, of distributions and virtual environments alike.
_MODULES = re.compile(r"/python3(\.\d+t?)?/")


class Holder(enum.Enum):
    """Whose code asked for a block: the innermost frame decides that is not the language's runtime."""

    LIBRARY = "library"
    OTHER = "other libraries"
    PYTHON = "Python"


class Frame(msgspec.Struct, frozen=True):
    """A call on a stack. ``offset`` is the address from where the object is mapped, or the address itself."""

    offset: int
    function: str | None = None
    object: str | None = None  # path of the library or program
    source: str | None = None  # FILE:LINE


Stack = tuple[Frame, ...]  # innermost first


class Tally(msgspec.Struct, frozen=True):
    """An amount of memory."""

    bytes: int = 0
    blocks: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.bytes + other.bytes, self.blocks + other.blocks)

    def __sub__(self, other: Tally) -> Tally:
        return Tally(self.bytes - other.bytes, self.blocks - other.blocks)


class Allocation(msgspec.Struct, frozen=True):
    """What one stack asked for in one run: still there at its end, and in all where the tool counts that."""

    stack: Stack
    held: Tally
    kinds: frozenset[str] = frozenset()  # how the process could still reach it
    allocated: Tally = Tally()


class Site(msgspec.Struct, frozen=True):
    """A stack in both runs: what it held at the end of each, and what each further cycle added."""

    holder: Holder
    stack: Stack
    kinds: tuple[str, ...]
    short: Tally
    long: Tally
    bytes_per_cycle: float
    blocks_per_cycle: float
    allocated_bytes_per_cycle: float
    allocated_blocks_per_cycle: float
    every_cycle: bool  # a block or more for each further cycle


def holder_of(stack: Stack, library: Path) -> Holder:
    """Whose allocation it is, or whose mistake; other libraries' where no frame tells."""
    holders = (_holder_of_frame(frame, library) for frame in stack)
    return next((holder for holder in holders if holder is not None), Holder.OTHER)


def before_python(stack: Stack, library: Path) -> Stack:
    """The inner frames, up to the first of Python's."""
    holders = [_holder_of_frame(frame, library) for frame in stack]
    return stack[: holders.index(Holder.PYTHON)] if Holder.PYTHON in holders else stack


def _holder_of_frame(frame: Frame, library: Path) -> Holder | None:
    """None for the runtime. Libraries that lie beside the one under test were brought in by it."""
    if frame.object is None:
        return None
    path = Path(frame.object)
    if _RUNTIME.match(path.name):
        return None
    names = _names(library)
    if path in names:
        return Holder.LIBRARY
    if _INTERPRETER.match(path.name):
        return Holder.PYTHON
    if any(path.parent == name.parent for name in names):
        return Holder.OTHER
    return Holder.PYTHON if _MODULES.search(frame.object) else Holder.OTHER


@functools.cache
def _names(library: Path) -> tuple[Path, Path]:
    """As given, and as the system maps it."""
    return library, library.resolve()


def compare(
    short: Iterable[Allocation],
    long: Iterable[Allocation],
    extra_cycles: int,
    whose: Callable[[Stack], Holder],
) -> tuple[Site, ...]:
    """Every site of two runs, of which the second made ``extra_cycles`` more; the most grown first."""
    before, after = _by_place(short), _by_place(long)
    nothing = Allocation((), Tally())
    sites = []
    for place in before.keys() | after.keys():
        first, last = before.get(place, nothing), after.get(place, nothing)
        stack = last.stack or first.stack
        grown, allocated = last.held - first.held, last.allocated - first.allocated
        sites.append(
            Site(
                holder=whose(stack),
                stack=stack,
                kinds=tuple(sorted(first.kinds | last.kinds)),
                short=first.held,
                long=last.held,
                bytes_per_cycle=grown.bytes / extra_cycles,
                blocks_per_cycle=grown.blocks / extra_cycles,
                allocated_bytes_per_cycle=allocated.bytes / extra_cycles,
                allocated_blocks_per_cycle=allocated.blocks / extra_cycles,
                every_cycle=grown.bytes > 0 and grown.blocks >= extra_cycles,
            )
        )
    return tuple(
        sorted(
            sites, key=lambda site: (-site.bytes_per_cycle, -site.allocated_bytes_per_cycle, -site.long.bytes)
        )
    )


def judge(sites: Iterable[Site]) -> Word:
    """A leak is a site of the library, or of one that it brought in, which adds blocks in every cycle.

    One that grew in fewer may be a cache that is still filling, and a longer run decides it. Python's own
    sites are not the library's.
    """
    grown = [site for site in sites if site.holder is not Holder.PYTHON and site.bytes_per_cycle > 0]
    if any(site.every_cycle for site in grown):
        return Word.LEAK
    return Word.INCONCLUSIVE if grown else Word.FLAT


def _by_place(allocations: Iterable[Allocation]) -> dict[tuple[tuple[str | None, int], ...], Allocation]:
    """Allocations of the same stack added up; frames that were inlined share their caller's address."""
    places: dict[tuple[tuple[str | None, int], ...], Allocation] = {}
    for item in allocations:
        place = tuple(dict.fromkeys((frame.object, frame.offset) for frame in item.stack))
        known = places.get(place)
        places[place] = (
            item
            if known is None
            else Allocation(
                known.stack,
                known.held + item.held,
                known.kinds | item.kinds,
                known.allocated + item.allocated,
            )
        )
    return places
