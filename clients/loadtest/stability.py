"""Whether a window was steady: figures of a server that still warms up, or falls behind, depend on the window's length.

The window is cut into ten parts. Throughput and latency drift where a straight line through the parts' means rises or
falls by more than 10 % of their mean over the window (the latency also by more than 1 ms), and by more than chance
(t test of the slope, 5 %).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

PARTS = 10
LEAST_PER_PART = 5
DRIFT_LIMIT = 0.10
# A smaller drift of the latency may be the generator's own.
DRIFT_LIMIT_MS = 1.0
# Of Student's t with PARTS - 2 degrees of freedom, two-sided, 5 %.
T_LIMIT = 2.306

Values = npt.NDArray[np.float64]


def stability(intended_s: Values, done_s: Values, latency_ms: Values, duration_s: float) -> dict[str, Any]:
    """Of a run's answered requests [n]. `steady` is None where there were too few to tell; drifts are parts of 1."""
    edges = np.linspace(0, duration_s, PARTS + 1)
    asked, _ = np.histogram(intended_s, edges)
    if asked.min() < LEAST_PER_PART:
        return {"steady": None, "throughput_drift": None, "latency_drift": None}
    answered, _ = np.histogram(done_s, edges)
    sums, _ = np.histogram(intended_s, edges, weights=latency_ms)
    throughput, throughput_is_chance = _drift(answered.astype(float))
    latency, latency_is_chance = _drift(sums / asked)
    latency_is_small = abs(latency) * float(latency_ms.mean()) <= DRIFT_LIMIT_MS
    unsteady = [
        abs(throughput) > DRIFT_LIMIT and not throughput_is_chance,
        abs(latency) > DRIFT_LIMIT and not latency_is_chance and not latency_is_small,
    ]
    drifts = {"throughput_drift": round(throughput, 3), "latency_drift": round(latency, 3)}
    return {"steady": not any(unsteady), **drifts}


def _drift(means: Values) -> tuple[float, bool]:
    """How far a line through them goes up or down, of their mean; and whether that may be chance."""
    at = (np.arange(len(means)) + 0.5) / len(means) - 0.5
    slope = float(at @ means / (at @ at))
    residuals = means - means.mean() - slope * at
    error = math.sqrt(float(residuals @ residuals) / (len(means) - 2) / float(at @ at))
    return slope / float(means.mean() or 1.0), abs(slope) <= T_LIMIT * error
