"""Whether a window was steady."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from clients.loadtest.load import OpenLoop
from clients.loadtest.stability import stability

DURATION_S = 10.0


def judged(latency_ms: npt.NDArray[np.float64], at_s: npt.NDArray[np.float64]) -> dict[str, Any]:
    return stability(at_s, at_s + latency_ms / 1e3, latency_ms, DURATION_S)


@pytest.fixture
def at_s() -> npt.NDArray[np.float64]:
    return OpenLoop(50.0, "poisson", DURATION_S).send_times_s()


def test_noise_is_steady(at_s: npt.NDArray[np.float64]):
    rng = np.random.default_rng(0)
    steady = [judged(rng.exponential(40.0, len(at_s)), at_s)["steady"] for _ in range(200)]
    assert sum(steady) >= 180


@pytest.mark.parametrize(
    ("last", "steady"),
    [
        pytest.param(1.0, True, id="level"),
        pytest.param(1.08, True, id="within a tenth"),
        pytest.param(1.5, False, id="rising: the queue grows"),
        pytest.param(0.6, False, id="falling: it still warms up"),
    ],
)
def test_a_drift_is_seen(at_s: npt.NDArray[np.float64], last: float, steady: bool):
    noise = np.random.default_rng(0).uniform(38.0, 42.0, len(at_s))
    found = judged(noise * np.linspace(1.0, last, len(at_s)), at_s)
    assert found["steady"] is steady
    assert found["latency_drift"] == pytest.approx(2 * (last - 1) / (last + 1), abs=0.03)


def test_a_drift_of_microseconds_is_not_told(at_s: npt.NDArray[np.float64]):
    found = judged(np.linspace(0.3, 0.6, len(at_s)), at_s)
    assert (found["steady"], found["latency_drift"]) == (True, pytest.approx(0.67, abs=0.02))


def test_a_step_is_seen(at_s: npt.NDArray[np.float64]):
    assert judged(np.where(at_s < 4.0, 80.0, 40.0), at_s)["steady"] is False


def test_throughput_that_falls_is_seen():
    at_s = np.cumsum(np.linspace(0.01, 0.03, 500))
    found = judged(np.full(500, 10.0), at_s * DURATION_S / at_s[-1])
    assert found["steady"] is False
    assert found["throughput_drift"] < -0.5


@pytest.mark.parametrize("count", [0, 1, 40])
def test_too_few_to_tell(count: int):
    at_s = np.linspace(0, DURATION_S, count)
    assert judged(np.full(count, 10.0), at_s)["steady"] is None
