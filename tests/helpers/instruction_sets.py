"""The instruction sets that the engine has kernels for, and what a processor lacks for each."""

from __future__ import annotations

_AVX2 = {"avx2", "f16c", "fma"}
# By the words of /proc/cpuinfo.
NEEDS: dict[str, set[str]] = {
    "scalar": set(),
    "avx2": _AVX2,
    "avxvnni": _AVX2 | {"avx_vnni"},
    "avx512": _AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
    "neon": {"asimddp"},
}


def lacking(instruction_set: str, cpuinfo: str) -> list[str]:
    """What the processor that `cpuinfo` is about lacks for an instruction set; empty where it offers it."""
    offered: set[str] = set()
    for line in cpuinfo.splitlines():
        name, _, words = line.partition(":")
        if name.strip() in ("flags", "Features"):  # on x86, on Arm
            offered.update(words.split())
    return sorted(NEEDS[instruction_set] - offered)
