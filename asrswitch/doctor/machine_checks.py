"""What this machine can do: judged by the same facts that a run's log has."""

from __future__ import annotations

import platform
from collections.abc import Mapping

from asrswitch import instruction_sets
from asrswitch.doctor.findings import Finding, limited, missing, ok
from asrswitch.machine import Machine

_GIB = 1 << 30
# For the smallest real model, 0.6B in q4_0, whose weights alone are half of it.
_ROOM_FOR_A_MODEL_BYTES = _GIB
_BUSY_SHARE = 0.5  # of the cores
_OF_OTHER_PROCESSORS = {"x86_64": ("neon",), "aarch64": ("avx2", "avxvnni", "avx512")}


def check_machine(machine: Machine, flags: frozenset[str], environ: Mapping[str, str]) -> list[Finding]:
    """Judge a machine.

    Args:
        machine: the facts about it.
        flags: the features of its processor.
        environ: may name the instruction set to use.
    """
    return [
        check_instruction_set(flags, environ),
        check_cores(machine),
        check_memory(machine),
        check_swap(machine),
        check_huge_pages(machine),
        check_frequency(machine),
        check_load(machine),
    ]


def check_instruction_set(flags: frozenset[str], environ: Mapping[str, str]) -> Finding:
    """Which one the engine uses, and why not the others."""
    subject, variable = "instruction set", instruction_sets.VARIABLE
    here = instruction_sets.offered(flags)
    others = [
        f"{name} lacks {', '.join(instruction_sets.lacking(name, flags))}"
        for name in instruction_sets.NEEDS
        if name not in here and name not in _OF_OTHER_PROCESSORS.get(platform.machine(), ())
    ]
    facts = "; ".join([f"the processor offers {', '.join(here)}", *others])
    chosen = environ.get(variable)
    if chosen and chosen not in here:
        return missing(
            subject,
            f"{variable}={chosen}; {facts}",
            "any run: no model loads",
            f"unset {variable}",
            needed=True,
        )
    if chosen and chosen != here[-1]:
        return limited(
            subject,
            f"{chosen}, as {variable} says; {facts}",
            f"the speed of {here[-1]}, which would be used otherwise",
            f"unset {variable}",
        )
    if here[-1] == "scalar":
        return limited(
            subject,
            f"scalar; {facts}",
            "speeds worth comparing: no vector instructions are used",
            "use a processor with AVX2 or NEON dot products, or let the virtual machine see its host's",
        )
    return ok(subject, f"{here[-1]}; {facts}")


def check_cores(machine: Machine) -> Finding:
    """The cores that this process may use."""
    share = f"{machine.physical_cores} physical; processors {machine.affinity} of {machine.cpus}"
    quota = machine.cpu_quota
    if quota is not None:
        return limited(
            "cores",
            f"{share}, with the time of {quota:g}",
            "steady speeds: threads are halted when the control group's share of a period is used up",
            "give whole processors (cpuset, docker --cpuset-cpus) and no quota",
        )
    return ok("cores", share)


def check_memory(machine: Machine) -> Finding:
    """What a model can have."""
    available = machine.memory_available_bytes
    limit = machine.memory_limit_bytes
    room = limit if available is None else min(available, limit)
    told = "not told" if available is None else _gib(available)
    found = f"{_gib(machine.memory_bytes or limit)}, available {told}, limit {_gib(limit)}"
    if room < _ROOM_FOR_A_MODEL_BYTES:
        return limited(
            "memory",
            found,
            "runs of 0.6B and larger: they need 1 GiB or more",
            "make room or raise the limit",
        )
    return ok("memory", found)


def check_swap(machine: Machine) -> Finding:
    """Whether anything is swapped out."""
    if machine.swap_used_bytes:
        return limited(
            "swap",
            f"{_gib(machine.swap_used_bytes)} of {_gib(machine.swap_bytes or 0)} in use",
            "times that mean something, where a model's own memory is swapped out",
            "close other programs, then `swapoff -a && swapon -a`",
        )
    return ok("swap", "none" if not machine.swap_bytes else f"{_gib(machine.swap_bytes)}, unused")


def check_huge_pages(machine: Machine) -> Finding:
    """Transparent huge pages, which the engine asks for."""
    state = machine.huge_pages
    if state in ("always", "madvise"):
        return ok("huge pages", f"transparent ones: {state}, defrag {machine.huge_pages_defrag}")
    return limited(
        "huge pages",
        f"transparent ones: {state or 'not told'}",
        "part of the speed: the engine asks for them, and loads and prefill are slower without",
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, as root",
    )


def check_frequency(machine: Machine) -> Finding:
    """Whether the frequency is told and held."""
    boost = {True: ", boost on", False: ", boost off", None: ""}[machine.boost]
    now = "" if machine.frequency_mhz is None else f", {machine.frequency_mhz:,.0f} MHz at the moment"
    if machine.governor is None:
        where = "; this is a virtual machine" if machine.hypervisor else ""
        return limited(
            "frequency",
            f"no governor is told{boost}{now}{where}",
            "whether the frequency was held during a run: compare only runs that took turns",
            "measure on the host itself" if machine.hypervisor else None,
        )
    found = f"governor {machine.governor} ({machine.frequency_driver or 'driver not told'}){boost}{now}"
    if machine.governor != "performance":
        return limited(
            "frequency",
            found,
            "steady speeds: the frequency follows the load",
            "`cpupower frequency-set -g performance`, as root",
        )
    return ok("frequency", found)


def check_load(machine: Machine) -> Finding:
    """Whether others are at work."""
    if machine.load_average is None:
        return limited("load", "not told", "a warning where others are at work")
    load = machine.load_average[0]
    found = f"{load:.2f} over the last minute, {machine.physical_cores} cores"
    if load > machine.physical_cores * _BUSY_SHARE:
        return limited("load", found, "steady speeds: others are at work", "wait until they have ended")
    return ok("load", found)


def _gib(count: int) -> str:
    return f"{count / _GIB:,.1f} GiB"
