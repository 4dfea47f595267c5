"""When to look at the verdict again, and when it stands: for a run that goes on until it knows.

Each look is a chance of a false alarm, for a pool that fills slowly is growth until it is emptied. So looks
are few, and a leak must be seen again in longer runs before it ends the run. How often that errs is measured
in ``experiments/verdict-calibration`` and held in ``tests/stats/test_sequential.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile

from asrswitch.stats.trend import Slope
from asrswitch.stats.verdict import Verdict, Word, iterations_needed

FIRST_LOOK = 50
CONFIRM = 4  # a leak stands in a run this many times as long as the one that first told it
AGREE = 1.25  # of slopes whose intervals do not meet: one is at most this many times the other


def further_iterations(looks: Sequence[Verdict], most: int, done: int) -> int:
    """How many more iterations to run before the next look; 0 where the verdict stands or no more may be run.

    ``looks`` are the verdicts on one worker's memory so far, in order; the last is the run's. ``done``
    iterations have been run of the ``most`` that may be; after a crash a verdict is on fewer than ``done``.
    Where the budget is in seconds, ``most`` is what it allows at the pace so far, and may change.

    ``flat`` and ``plateau`` stand at once, and a ``leak`` when it is confirmed; until then its run doubles.
    An ``inconclusive`` run goes on for as long as its verdict says, and at most doubles. Whatever the word,
    it stands where a look had no more to judge than the one before. Where all that was asked for is run,
    there are at most two looks more than ``most`` is doublings of the first, rounded up.
    """
    if not looks:
        return max(0, min(FIRST_LOOK, most) - done)
    last = looks[-1]
    nothing_new = len(looks) > 1 and last.iterations <= looks[-2].iterations
    if last.word in (Word.FLAT, Word.PLATEAU) or nothing_new or _confirmed(looks):
        return 0
    more = done
    if last.word is Word.INCONCLUSIVE and last.iterations == done:
        # Only so many looks in all: a short step must be made up for by the next.
        behind = FIRST_LOOK * 2 ** (len(looks) - 1) - done
        more = min(done, max(behind, iterations_needed(last)))
    return max(0, min(more, most - done))


def _confirmed(looks: Sequence[Verdict]) -> bool:
    """Whether a series leaks, and leaked as fast at each look since one at a ``CONFIRM``-th of its length."""
    return any(_since(looks, name) * CONFIRM <= looks[-1].iterations for name in looks[-1].series)


def _since(looks: Sequence[Verdict], name: str) -> float:
    """Iterations of the first look since which a series leaks as at the last; infinite where it does not."""
    slope = _leak(looks[-1], name)
    alike = takewhile(lambda look: slope and _agree(slope, _leak(look, name)), reversed(looks))
    return min((look.iterations for look in alike), default=math.inf)


def _leak(look: Verdict, name: str) -> Slope | None:
    verdict = look.series[name].verdict if name in look.series else None
    return verdict.slope if verdict and verdict.word is Word.LEAK else None


def _agree(one: Slope, other: Slope | None) -> bool:
    """Whether two slopes may be the same. What dies out is slower at each look, though it still grows."""
    if other is None:
        return False
    meet = one.low <= other.high and other.low <= one.high
    return meet or max(one.slope, other.slope) <= AGREE * min(one.slope, other.slope)
