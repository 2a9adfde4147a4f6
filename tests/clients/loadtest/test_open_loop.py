"""What an open loop promises: Poisson arrivals, latency from the intended time, and its own lag said."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from clients.loadtest.__main__ import main
from clients.loadtest.load import OpenLoop
from tests.clients.loadtest.conftest import StartServer

# Of Kolmogorov's distribution, 1 %.
KS_LIMIT = 1.63

Times = npt.NDArray[np.float64]


def ks_statistic(gaps_s: Times, rate: float) -> float:
    """Kolmogorov-Smirnov: sqrt(n) times the largest distance from the exponential distribution."""
    expected = 1 - np.exp(-rate * np.sort(gaps_s))
    n = len(gaps_s)
    above, below = np.arange(1, n + 1) / n - expected, expected - np.arange(n) / n
    return float(np.sqrt(n) * max(above.max(), below.max()))


def waited_s(due_s: Times, service_s: float) -> Times:
    """Lindley: what one worker with a fixed service time makes of these arrivals, to the end of service."""
    latencies_s, free_s = [], 0.0
    for at_s in due_s:
        free_s = max(free_s, at_s) + service_s
        latencies_s.append(free_s - at_s)
    return np.array(latencies_s)


def load(url: str, picture: Path, *options: str) -> dict[str, Any]:
    folder = picture.parent / "report"
    assert main([url, str(picture), "--output", str(folder), *options]) == 0
    (run,) = json.loads((folder / "report.json").read_text())["runs"]
    assert isinstance(run, dict)
    return run


@pytest.mark.parametrize("rate", [3.0, 200.0])
def test_the_schedule_passes_a_kolmogorov_smirnov_test(rate: float):
    times_s = OpenLoop(rate, "poisson", 5000 / rate).send_times_s()
    assert len(times_s) == pytest.approx(5000, abs=3 * 5000**0.5)
    assert ks_statistic(np.diff(times_s, prepend=0.0), rate) < KS_LIMIT


def test_the_test_itself_rejects_what_is_not_exponential():
    constant = OpenLoop(200.0, "constant", 5.0).send_times_s()
    jittered = constant + np.random.default_rng(1).uniform(0, 0.005, len(constant))
    assert ks_statistic(np.diff(constant), 200.0) > 5
    assert ks_statistic(np.diff(jittered), 200.0) > 3
    assert ks_statistic(np.random.default_rng(1).exponential(1 / 180, 5000), 200.0) > 3  # 10 % too slow


def test_requests_arrive_at_the_server_as_poisson_says(fixed_service: StartServer, picture: Path):
    url = fixed_service(0.001)
    run = load(url, picture, "--rate", "200", "--duration", "2s")
    with urllib.request.urlopen(f"{url}/arrivals") as response:
        arrivals_s = np.array(json.load(response)[-run["sent"] :])
    assert ks_statistic(np.diff(arrivals_s), 200.0) < KS_LIMIT


def test_overloaded_with_constant_arrivals_p99_is_the_analytic_one(fixed_service: StartServer, picture: Path):
    """100 a second to a worker that does 66.7: request k waits 5 ms longer than the one before it, k * 5 + 10 ms."""
    run = load(fixed_service(15.0), picture, "--rate", "100", "--arrivals", "constant", "--duration", "1.2s")
    assert run["sent"] == run["ok"] == 119
    assert run["latency_ms"]["p99"] == pytest.approx(118 * 5 + 10, rel=0.05)
    assert any(note.startswith("Overload") for note in run["notes"])
    assert run["stability"]["steady"] is False


def test_overloaded_with_poisson_arrivals_p99_is_the_queues(fixed_service: StartServer, picture: Path):
    run = load(fixed_service(15.0), picture, "--rate", "100", "--duration", "1.2s")
    expected_ms = np.sort(waited_s(OpenLoop(100.0, "poisson", 1.2).send_times_s(), 0.015)) * 1e3
    assert run["sent"] == len(expected_ms)
    assert run["latency_ms"]["p99"] == pytest.approx(expected_ms[int(0.99 * len(expected_ms))], rel=0.05)


def test_a_closed_loop_hides_the_overload(fixed_service: StartServer, picture: Path):
    """Eight senders wait for each other, so that nothing ever waits longer than eight services."""
    run = load(fixed_service(15.0), picture, "--concurrency", "8", "--duration", "1s")
    assert run["latency_ms"]["p90"] == pytest.approx(8 * 15, rel=0.2)
    assert run["throughput"] == pytest.approx(1000 / 15, rel=0.1)


def test_three_thousand_a_second_or_the_report_says_that_it_could_not(fixed_service: StartServer, picture: Path):
    run = load(fixed_service(0.0), picture, "--rate", "3000", "--duration", "1s")
    assert run["ok"] == run["sent"] == pytest.approx(3000, rel=0.05)
    said = any("generator" in note for note in run["notes"])
    assert (run["generator_lag_ms"]["p99"] > 1.0) == said
