"""The tests' own reading of /proc/cpuinfo."""

from __future__ import annotations

import pytest

from helpers.instruction_sets import NEEDS, lacking

HASWELL = "flags\t\t: fpu sse4_2 fma avx f16c avx2 bmi2"
ZEN_4 = f"{HASWELL} avx512f avx512dq avx512bw avx512vl avx512_bf16 avx512_vnni"
ALDER_LAKE = f"{HASWELL} avx_vnni"
GRAVITON_2 = "Features\t: fp asimd aes crc32 atomics fphp asimdhp asimddp ssbs"


@pytest.mark.parametrize(
    ("cpuinfo", "offers"),
    [
        ("model name\t: avx2 avx512f asimddp", {"scalar"}),
        (HASWELL, {"scalar", "avx2"}),
        (HASWELL.replace("f16c ", ""), {"scalar"}),
        (ZEN_4, {"scalar", "avx2", "avx512"}),
        (ZEN_4.replace(" avx512_vnni", ""), {"scalar", "avx2"}),
        (ALDER_LAKE, {"scalar", "avx2", "avxvnni"}),
        (GRAVITON_2, {"scalar", "neon"}),
        (f"processor\t: 0\n{HASWELL}\n\nprocessor\t: 1\n{HASWELL}\n", {"scalar", "avx2"}),
    ],
)
def test_what_a_processor_offers(cpuinfo: str, offers: set[str]) -> None:
    assert {name for name in NEEDS if not lacking(name, cpuinfo)} == offers
