"""Real runs of one build and of one that decodes 10 % slower: `python measure.py OUT KIND [PAIRS]`

KIND is `engine` (an embedded model) or `paced` (the tests' library without a model, 10 ms a piece of text).
PAIRS (40) times there are three runs that take turns, and three one after the other: twice the same build,
and the slowed one. Runs that are in OUT already are not made again.
Needs a C compiler.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
from importlib import resources
from pathlib import Path

import soundfile

from asrswitch.compare.comparison import At, Comparison, Evidence, Word, compare
from asrswitch.compare.runs import read_sides
from asrswitch.native.locate import find_library

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILDS = {"same-1": 0, "same-2": 0, "slowed": 10}  # by how many percent the decode is slower
INTERLEAVED, SINGLE = 120, 50  # iterations
_DECODE = ("tokens_per_s", "chars_per_s")


def build(directory: Path, kind: str) -> Path:
    """Compile the three builds, and return the library that they are slowed builds of."""
    compiler = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O2"]
    for name, percent in BUILDS.items():
        words = [f"-DPERCENT={percent}", "-I", str(ROOT / "chatllm.cpp" / "include")]
        output = directory / f"lib{name}.so"
        subprocess.run([*compiler, *words, "-o", output, HERE / "slowed_chatllm.c"], check=True)
    if kind == "engine":
        return find_library(None, os.environ)
    paced = directory / "libpaced.so"
    subprocess.run([*compiler, "-o", paced, ROOT / "tests" / "native" / "fake_chatllm.c"], check=True)
    return paced


def options(directory: Path, kind: str) -> list[str]:
    """What all runs have in common."""
    words = ["--allow-concurrent", "--quiet", "--threads", "1", "--trim", "never", "--sample-hz", "0"]
    if kind == "engine":
        model = resources.files("asrswitch") / "models" / "digits-large.bin"
        return [*words, "--model", f"large={model}"]
    script = directory / "paced.bin"
    script.write_text("text=0 9 0 0 0 7 3 3\npieces=4\ndelay_ms=10\nload_ms=5\n")
    clip = directory / "clip.wav"
    soundfile.write(clip, [0.0] * 16_000, 16_000, subtype="PCM_16")
    return [*words, "--model", f"paced={script}", "--audio", str(clip)]


def make(directory: Path, kind: str, pairs: int) -> None:
    """Make the runs that are missing."""
    environment = {**os.environ, "SLOWED_LIBRARY": str(build(directory, kind))}
    common = options(directory, kind)
    libraries = [["--library", str(directory / f"lib{name}.so")] for name in BUILDS]

    def run(iterations: int, out: Path, words: list[str]) -> None:
        command = [sys.executable, "-m", "asrswitch", "--iters", str(iterations), "--out", str(out)]
        if not out.exists():
            subprocess.run(
                [*command, *common, *words], env=environment, check=True, stdout=subprocess.DEVNULL
            )

    for number in range(pairs):
        every = [word for words in libraries for word in words]
        run(INTERLEAVED, directory / "interleaved" / str(number), every)
        for name, words in zip(BUILDS, libraries, strict=True):
            run(SINGLE, directory / "single" / str(number) / name, words)


def comparisons(directory: Path, pairs: int) -> dict[Evidence, list[tuple[Comparison, Comparison]]]:
    """Of each way of running, the first build held against the same, and against the slowed one."""
    found: dict[Evidence, list[tuple[Comparison, Comparison]]] = {
        Evidence.INTERLEAVED: [], Evidence.SINGLE: []
    }  # fmt: skip
    for number in range(pairs):
        turns = sorted(path for path in (directory / "interleaved" / str(number)).iterdir() if path.is_dir())
        alone = [directory / "single" / str(number) / name for name in BUILDS]
        for evidence, (first, same, slowed) in ((Evidence.INTERLEAVED, turns), (Evidence.SINGLE, alone)):
            held = [compare(read_sides([first, other], {})) for other in (same, slowed)]
            assert all(pair.evidence is evidence for comparison in held for pair in comparison.pairs)
            found[evidence].append((held[0], held[1]))
    return found


def run_to_run(same: list[Comparison]) -> float:
    """By what part the tokens/s of one build differ from run to run, at their best tenth.

    The standard deviation of one run: a pair of them has twice the variance.
    """
    changes = [
        math.log(figure.change)
        for comparison in same
        for figure in comparison.pairs[0].figures
        if figure.key == "tokens_per_s" and figure.at is At.BEST and figure.change
    ]
    return statistics.pstdev(changes, 0) / math.sqrt(2)


def main() -> None:
    """Make the runs, and print how the comparisons came out."""
    directory, kind = Path(sys.argv[1]) / sys.argv[2], sys.argv[2]
    pairs = int(sys.argv[3]) if len(sys.argv) > 3 else 40
    directory.mkdir(parents=True, exist_ok=True)
    make(directory, kind, pairs)
    print(
        "| runs | pairs | same build, different | which figure | 10 % slower, found | smallest seen | "
        "tokens/s of a build, from run to run |"
    )
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: |")
    for evidence, held in comparisons(directory, pairs).items():
        same = [[figure for figure in first.pairs[0].figures if figure.differs] for first, _ in held]
        which = ", ".join(f"{figure.title} {figure.word.value}" for figures in same for figure in figures)
        decode = [[f for f in second.pairs[0].figures if f.key in _DECODE] for _, second in held]
        found = sum(any(figure.word is Word.SLOWER for figure in figures) for figures in decode)
        seen = statistics.median(min(f.smallest or 0 for f in figures) for figures in decode)
        print(
            f"| {kind}, {evidence.value} | {len(held)} | {sum(map(bool, same))} | {which or '–'} | {found} | "
            f"{seen:.1%} | {run_to_run([first for first, _ in held]):.1%} |"
        )


if __name__ == "__main__":
    main()
