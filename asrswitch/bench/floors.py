"""The least time that a stage could take on a machine whose ceilings are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from asrswitch.stages import COMPUTE_KINDS, Stage

READ = "read"
CEILING_KINDS = (READ, *COMPUTE_KINDS)


def floor_ms(stage: Stage, ceilings: Mapping[str, float]) -> float | None:
    """The least time that the stage could take, in ms.

    All its operations at the ceilings of their kinds, one after another, for they share the same units; or
    all its bytes at the ceiling of reading, if that takes longer: the two can overlap.

    Args:
        stage: what was counted.
        ceilings: operations and bytes a second, by ``CEILING_KINDS``.

    Returns:
        None where nothing was counted or a ceiling is not known.
    """
    needed = [*(kind for kind, count in stage.operations.items() if count), *([READ] if stage.bytes else [])]
    if not needed or any(kind not in ceilings for kind in needed):
        return None
    computing = sum(count / ceilings[kind] for kind, count in stage.operations.items() if count)
    reading = stage.bytes / ceilings[READ] if stage.bytes else 0.0
    return max(computing, reading) * 1e3


def total_floor_ms(stages: Sequence[Stage], ceilings: Mapping[str, float]) -> float | None:
    """The least time of stages that follow one another; those without a count take none.

    None where no stage has a floor, or one has counts and a ceiling is missing.
    """
    counted = [stage for stage in stages if stage.bytes or any(stage.operations.values())]
    floors = [floor_ms(stage, ceilings) for stage in counted]
    known = [floor for floor in floors if floor is not None]
    return sum(known) if known and len(known) == len(floors) else None
