"""Figures as text, with their units."""

from __future__ import annotations

REPORTED_FORM = ",.6g"
TTFT_OF_PROCESSES = "each transcription is a process: TTFT counts from its start, its load included"
TTFT_OF_KEPT = (
    "the server keeps models, and is not told to load or unload: a first TTFT may have a load in it"
)
MIB = 1024 * 1024
_SIZES = ((1024 * MIB, "GiB"), (MIB, "MiB"), (1024, "KiB"))


def size(count: float, sign: str = "") -> str:
    """Bytes in the largest unit of which there is one; ``sign`` "+" shows the sign of growth too."""
    for unit, name in _SIZES:
        if abs(count) >= unit:
            return f"{count / unit:{sign},.1f} {name}"
    return f"{count:{sign}.0f} B"


def ttft_note(loads: bool, keeps: bool) -> str | None:
    """What is to be known of TTFT where models are not loaded before it."""
    if loads:
        return None
    return TTFT_OF_KEPT if keeps else TTFT_OF_PROCESSES


def growth(count: float, is_count: bool) -> str:
    """Growth in bytes, or of a number of things; what rounds to nothing has no sign."""
    said = f"{count:+.2f}" if is_count else size(count, "+")
    return {"+0.00": "0", "-0.00": "0", "+0 B": "0 B", "-0 B": "0 B"}.get(said, said)


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def reported_title(name: str) -> str:
    """What a program says of itself: ``load_ms`` is "load, as it says, ms"."""
    plain = name.removesuffix("_ms")
    return f"{plain.replace('_', ' ')}, as it says{', ms' if plain != name else ''}"
