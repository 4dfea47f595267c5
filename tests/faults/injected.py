"""Runs of models that misbehave as told, and what their logs say."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from asrswitch.records import Failure, Record, Skip, Transcription, read_log
from asrswitch.summary import Summary, summarise

Settings = Mapping[str, object]  # lines of a fake model's file
PHASES = {  # by strategy, those in which the library is called
    "reload": ("load", "transcribe", "unload"),
    "restart": ("load", "transcribe", "restart", "unload"),
    "resident": ("load", "transcribe", "restart", "unload"),
    "isolate": ("load", "transcribe"),  # the end of their process lets models go
}
PLACES = [(strategy, phase) for strategy, phases in PHASES.items() for phase in phases]
GOOD: Settings = {"text": "zero one two three nine!", "pieces": 3}  # eight text callbacks


class Outcome(msgspec.Struct, frozen=True):
    """How a run ended, what it printed, and what it wrote down."""

    code: int
    output: str
    errors: str
    records: list[Record]
    summary: Summary

    @property
    def failures(self) -> list[Failure]:
        return [record for record in self.records if isinstance(record, Failure)]

    @property
    def skipped(self) -> list[str]:
        return [record.model for record in self.records if isinstance(record, Skip)]

    @property
    def spoken(self) -> set[tuple[int, str]]:
        """Iterations and models in which the clip was transcribed."""
        return {(r.iteration, r.model) for r in self.records if isinstance(r, Transcription)}


Inject = Callable[..., Outcome]


def turns(iterations: int, *labels: str) -> set[tuple[int, str]]:
    """Every one of so many iterations, with each of the models."""
    return {(iteration, label) for iteration in range(1, iterations + 1) for label in labels}


def injector(
    run: Callable[..., subprocess.CompletedProcess[str]], script: Callable[..., str], out: Path
) -> Inject:
    """``inject({"label": settings}, iterations=50, options=())`` runs fake models, in the order given."""

    def inject(
        models: Mapping[str, Settings], iterations: int = 50, options: tuple[str, ...] = ()
    ) -> Outcome:
        words = [script(label, **{**GOOD, **settings}) for label, settings in models.items()]
        quick = ("--trim", "never", "--sample-hz", "0", *options)
        done = run(*words, iterations=iterations, options=(*quick, "--out", str(out)))
        records = read_log(out / "run.jsonl")
        return Outcome(done.returncode, done.stdout, done.stderr, records, summarise(records))

    return inject
