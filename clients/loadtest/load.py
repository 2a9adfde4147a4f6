"""What a run sends and when: a closed loop (so many requests in flight) or an open loop (a schedule)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

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
    """

    rate: float
    arrivals: Arrivals
    duration_s: float
    seed: int = 0

    @property
    def label(self) -> str:
        return f"{self.rate:g}/s {self.arrivals}"

    def send_times_s(self) -> Iterator[float]:
        """Rising intended send times from the start of the run, all below `duration_s`."""
        rng = np.random.default_rng(self.seed)
        time_s = 0.0
        while True:
            time_s += rng.exponential(1 / self.rate) if self.arrivals == "poisson" else 1 / self.rate
            if time_s >= self.duration_s:
                return
            yield time_s


Load = ClosedLoop | OpenLoop
