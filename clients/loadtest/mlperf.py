"""MLPerf LoadGen's definitions, so that a figure here means what it means there.

A percentile is the value number int(n * p) of n sorted ones, counted from 0: no interpolation. A percentile of a run is
only claimed where the run was long enough for it ("early stopping"): if more than a share 1 - p of all queries ever to
come were over the latency, so few in this run would be a chance of less than 1 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.99

Values = Sequence[float] | npt.NDArray[np.float64]


def rank(count: int, fraction: float) -> int:
    return int(count * fraction)


def percentile(ascending: Values, fraction: float) -> float:
    """`fraction` is 0.99 for p99; `ascending` is sorted and not empty."""
    return float(ascending[rank(len(ascending), fraction)])


def allowed_over(queries: int, fraction: float) -> int:
    """How many of so many queries may be over a latency that is to be called their percentile; -1: not even none."""
    counts = np.arange(1, queries + 1)
    log_odds = math.log(1 - fraction) - math.log(fraction)
    steps = np.log(queries - counts + 1) - np.log(counts) + log_odds
    log_terms = queries * math.log(fraction) + np.concatenate([[0.0], np.cumsum(steps)])
    cumulative = np.cumsum(np.exp(log_terms))
    return int(np.searchsorted(cumulative, 1 - CONFIDENCE)) - 1


def estimate(ascending: Values, fraction: float) -> float | None:
    """The percentile that can be claimed beyond this run, at least the run's own; None: too few queries for any."""
    over = allowed_over(len(ascending), fraction)
    return float(ascending[len(ascending) - over]) if over >= 1 else None


def queries_needed(over: int, fraction: float) -> int:
    """The fewest queries of which `over` may be over the latency."""
    low, high = over + 1, 2
    while allowed_over(high, fraction) < over:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if allowed_over(middle, fraction) >= over else (middle + 1, high)
    return low
