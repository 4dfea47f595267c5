"""Records of runs that never were, with memory and times that are known."""

from __future__ import annotations

from typing import Any

import msgspec

from asrswitch.figures import figure_out
from asrswitch.machine import Machine
from asrswitch.memory.probe import Memory
from asrswitch.model import Model
from asrswitch.plan import Clip, Plan, Strategy
from asrswitch.records import SCHEMA, Load, Malloc, Point, Reading, Record, Release, Run, Transcription
from asrswitch.schedule import Release as ReleaseKind

MIB = 1 << 20
MODELS = (Model("a", "/a"), Model("b", "/b"))


def run_of(iterations: int, **plan: Any) -> Run:
    """The first record of a run of two models, on a machine of 1 GiB."""
    reload = Plan(MODELS, (Clip("/c", None),), iterations, 1, None, None, Strategy.RELOAD, 1, 1.0, "/out")
    its_plan = msgspec.structs.replace(reload, **plan)
    machine = Machine("cpu", 1, 1 << 30, "s", "c", "p")
    return Run(SCHEMA, "0", "2026-01-01T00:00:00+00:00", "/lib", its_plan, machine)


def memory(rss: int, peak: int) -> Memory:
    """A reading with 1 MiB of files and 90 mappings."""
    return Memory(rss, rss, rss, rss - MIB, MIB, 0, peak, "reading", "smaps_rollup", 90, 1, 5)


def cycle(
    index: int,
    label: str,
    worker: int = 1,
    wer: float | None = None,
    how: ReleaseKind = ReleaseKind.DESTROY,
    load: bool = True,
) -> list[Record]:
    """A cycle of 10 MiB before, 30 loaded, 34 after inference with a peak of 40, 11 after the unload.

    The load takes 100 ms + index, the first text 5 ms, the release 10 ms + index.
    """
    place: dict[str, Any] = {"cycle": index, "iteration": index // 2 + 1, "model": label, "worker": worker}
    levels: dict[Point, tuple[int, int]] = {
        "before_load": (10, 10),
        "after_load": (30, 30),
        "after_infer": (34, 40),
        "after_unload": (11, 34),
    }
    malloc = Malloc(MIB, MIB, 2 * MIB, 0)
    readings: dict[Point, Record] = {
        point: Reading(**place, point=point, memory=memory(rss * MIB, peak * MIB), malloc=malloc)
        for point, (rss, peak) in levels.items()
    }
    figures = figure_out([(5_000_000, "a"), (15_000_000, "bc")], 0, 20_000_000, 1.0, [])
    spoken = Transcription(
        **place, clip="/c", audio_s=1.0, raw="abc", language=None, text="abc", normalised="abc",
        reference="abc", reference_normalised="abc", wer=wer, cer=wer, figures=figures,
    )  # fmt: skip
    loading: list[Record] = [
        readings["before_load"],
        Load(**place, load_ms=100.0 + index),
        readings["after_load"],
    ]
    return [
        *(loading if load else []),
        spoken,
        readings["after_infer"],
        Release(**place, how=how, release_ms=10.0 + index),
        readings["after_unload"],
    ]
