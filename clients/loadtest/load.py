"""What a run sends and when: a closed loop (so many requests in flight) or an open loop (a schedule)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Arrivals = Literal["poisson", "constant"]


@dataclass(frozen=True)
class ClosedLoop:
    """`concurrency` senders, each with its next request as soon as the last is answered."""

    concurrency: int
    duration_s: float

    @property
    def label(self) -> str:
        return f"concurrency {self.concurrency}"


@dataclass(frozen=True)
class OpenLoop:
    """Requests at their appointed times, whether or not earlier ones are answered: as users come.

    `rate` is in requests a second; `poisson` arrivals are independent of each other, `constant` ones evenly spaced.
    With `target_ms` the run ends once its p99 can no longer be within that.
    """

    rate: float
    arrivals: Arrivals
    duration_s: float
    target_ms: float | None = None
    seed: int = 0

    @property
    def label(self) -> str:
        return f"{round(self.rate, 2):g}/s {self.arrivals}"

    def send_times_s(self) -> npt.NDArray[np.float64]:
        """[n] rising intended send times from the start of the run, all below `duration_s`."""
        if self.arrivals == "constant":
            times_s = np.arange(1, self.rate * self.duration_s + 1) / self.rate
            return times_s[times_s < self.duration_s]
        rng = np.random.default_rng(self.seed)
        times_s = np.zeros(1)
        while times_s[-1] < self.duration_s:
            gaps_s = rng.exponential(1 / self.rate, 1 + int(self.rate * self.duration_s))
            times_s = np.concatenate([times_s, times_s[-1] + np.cumsum(gaps_s)])
        return times_s[1 : np.searchsorted(times_s, self.duration_s)]


@dataclass(frozen=True)
class MultiStream:
    """MLPerf's: a query is so many pictures at once; the next follows when all of them are answered."""

    duration_s: float
    samples_per_query: int = 8

    @property
    def concurrency(self) -> int:
        return self.samples_per_query

    @property
    def label(self) -> str:
        return f"{self.samples_per_query} a query"


@dataclass(frozen=True)
class Offline:
    """MLPerf's: all pictures are there at the start, and their latency counts from then; `concurrency` in flight."""

    concurrency: int
    duration_s: float

    @property
    def label(self) -> str:
        return f"offline {self.concurrency}"


Load = ClosedLoop | OpenLoop | MultiStream | Offline
