"""What the rules compare figures with; an experiment file may set each of them."""

from __future__ import annotations

import itertools
from typing import Annotated

import msgspec

_Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
_Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
_Mib = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class Thresholds(msgspec.Struct, frozen=True):
    """Conventions, as docs/rules.md tells; none of them is a law of nature."""

    load_lazy_below_s: _Seconds = 2.0
    load_acceptable_below_s: _Seconds = 5.0
    load_popular_below_s: _Seconds = 10.0
    reclaimed_release_above_percent: _Percent = 90.0
    reclaimed_monitor_above_percent: _Percent = 70.0
    reclaimed_critical_above_percent: _Percent = 50.0
    reclaimed_left_mib: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 4.0  # so little left is nothing
    leak_small_below_mib: _Mib = 10.0
    leak_grave_from_mib: _Mib = 50.0
    leak_iterations: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 100  # over which leaks are graded
    worker_times: Annotated[float, msgspec.Meta(ge=1, le=100)] = 1.5  # the footprint
    safe_percent: Annotated[float, msgspec.Meta(gt=0, le=100)] = 80.0  # of memory that may be in use


_RISING = (
    ("load_lazy_below_s", "load_acceptable_below_s", "load_popular_below_s"),
    (
        "reclaimed_critical_above_percent",
        "reclaimed_monitor_above_percent",
        "reclaimed_release_above_percent",
    ),
    ("leak_small_below_mib", "leak_grave_from_mib"),
)


def misordered(thresholds: Thresholds) -> tuple[str, str] | None:
    """Two thresholds of which the first is the higher and must not be."""
    for names in _RISING:
        for lower, upper in itertools.pairwise(names):
            if getattr(thresholds, lower) > getattr(thresholds, upper):
                return lower, upper
    return None
