"""The load tester against servers of known behaviour, on loopback, for fractions of a second."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.loadtest.__main__ import main
from clients.loadtest.generator import WARM_UP_REQUESTS, Sample, parse_server_timing
from clients.loadtest.load import ClosedLoop, OpenLoop
from clients.loadtest.summary import summarise
from tests.clients.conftest import Asked, FakeServer, Reply, answer

LATENCIES = {"mean", "p50", "p90", "p95", "p99", "max"}
COUNTS = {"duration_s", "sent", "ok", "refused", "failed", "throughput"}
PARTS = {"latency_ms", "generator_lag_ms", "server_ms"}


class SlowServer:
    """One worker that takes `service_s` for each request, in turn; keeps its own record of waiting and serving."""

    def __init__(self, service_s: float) -> None:
        self.service_s = service_s
        self._worker = threading.Lock()

    def __call__(self, asked: Asked) -> Reply:
        with self._worker:
            time.sleep(self.service_s)
        return Reply(content=answer(), headers={"Server-Timing": "queue;dur=5.5, inference;dur=20, total;dur=26"})


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(b"any bytes")
    return path


def load(url: str, picture: Path, *options: str) -> dict[str, Any]:
    folder = picture.parent / "report"
    main([url, str(picture), "--output", str(folder), *options])
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def test_closed_loops_report_as_the_contract_says(server: FakeServer, picture: Path):
    server.script = SlowServer(0.01)
    report = load(server.url, picture, "--concurrency", "1,4", "--duration", "0.4s")
    assert set(report) == {"url", "scenario", "runs"}
    assert report["url"] == server.url
    assert [run["concurrency"] for run in report["runs"]] == [1, 4]
    for run in report["runs"]:
        assert set(run) == {"mode", "concurrency", "arrivals"} | COUNTS | PARTS
        assert run["mode"] == "closed"
        assert run["arrivals"] is None
        assert run["duration_s"] == 0.4
        assert set(run["latency_ms"]) == LATENCIES
        assert set(run["generator_lag_ms"]) == {"p50", "p99"}
        assert run["server_ms"] == {"decode": None, "queue": 5.5, "inference": 20.0, "postprocess": None}
        assert run["sent"] == run["ok"] > 0
        assert run["refused"] == run["failed"] == 0
        assert 0 < run["throughput"] <= 100  # one worker, 10 ms each
    alone, four = report["runs"]
    assert alone["latency_ms"]["p50"] >= 10
    assert four["latency_ms"]["p50"] >= 30  # three wait before it


def test_an_open_loop_counts_the_wait_from_the_intended_time(server: FakeServer, picture: Path):
    """50 requests a second to a worker that does 25: the k-th is due at 20 ms * k and cannot be done before 40 * k."""
    server.script = SlowServer(0.04)
    report = load(server.url, picture, "--rate", "50", "--arrivals", "constant", "--duration", "0.6s")
    (run,) = report["runs"]
    assert set(run) == {"mode", "rate", "arrivals"} | COUNTS | PARTS
    assert (run["mode"], run["rate"], run["arrivals"]) == ("open", 50.0, "constant")
    assert run["sent"] == run["ok"] == 29
    assert run["latency_ms"]["max"] >= 29 * 40 - 29 * 20
    assert run["latency_ms"]["mean"] >= np.mean([40 * k - 20 * k for k in range(1, 30)])
    assert run["throughput"] <= 25.1  # what came after the window is not the server's rate
    assert run["generator_lag_ms"]["p50"] < 300  # the generator waited for nobody


def test_the_warm_up_is_not_counted(server: FakeServer, picture: Path):
    report = load(server.url, picture, "--rate", "30", "--arrivals", "constant", "--duration", "0.2s")
    assert len(server.asked) == report["runs"][0]["sent"] + WARM_UP_REQUESTS


def test_pictures_are_sent_in_turn_as_they_are(server: FakeServer, tmp_path: Path):
    pictures = [tmp_path / name for name in ("a", "b", "c")]
    for path in pictures:
        path.write_bytes(path.name.encode())
    options = ["--concurrency", "1", "--duration", "0.2", "--output", str(tmp_path / "r"), "--api-key", "k"]
    assert main([server.url + "/", *map(str, pictures), *options]) == 0
    assert [asked.body for asked in server.asked[:6]] == [b"a", b"b", b"c"] * 2
    assert {asked.path for asked in server.asked} == {"/predict"}
    assert {asked.headers["Authorization"] for asked in server.asked} == {"Bearer k"}


def test_refusals_and_failures_are_counted_apart(server: FakeServer, picture: Path):
    warm_up = [Reply(content=answer())] * WARM_UP_REQUESTS
    refused, failed = [Reply(429), Reply(503), Reply(429)], [Reply(500), Reply(status=0), Reply(504), Reply(400)]
    server.replies(*warm_up, *refused, *failed, Reply(content=answer()))
    report = load(server.url, picture, "--rate", "40", "--arrivals", "constant", "--duration", "0.5s")
    (run,) = report["runs"]
    assert (run["refused"], run["failed"]) == (3, 4)
    assert run["ok"] == run["sent"] - 7 == 12
    page = (picture.parent / "report" / "report.html").read_text()
    assert "2 x 429" in page
    assert "1 x connection broken" in page


def test_a_request_that_takes_too_long_fails(server: FakeServer, picture: Path, capsys: pytest.CaptureFixture[str]):
    server.script = SlowServer(0.3)
    folder = picture.parent / "report"
    options = ["--concurrency", "1", "--duration", "0.2", "--timeout", "0.1", "--output", str(folder)]
    assert main([server.url, str(picture), *options]) == 1
    assert "timed out" in capsys.readouterr().err
    (run,) = json.loads((folder / "report.json").read_text())["runs"]
    assert run["failed"] == run["sent"] > 0
    assert run["latency_ms"] == dict.fromkeys(LATENCIES)
    assert (folder / "report.html").exists()


def test_no_server_is_said(picture: Path, capsys: pytest.CaptureFixture[str]):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        folder = str(picture.parent / "report")
        assert main([url, str(picture), "--concurrency", "2", "--duration", "0.2", "--output", folder]) == 1
    assert capsys.readouterr().err == f"No connection to {url}: is a server running there?\n"


def test_the_page_is_one_file_with_its_plots(server: FakeServer, picture: Path):
    server.script = SlowServer(0.004)
    load(server.url, picture, "--concurrency", "1,2", "--duration", "0.2s")
    page = (picture.parent / "report" / "report.html").read_text()
    assert len(page) > 5000
    assert page.count("<svg") == page.count("</svg>") == 6  # percentiles, saturation, and two for each run
    assert not re.search(r"(src|href)=|@import|url\(", page)
    assert "nan" not in page
    assert "Server-Timing" not in page
    assert "inference" in page


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["http://127.0.0.1:1"], id="no picture"),
        pytest.param(["127.0.0.1:1", __file__], id="no scheme"),
        pytest.param(["http://127.0.0.1:1", "no-such.png"], id="missing picture"),
        pytest.param(["http://127.0.0.1:1", __file__, "--concurrency", "0"], id="concurrency 0"),
        pytest.param(["http://127.0.0.1:1", __file__, "--rate", "-1"], id="negative rate"),
        pytest.param(["http://127.0.0.1:1", __file__, "--rate", "1", "--concurrency", "1"], id="both loops"),
        pytest.param(["http://127.0.0.1:1", __file__, "--output", __file__], id="report over a file"),
        pytest.param(["http://127.0.0.1:1", __file__, "--duration", "soon"], id="no duration"),
        pytest.param(["http://127.0.0.1:1", __file__, "--arrivals", "bursts"], id="unknown arrivals"),
    ],
)
def test_bad_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err


def test_poisson_arrivals_have_the_asked_rate_and_their_spread():
    times_s = np.array(list(OpenLoop(200.0, "poisson", 50.0).send_times_s()))
    gaps_s = np.diff(times_s)
    assert np.all(gaps_s >= 0)
    assert times_s[-1] < 50.0
    assert len(times_s) == pytest.approx(200 * 50, rel=0.05)
    assert gaps_s.std() == pytest.approx(gaps_s.mean(), rel=0.05)  # exponential: deviation = mean


def test_constant_arrivals_are_evenly_spaced():
    np.testing.assert_allclose(list(OpenLoop(4.0, "constant", 1.1).send_times_s()), [0.25, 0.5, 0.75, 1.0])


def sample(intended_s: float, done_s: float, outcome: str = "200", **server_ms: float) -> Sample:
    return Sample(intended_s, intended_s + 0.001, done_s, outcome, server_ms)


def test_figures_of_samples_made_by_hand():
    samples = [sample(0.01 * k, 0.01 * k + 0.001 * (k + 1), queue=float(k)) for k in range(100)]
    samples += [sample(0.5, 0.6, "429"), sample(0.5, 0.9, "503"), sample(0.5, 0.7, "timed out")]
    run = summarise(OpenLoop(100.0, "poisson", 1.0), samples)
    assert (run["sent"], run["ok"], run["refused"], run["failed"]) == (103, 100, 2, 1)
    latencies_ms = np.arange(1, 101)
    expected = {f"p{rank}": np.percentile(latencies_ms, rank) for rank in (50, 90, 95, 99)}
    assert run["latency_ms"] == pytest.approx({"mean": 50.5, **expected, "max": 100.0}, abs=0.002)
    assert run["generator_lag_ms"] == pytest.approx({"p50": 1.0, "p99": 1.0}, abs=0.002)
    # Number k is done at 11 k + 1 ms: up to k = 90 inside the second.
    assert run["throughput"] == 91
    assert run["server_ms"] == {"decode": None, "queue": 49.5, "inference": None, "postprocess": None}


def test_figures_of_nothing():
    run = summarise(ClosedLoop(1, 2.0), [])
    assert run["throughput"] == 0
    assert run["latency_ms"] == dict.fromkeys(LATENCIES)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("queue;dur=1.5, inference;dur=20", {"queue": 1.5, "inference": 20.0}),
        ('decode;desc="JPEG";dur=3,total;dur=4.25', {"decode": 3.0, "total": 4.25}),
        ("cache, miss;desc=x", {}),
        ("", {}),
    ],
)
def test_server_timing(header: str, expected: dict[str, float]):
    assert parse_server_timing(header) == expected
