"""What a measured figure leaves open: intervals that hold the true one 95 times of 100."""

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
"""Coverage of every interval."""

Interval = tuple[float, float]


def wilson_interval(successes: float, n: int) -> Interval:
    """The 95 % score interval of a rate (Wilson 1927), sound for few trials and rates near 0 or 1.

    Args:
        successes: how many of ``n`` came out well; a share of ``n`` may be no whole number.
        n: number of trials; with none the interval is (0, 1).

    >>> [round(bound, 3) for bound in wilson_interval(45, 50)]
    [0.786, 0.957]
    """
    if not n:
        return 0.0, 1.0
    squared = float(stats.norm.isf((1.0 - CONFIDENCE) / 2.0)) ** 2

    def lower(count: float) -> float:
        spread = np.sqrt(squared * (count * (n - count) / n + squared / 4))
        return float((count + squared / 2 - spread) / (n + squared))

    return lower(successes), 1.0 - lower(n - successes)


def percentile_interval(values: np.ndarray) -> Interval:
    """The central 95 % of resampled values."""
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)
