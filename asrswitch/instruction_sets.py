"""The instruction sets that the engine has kernels for, and what a processor lacks for each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

VARIABLE = "CHATLLM_ISA"  # names the one that the engine is to use
_AVX2 = frozenset({"avx2", "f16c", "fma"})
# By the words of /proc/cpuinfo; in the order of `available_kernels` in chatllm.cpp/src/kernels/dispatch.cpp,
# where the last that a processor offers is chosen.
NEEDS: Mapping[str, frozenset[str]] = {
    "scalar": frozenset(),
    "avx2": _AVX2,
    "avxvnni": _AVX2 | {"avx_vnni"},
    "avx512": _AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
    "neon": frozenset({"asimddp"}),
}
_SAID = re.compile(r"kernels: (\w+), threads: \d+", re.ASCII)


def lacking(instruction_set: str, flags: Iterable[str]) -> list[str]:
    """What a processor with these flags lacks for an instruction set; empty where it offers it."""
    return sorted(NEEDS[instruction_set] - set(flags))


def offered(flags: Iterable[str]) -> tuple[str, ...]:
    """Those that a processor with these flags offers; the engine uses the last unless told otherwise."""
    present = frozenset(flags)
    return tuple(name for name, needed in NEEDS.items() if needed <= present)


def used(statistics: Iterable[str]) -> str | None:
    """The one that a transcription was made with, by the engine's statistics lines; None where none tells."""
    return next((match[1] for line in statistics if (match := _SAID.fullmatch(line))), None)
