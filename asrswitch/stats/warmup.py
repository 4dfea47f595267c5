"""Where warm-up ends."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from asrswitch.stats.trend import thin


def warmup_length(series: npt.NDArray[np.float64]) -> int:
    """Readings to leave out at the beginning, at most half of them.

    Marginal standard error rule (White 1997): the cut that leaves the smallest standard error of the mean. On
    a series that grows to the end it cuts half, which leaves the growth in the other half to be seen. A long
    series is thinned first, and cut between two blocks.
    """
    points, block = thin(series)
    length = len(points)
    cuts = range(length // 2 + 1)
    errors = [float(np.var(points[cut:])) / (length - cut) for cut in cuts]
    return int(np.argmin(errors)) * block
