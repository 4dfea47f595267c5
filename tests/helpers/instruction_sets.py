"""What this processor lacks for an instruction set of the engine's."""

from __future__ import annotations

from asrswitch import instruction_sets

NEEDS = tuple(instruction_sets.NEEDS)


def lacking(instruction_set: str, cpuinfo: str) -> list[str]:
    """What the processor that `cpuinfo` is about lacks for an instruction set; empty where it offers it."""
    offered: set[str] = set()
    for line in cpuinfo.splitlines():
        name, _, words = line.partition(":")
        if name.strip() in ("flags", "Features"):  # on x86, on Arm
            offered.update(words.split())
    return instruction_sets.lacking(instruction_set, offered)
