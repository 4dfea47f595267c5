"""Runs that were interrupted: what they were to do, and where they go on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import msgspec

from asrswitch.backend_choice import models_of_server
from asrswitch.errors import UsageError
from asrswitch.plan import LOG_NAME, Plan, size_of
from asrswitch.records import End, Failure, OfCycle, Reading, Record, Run, Skip, TornLineWarning, read_log
from asrswitch.schedule import Cycle
from asrswitch.schedule import Release as ReleaseKind

RETRIED = ("start", "renew", "load", "transcribe")  # the phases in which a failed cycle is tried once more


class Position(msgspec.Struct, frozen=True):
    """How far a run came: its last cycle, and whether that is over."""

    cycle: Cycle
    over: bool


class Earlier(msgspec.Struct, frozen=True):
    """A run as its log tells it."""

    plan: Plan
    library: str
    records: list[Record]


def find_logs(directory: Path) -> list[Path]:
    """The log of a run's directory, or the logs of the runs in it that took turns."""
    own = directory / LOG_NAME
    return [own] if own.is_file() else sorted(directory.glob(f"*/{LOG_NAME}"))


def read_interrupted(directory: Path) -> list[Earlier]:
    """The runs of a directory, in the order that they have in each round.

    Raises:
        UsageError: none is there, or all are complete, or they did not take turns, or a file that they need
            has changed, or a server's model.
        LogError: a log that cannot be read.
    """
    paths = find_logs(directory)
    if not paths:
        raise UsageError(f"{directory}: holds no {LOG_NAME}; name the directory of a run")
    found = []
    for path in paths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TornLineWarning)  # the line will be cut off
            records = read_log(path)
        run = records[0]
        assert isinstance(run, Run)
        # The directory may have been moved since.
        plan = msgspec.structs.replace(run.plan, out=str(path.parent.absolute()))
        _check_files(plan)
        found.append(Earlier(plan, run.library, records))
    order = [id(records) for records in in_turns(directory, [earlier.records for earlier in found])]
    if all(_is_complete(earlier.records) for earlier in found):
        raise UsageError(f"{directory}: this run is complete; `report {directory}` shows it")
    return sorted(found, key=lambda earlier: order.index(id(earlier.records)))


def in_turns(directory: Path, logs: list[list[Record]]) -> list[list[Record]]:
    """Logs of one directory in the order of their runs' turns.

    Raises:
        UsageError: they are of runs that did not take turns.
    """
    plans = [plan_of(records) for records in logs]
    turns = {plan.turn for plan in plans if plan.variant is not None}
    if len(logs) > 1 and len(turns) < len(logs):
        raise UsageError(f"{directory}: holds {len(logs)} runs that did not take turns; name one of them")
    return sorted(logs, key=lambda records: plan_of(records).turn)


def plan_of(records: Sequence[Record]) -> Plan:
    """What a log says that its run was to do."""
    run = records[0]
    assert isinstance(run, Run)
    return run.plan


def position(plan: Plan, records: Sequence[Record]) -> Position | None:
    """How far a run came; None where no cycle was begun."""
    last = next((record for record in reversed(records) if isinstance(record, OfCycle)), None)
    if last is None:
        return None
    model = next(model for model in plan.models if model.label == last.model)
    cycle = Cycle(last.cycle, last.iteration, model, load=True, release=ReleaseKind.DESTROY)
    its_own = [r for r in records if isinstance(r, OfCycle) and r.cycle == last.cycle]
    return Position(cycle, any(_ends_cycle(record) for record in its_own))


def _ends_cycle(record: OfCycle) -> bool:
    if isinstance(record, Failure):
        return record.phase not in RETRIED or record.kind == "refused"
    return isinstance(record, Skip) or (isinstance(record, Reading) and record.point == "after_unload")


def _is_complete(records: Sequence[Record]) -> bool:
    last = records[-1]
    return isinstance(last, End) and last.reason == "complete"


def _check_files(plan: Plan) -> None:
    """Refuse to go on with other models or clips: the figures would be of two things."""
    files: list[tuple[str, int | None]] = []
    if plan.backend.is_server:
        _check_models_of_server(plan)
    else:  # what is a directory has no size, and is its backend's to find
        ours = [m for m in plan.models if m.bytes is not None or plan.backend.is_default]
        files += [(m.path, m.bytes) for m in ours]
    files += [(clip.path, clip.bytes) for clip in plan.clips]
    for name, size in files:
        path = Path(name)
        if not path.exists():
            raise UsageError(f"{path}: there is no such file any more; put it back, or begin a new run")
        if size is not None and size_of(path) != size:
            raise UsageError(f"{path}: is not the file that this run began with; begin a new run")


def _check_models_of_server(plan: Plan) -> None:
    words = [f"{model.label}={model.path}" for model in plan.models]
    for before, now in zip(plan.models, models_of_server(plan.backend, words) or (), strict=True):
        if (now.digest, now.bytes) != (before.digest, before.bytes):
            raise UsageError(
                f"{plan.backend.configuration['url']}: {now.path} is not the model that this run began with; "
                "begin a new run"
            )
