"""How many replicas hold a goal, how much more they would bear, and what happens when one of them dies.

Each request goes to a replica at random, as with a Service of Kubernetes. Of Poisson arrivals each replica then gets
Poisson arrivals that know nothing of the others', so that one replica is simulated for a thousand. Where each request
goes to the replica with the fewest open ones, people wait less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from clients.loadtest.load import Arrivals
from clients.loadtest.mlperf import percentile
from clients.planning.service import Server, Service
from clients.planning.simulation import Simulated, simulate

REQUESTS = 100_000
"""Of one simulation; a twentieth of them warms it up."""
PRECISION = 0.02
"""Of the highest rate that holds."""
BEFORE_S, AFTER_S = 10.0, 120.0
"""What is simulated around the time without the replica."""
AGAIN = 1.1
"""Times the goal: it is normal again. Percentiles of a second scatter."""

Values = npt.NDArray[np.float64]


class CannotHoldError(Exception):
    """No number of replicas holds the goal; the message is for the person at the command line."""


@dataclass(frozen=True)
class Forecast:
    """So many replicas under the traffic. `rate` is each one's, `utilisation` that of its engines, `batch` the mean
    number of pictures that run together, `refused` a share. `measured`: a replica did so much in the load test."""

    replicas: int
    rate: float
    utilisation: float
    batch: float
    p50_s: float
    p99_s: float
    refused: float
    measured: bool
    mean_s: float


@dataclass(frozen=True)
class Outage:
    """One replica is missing for `lasts_s`. `lost`: requests that were inside it. `p99_s`, `refused` of the requests
    that come meanwhile; `recovery_s` until p99 is near the goal again once it is back, None: not in two minutes."""

    lasts_s: float
    rate: float
    measured: bool
    lost: float
    p99_s: float
    refused: float
    recovery_s: float | None


@dataclass(frozen=True)
class Planner:
    """`rate` in requests a second, to all replicas together."""

    service: Service
    server: Server
    arrivals: Arrivals
    p99_s: float

    def fewest(self, rate: float) -> int:
        """The smallest number of replicas that holds. Raises `CannotHoldError`."""
        self._check_alone()
        holds = cache(lambda replicas: self.holds(self.forecast(rate, replicas)))
        low = max(1, math.ceil(rate / self.service.highest)) - 1
        high = low + 1
        while not holds(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if holds(middle) else (middle, high)
        return high

    def highest_rate(self, replicas: int, rate: float) -> float:
        """That so many replicas hold, to 2 %; they do hold `rate`."""
        low, high = rate, 2 * rate
        while self.holds(self.forecast(high, replicas)):
            low, high = high, 2 * high
        while high - low > PRECISION * low:
            middle = (low + high) / 2
            low, high = (middle, high) if self.holds(self.forecast(middle, replicas)) else (low, middle)
        return low

    def holds(self, forecast: Forecast) -> bool:
        return forecast.measured and not forecast.refused and forecast.p99_s <= self.p99_s

    def forecast(self, rate: float, replicas: int) -> Forecast:
        each = rate / replicas
        rng = np.random.default_rng(0)
        found = self._simulated(each, _arrivals_s(self.arrivals, rate, replicas, REQUESTS, rng), rng)
        steady = found.latencies_s[REQUESTS // 20 :]
        answered = np.sort(steady[~np.isnan(steady)])
        span_s = found.arrivals_s[-1] * self.server.engines
        return Forecast(
            replicas=replicas,
            rate=each,
            utilisation=min(1.0, found.busy_s / span_s),
            batch=float((~found.refused).sum() / found.batches),
            p50_s=percentile(answered, 0.5),
            p99_s=percentile(answered, 0.99),
            refused=float(np.isnan(steady).mean()),
            measured=each <= self.service.highest,
            mean_s=float(answered.mean()),
        )

    def one_dies(self, rate: float, replicas: int, lasts_s: float) -> Outage:
        """One of two or more is missing for so long; the others share its traffic at random."""
        each, more = rate / replicas, rate / (replicas - 1)
        rng = np.random.default_rng(0)
        phases = ((each, BEFORE_S), (more, lasts_s), (each, AFTER_S))
        expected = each * (BEFORE_S + AFTER_S) + more * lasts_s
        trials = [
            self._simulated(more, _phases_s(phases, rng), rng)
            for _ in range(max(3, math.ceil(2 * REQUESTS / expected)))
        ]
        at_s = np.concatenate([trial.arrivals_s for trial in trials]) - BEFORE_S
        latencies_s = np.concatenate([trial.latencies_s for trial in trials])
        meanwhile = latencies_s[(at_s >= 0) & (at_s < lasts_s)]
        return Outage(
            lasts_s=lasts_s,
            rate=more,
            measured=more <= self.service.highest,
            lost=each * self.forecast(rate, replicas).mean_s,
            p99_s=_p99_s(meanwhile),
            refused=float(np.isnan(meanwhile).mean()),
            recovery_s=self._recovery_s(at_s - lasts_s, latencies_s),
        )

    def _recovery_s(self, at_s: Values, latencies_s: Values) -> float | None:
        """The first second that is near the goal, of those in which requests came after the replica was back."""
        for second in range(int(AFTER_S)):
            within = latencies_s[(at_s >= second) & (at_s < second + 1)]
            if not np.isnan(within).any() and _p99_s(within) <= AGAIN * self.p99_s:
                return float(second)
        return None

    def _check_alone(self) -> None:
        """Requests that never meet."""
        rng = np.random.default_rng(0)
        found = self._simulated(0.0, np.arange(REQUESTS / 10) * 1e6, rng)
        alone_s = _p99_s(found.latencies_s)
        if alone_s > self.p99_s:
            raise CannotHoldError(
                f"No number of replicas holds a p99 of {self.p99_s * 1e3:g} ms: "
                f"requests that meet no other take {alone_s * 1e3:.0f} ms at p99."
            )

    def _simulated(self, each: float, arrivals_s: Values, rng: np.random.Generator) -> Simulated:
        return simulate(self.service.at(each, self.server.max_batch_size), self.server, arrivals_s, rng)


def _arrivals_s(kind: Arrivals, rate: float, replicas: int, count: int, rng: np.random.Generator) -> Values:
    """[count] at one of the replicas, each with the same chance of getting a request. Rate: of all of them."""
    if kind == "poisson":
        return np.cumsum(rng.exponential(replicas / rate, count))
    return np.cumsum(rng.geometric(1 / replicas, count) / rate)


def _phases_s(phases: tuple[tuple[float, float], ...], rng: np.random.Generator) -> Values:
    """Poisson arrivals of (rate, seconds) one after the other."""
    parts, start_s = [], 0.0
    for rate, seconds in phases:
        parts.append(start_s + np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds))))
        start_s += seconds
    return np.concatenate(parts)


def _p99_s(latencies_s: Values) -> float:
    """Of the answered ones; infinite without any."""
    answered = np.sort(latencies_s[~np.isnan(latencies_s)])
    return percentile(answered, 0.99) if len(answered) else math.inf
