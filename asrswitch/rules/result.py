"""What a rule is, and what it says of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

# Who set the thresholds. The studies gave no derivation: they are conventions.
EARLIER = "earlier studies of this question; a convention"
OURS = "ours; a convention"

Unit = Literal["ms", "s", "bytes", "bytes an iteration", "%", "times", ""]
# What a rule needs of the verdict on memory: nothing, that it is decided, that nothing leaks either.
RestsOn = Literal["times", "verdict", "no leak"]


class Figure(msgspec.Struct, frozen=True):
    """A number, what it is, and its unit; "" is a mere number."""

    name: str
    value: float
    unit: Unit


class RuleResult(msgspec.Struct, frozen=True):
    """What one rule says of one model or of the run, and by what."""

    rule: str
    about: Literal["model", "run"]
    subject: str  # the model, or the models
    outcome: str | None  # in a few words; None where the rule is silent
    says: str  # in a sentence; of a silent rule, why it is
    figures: list[Figure]
    thresholds: list[Figure]
    source: str


class Rule(msgspec.Struct, frozen=True):
    """A rule by itself."""

    name: str
    about: Literal["model", "run"]
    source: str
    rests_on: RestsOn

    def speaks(
        self,
        subject: str,
        outcome: str,
        says: str,
        figures: Sequence[Figure],
        thresholds: Sequence[Figure],
    ) -> RuleResult:
        return RuleResult(
            self.name, self.about, subject, outcome, says, [*figures], [*thresholds], self.source
        )

    def silent(self, subject: str, why: str) -> RuleResult:
        return RuleResult(self.name, self.about, subject, None, why, [], [], self.source)
