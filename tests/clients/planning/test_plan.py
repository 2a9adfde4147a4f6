"""Replicas, headroom and the death of one, against formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clients.loadtest.load import Arrivals
from clients.planning.plan import CannotHoldError, Planner
from clients.planning.service import NotEnoughError, Server, Service

SERVICE_MS = 10.0
PATIENT = {"max_queue_size": 10**6, "max_queue_wait_s": 15.0}


def entry(inference_ms: dict[int, float], rest_ms: float = 0.0, requests: int = 100, canvas: str = "8x8") -> Any:
    batches = [{"size": size, "requests": requests, "inference_ms": [value]} for size, value in inference_ms.items()]
    return {"canvas": canvas, "requests": requests, "rest_ms": [rest_ms], "batches": batches}


def report(*runs: tuple[float, list[Any]]) -> dict[str, Any]:
    """(throughput, entries of the canvases) of each run."""
    return {"runs": [{"throughput": throughput, "service": entries} for throughput, entries in runs]}


def planner(p99_ms: float, arrivals: Arrivals = "poisson", highest: float = 100.0, **server: float) -> Planner:
    """One request after another, 10 ms each."""
    service = Service.of(report((highest, [entry({1: SERVICE_MS})])))
    return Planner(service, Server(max_batch_size=1, **{**PATIENT, **server}), arrivals, p99_ms / 1e3)  # type: ignore[arg-type]  # counts are whole


def test_replicas_and_headroom_are_those_of_the_formula() -> None:
    """M/D/1: p99 of the latency is 40 ms at a utilisation of 0.463, by Erlang's formula."""
    forty = planner(40.0)
    assert forty.fewest(1000.0) in (21, 22, 23)
    assert forty.highest_rate(30, 1000.0) == pytest.approx(30 * 46.3, rel=0.04)
    found = forty.forecast(1000.0, 25)
    assert (found.rate, found.batch, found.refused) == (40.0, 1.0, 0.0)
    assert found.utilisation == pytest.approx(0.4, rel=0.02)
    assert found.mean_s == pytest.approx(0.01 + 0.4 / 2 / 0.6 * 0.01, rel=0.03)


def test_constant_arrivals_at_one_replica_never_meet() -> None:
    one = planner(10.5, "constant")
    assert one.fewest(95.0) == 1
    assert one.forecast(95.0, 1).p99_s == pytest.approx(0.01)
    assert one.forecast(190.0, 2).p99_s > 0.03  # dealt out at random they do


def test_no_replica_is_planned_for_more_than_was_measured() -> None:
    few = planner(1000.0, highest=25.0)
    assert few.fewest(1000.0) == 40
    assert not few.forecast(1000.0, 39).measured


def test_what_one_request_needs_no_number_of_replicas_mends() -> None:
    with pytest.raises(CannotHoldError, match="take 10 ms at p99"):
        planner(9.0).fewest(10.0)


def test_while_one_is_dead_the_backlog_grows_and_is_worked_off() -> None:
    """The one left gets 150 a second and does 100. After 10 s 500 wait, for 5 s, and at 75 a second they take 20 s. Of
    the 3,400 that come in these 30 s there are 58 more or fewer by chance: 25 s until one in a hundred is late."""
    found = planner(200.0).one_dies(150.0, 2, 10.0)
    assert found.rate == 150.0
    assert not found.measured
    assert found.p99_s == pytest.approx(0.99 * 5.0, rel=0.12)
    assert found.refused == 0.0
    assert found.recovery_s == pytest.approx(25.0, abs=3)
    assert found.lost == pytest.approx(75 * (0.01 + 0.75 / 2 / 0.25 * 0.01), rel=0.1)


def test_while_one_is_dead_too_long_the_rest_is_refused() -> None:
    """The wait grows by half a second a second; at 15 s, after 30 of 40 s, a third of what comes is refused."""
    found = planner(200.0).one_dies(150.0, 2, 40.0)
    assert found.refused == pytest.approx(10 * 50 / (40 * 150), rel=0.1)
    assert found.p99_s == pytest.approx(15.0, rel=0.02)


def test_one_of_many_is_not_missed() -> None:
    found = planner(60.0).one_dies(4000.0, 100, 30.0)
    assert found.rate == pytest.approx(4000 / 99)
    assert found.recovery_s == 0.0
    assert found.p99_s < 0.06


def test_times_are_those_of_the_load_between_the_runs() -> None:
    service = Service.of(report((40.0, [entry({1: 20.0}, 4.0)]), (20.0, [entry({1: 10.0}, 2.0)])))
    assert service.highest == 40.0
    for load, inference_s in ((5.0, 0.01), (20.0, 0.01), (30.0, 0.015), (40.0, 0.02), (90.0, 0.02)):
        found = service.at(load, 1)
        np.testing.assert_allclose(found.batch_s, inference_s)
        np.testing.assert_allclose(found.rest_s, inference_s / 5)


@pytest.mark.parametrize(
    ("measured_ms", "expected_ms"),
    [
        pytest.param({1: 10.0}, [10, 20, 30, 40], id="one size: nothing is known to be gained"),
        pytest.param({1: 10.0, 3: 20.0}, [10, 15, 20, 25], id="on the line"),
        pytest.param({2: 10.0, 4: 12.0}, [10, 10, 11, 12], id="below the smallest"),
        pytest.param({1: 10.0, 2: 9.0}, [10, 9, 9, 9], id="never faster for more"),
    ],
)
def test_sizes_that_were_not_measured(measured_ms: dict[int, float], expected_ms: list[float]) -> None:
    found = Service.of(report((20.0, [entry(measured_ms)]))).at(10.0, 4)
    np.testing.assert_allclose(found.batch_s[0].mean(1) * 1e3, expected_ms)


def test_canvases_have_their_share_and_their_own_times() -> None:
    small, large = entry({1: 5.0}, requests=300), entry({1: 50.0}, requests=100, canvas="9x9")
    found = Service.of(report((20.0, [small, large]))).at(10.0, 1)
    np.testing.assert_allclose(found.shares, [0.75, 0.25])
    np.testing.assert_allclose(found.batch_s.mean((1, 2)), [0.005, 0.05])


def test_a_size_that_was_rare_counts_where_there_is_no_other() -> None:
    cells = [
        {"size": size, "requests": count, "inference_ms": [ms]} for size, count, ms in ((1, 90, 9.0), (2, 2, 99.0))
    ]
    common = {"canvas": "a", "requests": 92, "rest_ms": [0.0], "batches": cells}
    rare = {"canvas": "b", "requests": 3, "rest_ms": [0.0], "batches": [{**cells[0], "requests": 3}]}
    service = Service.of(report((20.0, [common, rare])))
    assert [list(canvas.batches) for canvas in service.canvases] == [[1], [1]]
    assert service.largest == 1


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        pytest.param([{"throughput": 0.0, "service": None}], "Nothing was answered", id="refusals only"),
        pytest.param([{"throughput": 9.0, "service": None}], "no service times", id="another server"),
        pytest.param([{"throughput": 9.0}], "no service times", id="an old report"),
    ],
)
def test_a_report_without_what_is_needed(runs: list[Any], said: str) -> None:
    with pytest.raises(NotEnoughError, match=said):
        Service.of({"runs": runs})
    with pytest.raises(NotEnoughError, match="/metrics"):
        Server.of({"runs": runs, "server": None})
