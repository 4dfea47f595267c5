"""Where warm-up ends."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asrswitch.stats.trend import thin

SHORTEST_STEADY = (
    6  # readings left after it: two halves of three, the fewest that have a slope and a residual
)
_NOTHING = 1e-9  # residuals of this part of the series' range are rounding


def warmup_length(series: npt.NDArray[np.float64]) -> int:
    """Readings to leave out at the beginning, at most half of them.

    Marginal standard error rule (White 1997), of the slope where White has the mean: the cut that leaves the
    smallest standard error of a line fitted to the rest. So a steady growth is no warm-up, and adding one
    does not move the cut. A long series is thinned first, and cut between two blocks.
    """
    points, block = thin(series)
    count = len(points)
    furthest = min(count // 2, count - SHORTEST_STEADY)
    if furthest < 1:
        return 0
    range_ = float(np.ptp(points))
    if range_ == 0 or not np.isfinite(range_):
        return 0
    scaled = (points - points[-1]) / range_
    index = np.arange(count, dtype=np.float64)
    cuts = np.arange(furthest + 1)
    rest = index >= cuts[:, None]  # [cuts, n]
    length = count - cuts
    times = (index - (count - 1 + cuts[:, None]) / 2) * rest
    values = (scaled - ((scaled * rest).sum(axis=1) / length)[:, None]) * rest
    spread = (times * times).sum(axis=1)
    residuals = values - ((times * values).sum(axis=1) / spread)[:, None] * times
    residuals[np.abs(residuals) < _NOTHING] = 0
    errors = (residuals * residuals).sum(axis=1) / (length - 2) / spread
    return int(np.argmin(errors)) * block
