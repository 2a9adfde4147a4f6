"""The simulated replica against queueing theory, against plain recursions, and against sequences worked out by hand."""

from __future__ import annotations

import heapq
import math

import numpy as np
import numpy.typing as npt
import pytest

from clients.planning.service import Server, Times
from clients.planning.simulation import Simulated, simulate

Values = npt.NDArray[np.float64]

SERVICE_S = 0.01
ALONE = Server(max_batch_size=1, max_queue_size=10**9, max_queue_wait_s=1e9)


def times(batch_s: Values, rest_s: float = 0.0) -> Times:
    """`batch_s` [K, B, Q]; every canvas is as frequent as the others."""
    count = len(batch_s)
    return Times(np.full(count, 1 / count), np.full((count, 1), rest_s), batch_s)


def fixed(seconds: float, largest: int = 1, canvases: int = 1) -> Times:
    """Every batch takes that long."""
    return times(np.full((canvases, largest, 1), seconds))


def run(service: Times, server: Server, arrivals_s: Values, seed: int = 0) -> Simulated:
    return simulate(service, server, arrivals_s, np.random.default_rng(seed))


def poisson(rate: float, count: int, seed: int = 1) -> Values:
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


def md1_wait_below(wait_s: float, rate: float) -> float:
    """Chance of a wait of at most that long with fixed service (Erlang)."""
    terms = (
        (-rate * (wait_s - k * SERVICE_S)) ** k / math.factorial(k) * math.exp(rate * (wait_s - k * SERVICE_S))
        for k in range(int(wait_s / SERVICE_S) + 1)
    )
    return (1 - rate * SERVICE_S) * sum(terms)


@pytest.mark.parametrize("utilisation", [0.3, 0.5, 0.7])
def test_fixed_service_waits_as_erlang_says(utilisation: float) -> None:
    rate = utilisation / SERVICE_S
    waits_s = run(fixed(SERVICE_S), ALONE, poisson(rate, 150_000)).latencies_s - SERVICE_S
    assert waits_s.mean() == pytest.approx(utilisation / 2 / (1 - utilisation) * SERVICE_S, rel=0.04)
    for percent in (50, 90, 99):
        limit_s = float(np.percentile(waits_s, percent)) + 1e-9
        assert md1_wait_below(limit_s, rate) == pytest.approx(np.mean(waits_s <= limit_s), abs=0.01)


@pytest.mark.parametrize("fraction", [0.5, 0.9, 0.99])
def test_exponential_service_answers_as_theory_says(fraction: float) -> None:
    """M/M/1: the time in the system is exponential, at the rate that is left."""
    middles = (np.arange(5000) + 0.5) / 5000
    service = times(-SERVICE_S * np.log(1 - middles)[None, None])
    found = run(service, ALONE, poisson(60.0, 200_000))
    expected_s = -math.log(1 - fraction) / (1 / SERVICE_S - 60.0)
    assert np.quantile(found.latencies_s, fraction) == pytest.approx(expected_s, rel=0.07)
    assert found.busy_s / found.arrivals_s[-1] == pytest.approx(0.6, rel=0.01)


@pytest.mark.parametrize("engines", [1, 2, 5])
def test_several_engines_share_a_queue(engines: int) -> None:
    arrivals_s = poisson(0.9 * engines / SERVICE_S, 20_000)
    free_s = [0.0] * engines
    expected_s = []
    for now in arrivals_s:
        done_s = max(now, heapq.heappop(free_s)) + SERVICE_S
        heapq.heappush(free_s, done_s)
        expected_s.append(done_s - now)
    server = Server(engines=engines, max_batch_size=1, max_queue_wait_s=1e9)
    np.testing.assert_allclose(run(fixed(SERVICE_S), server, arrivals_s).latencies_s, expected_s, atol=1e-9)


def batches_one_by_one(arrivals_s: Values, largest: int) -> list[float]:
    """What waits when the engine is free goes together; latencies."""
    free_s, first, latencies_s = 0.0, 0, []
    while first < len(arrivals_s):
        started = max(free_s, arrivals_s[first])
        last = min(first + largest, int(np.searchsorted(arrivals_s, started, "right")))
        free_s = started + SERVICE_S * (1 + (last - first) / 4)
        latencies_s += [free_s - arrivals_s[k] for k in range(first, last)]
        first = last
    return latencies_s


@pytest.mark.parametrize("largest", [2, 8])
def test_what_waits_goes_together(largest: int) -> None:
    service = times(SERVICE_S * (1 + np.arange(1, largest + 1) / 4)[None, :, None])
    arrivals_s = poisson(110.0, 20_000)
    found = run(service, Server(max_batch_size=largest, max_queue_wait_s=1e9), arrivals_s)
    np.testing.assert_allclose(found.latencies_s, batches_one_by_one(arrivals_s, largest), atol=1e-9)


def test_batches_are_as_large_as_the_markov_chain_says() -> None:
    """Of what waits when a batch of at most 4 ends, at 1.5 times what the engine could do one by one."""
    rate, largest, most = 150.0, 4, 80
    came = [math.exp(-rate * SERVICE_S) * (rate * SERVICE_S) ** k / math.factorial(k) for k in range(most)]
    moves = np.zeros((most, most))
    for waiting in range(most):
        left = max(0, waiting - largest)
        moves[waiting, left:] = came[: most - left]
    stationary = np.linalg.matrix_power(moves / moves.sum(1, keepdims=True), 512)[0]
    expected = sum(stationary[n] * max(1, min(n, largest)) for n in range(most))
    found = run(fixed(SERVICE_S, largest), Server(max_batch_size=largest), poisson(rate, 100_000))
    assert 100_000 / found.batches == pytest.approx(expected, rel=0.01)


def test_the_canvas_that_waited_longest_goes_with_all_of_its_own() -> None:
    """One of the canvas that is in the engine, one of the other, then two of the first: 10 ms a batch."""
    arrivals_s = np.array([0.0, 0.001, 0.002, 0.003])
    orders = {tuple(run(fixed(SERVICE_S, 4, 2), Server(), arrivals_s, seed).latencies_s.round(6)) for seed in range(60)}
    assert (0.01, 0.019, 0.028, 0.027) in orders  # a b a a
    assert (0.01, 0.019, 0.018, 0.017) in orders  # a a a a
    assert (0.01, 0.019, 0.018, 0.027) in orders  # a b b a
    assert len(orders) == 4  # a b a b: the same as the first, but the last two do not go together


def test_a_batch_that_is_not_full_waits_as_long_as_it_may() -> None:
    server = Server(max_batch_size=3, max_queue_delay_s=0.005)
    found = run(fixed(SERVICE_S, 3), server, np.array([0.0, 0.001, 1.0, 1.001, 1.002]))
    np.testing.assert_allclose(found.latencies_s, [0.015, 0.014, 0.012, 0.011, 0.010])


def test_the_rest_of_a_request_delays_it_and_keeps_no_engine_from_others() -> None:
    """The second is ready just before the first is done, the third long after."""
    found = run(times(np.full((1, 1, 1), SERVICE_S), rest_s=0.1), ALONE, np.array([0.0, 0.002, 0.05, 1.0]))
    np.testing.assert_allclose(found.latencies_s, [0.11, 0.118, 0.11, 0.11])
    assert found.busy_s == pytest.approx(4 * SERVICE_S)


def test_what_would_wait_too_long_is_refused() -> None:
    """One second each, at most 2.5 s of wait. The fourth would wait 0.7 + 2 s, the last one 0.4 + 2 s."""
    server = Server(max_batch_size=1, max_queue_wait_s=2.5)
    found = run(fixed(1.0), server, np.array([0.0, 0.1, 0.2, 0.3, 0.6]))
    np.testing.assert_allclose(found.latencies_s, [1.0, 1.9, 2.8, np.nan, 3.4])
    assert found.refused.tolist() == [False, False, False, True, False]


def test_a_full_queue_refuses() -> None:
    found = run(fixed(1.0), Server(max_batch_size=1, max_queue_size=2), np.array([0.0, 0.1, 0.2, 1.05]))
    np.testing.assert_allclose(found.latencies_s, [1.0, 1.9, np.nan, 1.95])
