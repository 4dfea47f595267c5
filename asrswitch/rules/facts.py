"""What the rules need to know of a run besides its models' figures."""

from __future__ import annotations

import msgspec

from asrswitch.plan import CacheState, Strategy
from asrswitch.records import Run
from asrswitch.rules.thresholds import Thresholds
from asrswitch.summary import ModelSummary, Summary


class Memory(msgspec.Struct, frozen=True):
    """How much a process may have, and what says so."""

    name: str
    bytes: int


class Facts(msgspec.Struct, frozen=True):
    """Of one run; None where nothing was measured."""

    thresholds: Thresholds
    strategy: Strategy
    cold: bool  # model files were driven from the page cache before each load
    memory: Memory  # of one worker
    all_memory: Memory  # of all workers together: the limit is of each
    base_bytes: int | None  # of a worker before its first load
    peak_bytes: int | None  # of the workers over the run
    file_bytes: dict[str, int]  # by label, where it is known

    @property
    def safe_bytes(self) -> float:
        """So much of its memory a worker may use."""
        return self.memory.bytes * self.thresholds.safe_percent / 100

    @property
    def all_safe_bytes(self) -> float:
        """So much of their memory all workers may use."""
        return self.all_memory.bytes * self.thresholds.safe_percent / 100

    def footprint_bytes(self, model: ModelSummary) -> int | None:
        """Of a worker that holds this model alone: as it begins, and what the model takes at its most."""
        if self.base_bytes is None or model.peak_above_load_bytes is None:
            return None
        return self.base_bytes + model.peak_above_load_bytes

    def worker_bytes(self, model: ModelSummary) -> float | None:
        """What a worker of this model should be given."""
        footprint = self.footprint_bytes(model)
        return None if footprint is None else footprint * self.thresholds.worker_times


def facts_of(run: Run, summary: Summary) -> Facts:
    """Gather them. Memory is what was free of the machine's; a worker's is its limit, if that is less."""
    resident = summary.resident
    available, limit = run.machine.memory_available_bytes, run.plan.memory_limit_bytes
    everything = Memory("memory of the machine", run.machine.memory_limit_bytes)
    if available is not None and available < everything.bytes:
        everything = Memory("memory that was free", available)
    of_a_worker = everything
    if limit is not None and limit < everything.bytes:
        of_a_worker = Memory("memory limit", limit)
    return Facts(
        thresholds=run.plan.rules,
        strategy=run.plan.strategy,
        cold=run.plan.cache is CacheState.COLD,
        memory=of_a_worker,
        all_memory=everything,
        base_bytes=resident.first if resident else None,
        peak_bytes=resident.peak if resident else None,
        file_bytes={model.label: model.bytes for model in run.plan.models if model.bytes},
    )
