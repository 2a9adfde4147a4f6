"""MLPerf's scenarios: which runs one takes, and the one figure that it is about.

SingleStream: one query of one picture after another; p90 of the latency.
MultiStream: one query of eight pictures after another; p99 of the latency of a query, which is answered with its last.
Server: Poisson arrivals of single pictures; the highest rate whose p99 is within the target. A request that is refused
or fails counts as never answered.
Offline: all pictures at once; pictures a second until the last is answered.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import numpy as np

from clients.loadtest.generator import Run
from clients.loadtest.load import ClosedLoop, Load, MultiStream, Offline, OpenLoop
from clients.loadtest.mlperf import allowed_over, estimate, percentile, queries_needed

Scenario = Literal["singlestream", "multistream", "server", "offline"]

P90, P99 = 0.90, 0.99
PRECISION = 0.05
"""The search ends where a rate that holds and one that does not are so close."""
MOST_HALVINGS = 8
ONE_STREAM_S = 2.0
LAG_LIMIT = 0.1

Measure = Callable[[Load], Awaitable[Run]]


async def execute(
    scenario: Scenario, measure: Measure, duration_s: float, concurrency: int, target_ms: float, rate: float | None
) -> dict[str, Any]:
    """Has the runs of a scenario measured and returns its result.

    `concurrency`: how many pictures Offline keeps in flight. `rate`: measure Server at this rate only.
    """
    match scenario:
        case "singlestream":
            return single_stream(await measure(ClosedLoop(1, duration_s)))
        case "multistream":
            return multi_stream(await measure(MultiStream(duration_s)))
        case "offline":
            return offline(await measure(Offline(concurrency, duration_s)))
        case "server":
            if rate is not None:
                return server([await measure(OpenLoop(rate, "poisson", duration_s))], target_ms)
            return server(await _search(measure, duration_s, target_ms), target_ms)


def single_stream(run: Run) -> dict[str, Any]:
    return _latency_result(latencies_ms(run), P90, "p90 of the latency")


def multi_stream(run: Run) -> dict[str, Any]:
    return _latency_result(run.queries_ms, P99, "p99 of the latency of a query")


def offline(run: Run) -> dict[str, Any]:
    answered = [sample.done_s for sample in run.samples if sample.ok]
    value = round(len(answered) / max(answered), 3) if answered else None
    return {"metric": "throughput", "unit": "pictures/s", "value": value, "valid": value is not None, "why": None}


def server(runs: Sequence[Run], target_ms: float) -> dict[str, Any]:
    """Of all trials: the highest rate that held."""
    held = [run for run in runs if holds(run, target_ms)]
    best = max(held, key=_rate, default=None)
    result = {
        "metric": f"highest rate with p99 within {target_ms:g} ms",
        "unit": "requests/s",
        "value": None if best is None else _rate(best),
        "target_ms": target_ms,
    }
    if best is None:
        return {**result, "valid": False, "why": f"p99 was over {target_ms:g} ms at every rate tried"}
    over, sent = sum(value > target_ms for value in latencies_ms(best)), len(best.samples)
    if over > allowed_over(sent, P99):
        needed = queries_needed(over, P99)
        why = f"{sent} queries, {needed} are needed to be sure of p99: give a longer --duration"
    elif _generator_was_late(runs, _rate(best), target_ms):
        why = "above it the generator itself was late; the server may do more"
    else:
        return {**result, "valid": True, "why": None}
    return {**result, "valid": False, "why": why}


def _generator_was_late(runs: Sequence[Run], best: float, target_ms: float) -> bool:
    """At the next higher rate: so much that it may be what missed the target."""
    above = [run for run in runs if _rate(run) > best and run.samples]
    if not above:
        return False
    lags_ms = sorted(sample.lag_ms for sample in min(above, key=_rate).samples)
    return percentile(lags_ms, P99) > LAG_LIMIT * target_ms


def holds(run: Run, target_ms: float) -> bool:
    ascending = sorted(latencies_ms(run))
    return bool(ascending) and not run.given_up and percentile(ascending, P99) <= target_ms


def latencies_ms(run: Run) -> list[float]:
    """Of all requests; infinite for those without an answer."""
    return [sample.latency_ms if sample.ok else math.inf for sample in run.samples]


def _latency_result(values_ms: Sequence[float], fraction: float, metric: str) -> dict[str, Any]:
    """`value` is the sample's percentile, `claimable` the one that holds for more queries than these."""
    ascending = np.sort(np.array(values_ms, float))
    value = percentile(ascending, fraction) if len(ascending) else math.inf
    claimable = estimate(ascending, fraction) if len(ascending) else None
    valid = claimable is not None and math.isfinite(claimable)
    needed = queries_needed(1, fraction)
    why = f"{len(ascending)} queries, {needed} are needed to be sure of it" if claimable is None else "not all answered"
    return {
        "metric": metric,
        "unit": "ms",
        "value": _finite(value),
        "claimable": _finite(claimable),
        "queries": len(ascending),
        "valid": valid,
        "why": None if valid else why,
    }


def _finite(value: float | None) -> float | None:
    return round(value, 3) if value is not None and math.isfinite(value) else None


async def _search(measure: Measure, duration_s: float, target_ms: float) -> list[Run]:
    """LoadGen's: double the rate until the target is missed, then halve the interval. Where to start is measured."""
    runs: list[Run] = []

    async def holds_at(rate: float) -> bool:
        runs.append(await measure(OpenLoop(rate, "poisson", duration_s, target_ms)))
        return holds(runs[-1], target_ms)

    low = await _half_of_one_stream(measure, duration_s)
    while not await holds_at(low):
        if len(runs) == MOST_HALVINGS:
            return runs
        low /= 2
    high = 2 * low
    if len(runs) == 1:
        while await holds_at(high):
            low, high = high, 2 * high
    while high - low > PRECISION * low:
        middle = (low + high) / 2
        low, high = (middle, high) if await holds_at(middle) else (low, middle)
    return runs


async def _half_of_one_stream(measure: Measure, duration_s: float) -> float:
    """A rate that a server should hold which answers one request at a time."""
    run = await measure(ClosedLoop(1, min(duration_s, ONE_STREAM_S)))
    answered = sum(sample.ok for sample in run.samples)
    return max(answered, 1) / run.duration_s / 2


def _rate(run: Run) -> float:
    return run.load.rate if isinstance(run.load, OpenLoop) else 0.0
