"""What a check finds, as values."""

from __future__ import annotations

import enum

import msgspec


class Mark(enum.Enum):
    """How it stands with something that is checked."""

    OK = "ok"
    LIMITED = "limited"
    MISSING = "missing"


class Finding(msgspec.Struct, frozen=True):
    """One check. What is not ``OK`` says what goes without it, and how to get it where that is possible."""

    subject: str
    mark: Mark
    found: str
    lost: str | None = None
    remedy: str | None = None
    needed: bool = False  # without it there is no run


class Section(msgspec.Struct, frozen=True):
    """Checks that belong together."""

    title: str
    findings: list[Finding]


class Diagnosis(msgspec.Struct, frozen=True):
    """All checks of one machine."""

    version: str
    ready: bool  # a run is possible
    sections: list[Section]


def diagnose(version: str, sections: list[Section]) -> Diagnosis:
    """Put checks together: a run is possible unless something that it needs is missing."""
    findings = [finding for section in sections for finding in section.findings]
    ready = not any(finding.needed and finding.mark is Mark.MISSING for finding in findings)
    return Diagnosis(version, ready, sections)


def ok(subject: str, found: str) -> Finding:
    """It is as it should be."""
    return Finding(subject, Mark.OK, found)


def limited(subject: str, found: str, lost: str, remedy: str | None = None) -> Finding:
    """It is there in part."""
    return Finding(subject, Mark.LIMITED, found, lost, remedy)


def missing(
    subject: str, found: str, lost: str, remedy: str | None = None, *, needed: bool = False
) -> Finding:
    """It is not there."""
    return Finding(subject, Mark.MISSING, found, lost, remedy, needed)
