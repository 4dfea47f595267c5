"""What earlier studies published of memory, judged: `python published.py`

Figures are as published, nothing is filled in between them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asrswitch.stats.series import SeriesVerdict, judge_series
from asrswitch.stats.verdict import HELD, RESIDENT

MB = 1_000_000
MIB = 1 << 20
# Fifty switches of 0.6B and 1.7B through chatllm.cpp: "30 MB became 3.9 GB", two readings, noise of 97 MB.
SWITCHES, FIRST, LAST, NOISE = 50, 30 * MB, 3_900 * MB, 97 * MB
# chatllm.cpp with its destroy mended, resident memory after each of ten unloads of 0.6B and 1.7B in turn.
AFTER_UNLOAD = [mib * MIB for mib in (409, 733, 951, 1671, 1669, 2144, 2144, 2657, 2657, 2651)]
# The same library: what malloc's callers hold after each, constant at 41.5 MB a cycle, 410 MB after ten.
HELD_A_CYCLE = 41.5 * MB


def judged() -> dict[str, SeriesVerdict]:
    """Verdicts on what was published."""
    two, ten = np.array([FIRST, LAST], float), np.array(AFTER_UNLOAD, float)
    held = HELD_A_CYCLE * np.arange(1, len(ten) + 1)
    return {
        "old study, resident memory, its two readings": judge_series(two, RESIDENT),
        "mended library, resident memory after ten unloads": judge_series(ten, RESIDENT),
        "mended library, heap in use, its 41.5 MB in each of ten cycles": judge_series(held, HELD),
    }


def line_with_noise(seed: int) -> npt.NDArray[np.float64]:
    """Fifty readings as the study is described, not as it found them: its line, its noise taken as white."""
    noise = np.random.default_rng(seed).normal(0, NOISE, SWITCHES)
    return np.linspace(FIRST, LAST, SWITCHES) + noise


def main() -> None:
    """Print the table."""
    print("| published | verdict | slope, MB a reading (95 % interval) | why |")
    print("| --- | --- | --- | --- |")
    for name, verdict in judged().items():
        slope = verdict.slope
        shown = f"{slope.slope / MB:.1f} ({slope.low / MB:.1f} to {slope.high / MB:.1f})" if slope else "–"
        print(f"| {name} | `{verdict.word.value}` | {shown} | {verdict.reason} |")
    words = [judge_series(line_with_noise(seed), RESIDENT) for seed in range(200)]
    leaks = sum(verdict.word.value == "leak" for verdict in words)
    print(f"\nline and noise as described, simulated: {leaks} of {len(words)} `leak`")


if __name__ == "__main__":
    main()
