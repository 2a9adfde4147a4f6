"""MLPerf's scenarios. The figures of LoadGen are those of the package mlcommons-loadgen 6.0, run and read by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clients.loadtest import scenarios
from clients.loadtest.__main__ import main
from clients.loadtest.generator import Run, Sample, Target
from clients.loadtest.load import ClosedLoop, Load, MultiStream, Offline, OpenLoop
from clients.loadtest.mlperf import allowed_over, estimate, percentile, queries_needed
from tests.clients.conftest import Asked, FakeServer, Reply, answer
from tests.clients.loadtest.conftest import StartServer


def test_a_percentile_is_a_value_and_not_between_two():
    assert [percentile([10.0, 20.0, 30.0, 40.0], p) for p in (0.0, 0.25, 0.5, 0.9, 0.99)] == [10, 20, 30, 40, 40]
    assert percentile(range(1, 101), 0.9) == 91
    assert percentile(range(1, 101), 0.99) == 100
    assert percentile([7.0], 0.99) == 7.0


@pytest.mark.parametrize(
    ("queries", "fraction", "over"),
    [
        pytest.param(63, 0.9, 0, id="one too few for p90"),
        pytest.param(64, 0.9, 1, id="MLPerf's least for p90"),
        pytest.param(661, 0.99, 0, id="one too few for p99"),
        pytest.param(662, 0.99, 1, id="MLPerf's least for p99"),
        pytest.param(458, 0.99, -1, id="not even without one over"),
        pytest.param(878, 0.9, 67, id="LoadGen discarded 66"),
        pytest.param(878, 0.99, 2, id="LoadGen discarded 1"),
        pytest.param(700, 0.99, 1, id="LoadGen discarded none"),
        pytest.param(1_000_000, 0.99, 9768, id="many"),
    ],
)
def test_early_stopping_is_loadgens(queries: int, fraction: float, over: int):
    assert allowed_over(queries, fraction) == over


def test_how_many_queries_are_needed():
    assert queries_needed(1, 0.9) == 64
    assert queries_needed(1, 0.99) == 662
    assert queries_needed(0, 0.99) == 459
    assert allowed_over(queries_needed(10, 0.99), 0.99) == 10


def test_what_can_be_claimed_is_at_least_what_was_seen():
    ascending = [float(k) for k in range(878)]
    assert estimate(ascending, 0.9) == 878 - 67 > percentile(ascending, 0.9)
    assert estimate(ascending[:64], 0.9) == 63  # the slowest
    assert estimate(ascending[:63], 0.9) is None


def finished(load: Load, latencies_ms: list[float], outcome: str = "200", lag_ms: float = 0.0) -> Run:
    run = Run(Target("http://nowhere", [b""]), load)
    for k, latency_ms in enumerate(latencies_ms):
        due_s = 0.01 * k
        run.samples.append(Sample(due_s, due_s, due_s + lag_ms / 1e3, due_s + latency_ms / 1e3, outcome))
    run.finished = True
    return run


def test_single_stream_is_p90_of_the_latency():
    result = scenarios.single_stream(finished(ClosedLoop(1, 1.0), [float(k) for k in range(1, 101)]))
    assert (result["value"], result["claimable"], result["valid"]) == (91.0, 98.0, True)
    short = scenarios.single_stream(finished(ClosedLoop(1, 1.0), [1.0] * 63))
    assert not short["valid"]
    assert short["why"] == "63 queries, 64 are needed to be sure of it"
    assert scenarios.single_stream(finished(ClosedLoop(1, 1.0), []))["value"] is None


def test_multi_stream_is_p99_of_whole_queries():
    run = finished(MultiStream(1.0), [])
    run.queries_ms = [float(k) for k in range(1, 701)]
    result = scenarios.multi_stream(run)
    assert (result["value"], result["claimable"], result["valid"]) == (694.0, 700.0, True)
    run.queries_ms[:10] = [math.inf] * 10  # not all of their pictures were answered
    lost = scenarios.multi_stream(run)
    assert (lost["value"], lost["valid"], lost["why"]) == (None, False, "not all answered")


def test_offline_is_pictures_until_the_last():
    result = scenarios.offline(finished(Offline(4, 1.0), [10.0] * 100))
    assert result["value"] == pytest.approx(100 / (0.99 + 0.01))


def server_of(capacity: float, tried: list[float]) -> Callable[[Load], Any]:
    """Holds 100 ms below its capacity; 600 requests in each run."""

    async def measure(load: Load) -> Run:
        if isinstance(load, ClosedLoop):
            return finished(load, [20.0] * int(40 * load.duration_s))
        assert isinstance(load, OpenLoop)
        tried.append(load.rate)
        return finished(load, [50.0 if load.rate <= capacity else 150.0] * 600)

    return measure


@pytest.mark.parametrize("capacity", [1.0, 7.0, 20.0, 333.0])
async def test_server_finds_the_highest_rate_that_holds(capacity: float):
    tried: list[float] = []
    result = await scenarios.execute("server", server_of(capacity, tried), 10.0, 32, 100.0, None)
    assert capacity / (1 + scenarios.PRECISION) <= result["value"] <= capacity
    assert result["valid"]
    assert tried[0] == 20.0  # half of what one stream did
    assert len(tried) == len(set(tried)) <= 16


async def test_server_at_a_rate_that_was_given():
    tried: list[float] = []
    result = await scenarios.execute("server", server_of(50.0, tried), 10.0, 32, 100.0, 30.0)
    assert (tried, result["value"]) == ([30.0], 30.0)
    missed = await scenarios.execute("server", server_of(50.0, tried), 10.0, 32, 100.0, 60.0)
    assert (missed["value"], missed["valid"]) == (None, False)


async def test_server_gives_up_on_a_server_that_holds_nothing():
    tried: list[float] = []
    result = await scenarios.execute("server", server_of(0.0, tried), 10.0, 32, 100.0, None)
    assert len(tried) == scenarios.MOST_HALVINGS
    assert result["value"] is None


def test_server_counts_refusals_as_never_answered():
    refused = finished(OpenLoop(50.0, "poisson", 10.0), [1.0] * 500)
    assert scenarios.holds(refused, 100.0)
    refused.samples[:5] = finished(refused.load, [1.0] * 5, "429").samples  # exactly 1 %
    assert not scenarios.holds(refused, 100.0)


def test_server_says_when_the_run_was_too_short_or_the_generator_late():
    short = scenarios.server([finished(OpenLoop(5.0, "poisson", 10.0), [1.0] * 458)], 100.0)
    assert (short["value"], short["valid"]) == (5.0, False)
    assert "459 are needed" in short["why"]
    fast = finished(OpenLoop(5.0, "poisson", 10.0), [1.0] * 600)
    late = finished(OpenLoop(10.0, "poisson", 10.0), [150.0] * 600, lag_ms=140.0)
    assert "generator itself was late" in scenarios.server([fast, late], 100.0)["why"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "report"


def run_scenario(url: str, picture: Path, folder: Path, scenario: str, *options: str) -> dict[str, Any]:
    arguments = [url, str(picture), "--scenario", scenario, "--output", str(folder), *options]
    assert main(arguments) == 0
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    assert report["scenario"] == scenario
    return report


def test_each_scenario_runs_and_reports(fixed_service: StartServer, picture: Path, folder: Path):
    url = fixed_service(5.0)
    single = run_scenario(url, picture, folder, "singlestream", "--duration", "0.5s")
    assert (single["runs"][0]["mode"], single["runs"][0]["concurrency"]) == ("closed", 1)
    assert single["result"]["value"] == pytest.approx(5.0, abs=4)

    multi = run_scenario(url, picture, folder, "multistream", "--duration", "0.5s")
    assert multi["runs"][0]["concurrency"] == 8
    assert multi["result"]["value"] == pytest.approx(8 * 5.0, abs=15)
    assert multi["result"]["queries"] * 8 == multi["runs"][0]["sent"]

    offline = run_scenario(url, picture, folder, "offline", "--duration", "0.5s", "--concurrency", "16")
    assert offline["result"]["value"] == pytest.approx(200, rel=0.15)
    assert offline["runs"][0]["latency_ms"]["max"] >= 400  # from the start, where all pictures were there


def test_server_searches_a_real_server_and_gives_up_early(fixed_service: StartServer, picture: Path, folder: Path):
    """One worker of 5 ms does 200 a second; a queue of 40 ms forms in half a second only about that."""
    url = fixed_service(5.0)
    report = run_scenario(url, picture, folder, "server", "--duration", "0.5s", "--target-latency", "40ms")
    assert 100 <= report["result"]["value"] <= 280
    open_loops = [run for run in report["runs"] if run["mode"] == "open"]
    assert any(run["given_up"] and run["duration_s"] < 0.5 for run in open_loops)
    assert all(run["arrivals"] == "poisson" for run in open_loops)
    assert "result" in (folder / "report.html").read_text()


def test_multi_stream_sends_its_pictures_together(server: FakeServer, picture: Path, folder: Path):
    def one_in_nine_fails(_: Asked) -> Reply:
        return Reply(500) if len(server.asked) % 9 == 0 else Reply(content=answer())

    server.script = one_in_nine_fails
    report = run_scenario(server.url, picture, folder, "multistream", "--duration", "1.5s")
    assert report["result"]["valid"] is False
    assert report["runs"][0]["failed"] > 0
