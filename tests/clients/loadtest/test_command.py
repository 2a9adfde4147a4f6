"""The load tester's command against servers of known behaviour, on loopback, for fractions of a second."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.loadtest.__main__ import main
from clients.loadtest.generator import Run, Sample, Target, parse_canvas, parse_server_timing
from clients.loadtest.load import ClosedLoop, Load, OpenLoop
from clients.loadtest.summary import summarise
from tests.clients.conftest import Asked, FakeServer, Reply, answer

LATENCIES = {"mean", "p50", "p90", "p95", "p99", "max"}
CONTRACT = {
    *("mode", "arrivals", "duration_s", "sent", "ok", "refused", "failed", "throughput"),
    *("latency_ms", "generator_lag_ms", "server_ms"),
}


class SlowServer:
    """One worker that takes `service_s` for each request, in turn; keeps its own record of waiting and serving."""

    def __init__(self, service_s: float) -> None:
        self.service_s = service_s
        self._worker = threading.Lock()

    def __call__(self, asked: Asked) -> Reply:
        with self._worker:
            time.sleep(self.service_s)
        return Reply(content=answer(), headers={"Server-Timing": "queue;dur=5.5, inference;dur=20, total;dur=26"})


def load(url: str, picture: Path, *options: str) -> dict[str, Any]:
    folder = picture.parent / "report"
    main([url, str(picture), "--output", str(folder), *options])
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def test_closed_loops_report_as_the_contract_says(server: FakeServer, picture: Path):
    server.script = SlowServer(0.01)
    report = load(server.url, picture, "--concurrency", "1,4", "--duration", "0.4s")
    assert (report["url"], report["scenario"]) == (server.url, None)
    assert [run["concurrency"] for run in report["runs"]] == [1, 4]
    for run in report["runs"]:
        assert set(run) >= {*CONTRACT, "concurrency"}
        assert run["mode"] == "closed"
        assert run["arrivals"] is None
        assert run["duration_s"] == 0.4
        assert set(run["latency_ms"]) == LATENCIES
        assert set(run["generator_lag_ms"]) == {"p50", "p99"}
        assert run["outcomes"] == {"200": run["ok"]}
        assert run["server_ms"] == {"decode": None, "queue": 5.5, "inference": 20.0, "postprocess": None}
        assert run["sent"] == run["ok"] > 0
        assert run["refused"] == run["failed"] == 0
        assert 0 < run["throughput"] <= 105  # one worker, 10 ms each
    alone, four = report["runs"]
    assert alone["latency_ms"]["p50"] >= 10
    assert four["latency_ms"]["p50"] >= 30  # three wait before it


def test_an_open_loop_counts_the_wait_from_the_intended_time(server: FakeServer, picture: Path):
    """50 requests a second to a worker that does 25: the k-th is due at 20 ms * k and cannot be done before 40 * k."""
    server.script = SlowServer(0.04)
    report = load(server.url, picture, "--rate", "50", "--arrivals", "constant", "--duration", "0.6s")
    (run,) = report["runs"]
    assert set(run) >= {*CONTRACT, "rate"}
    assert (run["mode"], run["rate"], run["arrivals"]) == ("open", 50.0, "constant")
    assert run["sent"] == run["ok"] == 29
    assert run["latency_ms"]["max"] >= 29 * 40 - 29 * 20
    assert run["latency_ms"]["mean"] >= np.mean([40 * k - 20 * k for k in range(1, 30)])
    assert run["throughput"] <= 25.1  # what came after the window is not the server's rate
    assert run["generator_lag_ms"]["p50"] < 300  # the generator waited for nobody


@pytest.mark.parametrize("load_of", [("--rate", "30"), ("--concurrency", "2")])
def test_warm_up_and_first_pass_are_not_counted(server: FakeServer, picture: Path, load_of: tuple[str, str]):
    server.script = SlowServer(0.005)
    report = load(server.url, picture, *load_of, "--duration", "0.4s")
    posted = sum(asked.path == "/predict" for asked in server.asked)
    before = posted - report["runs"][0]["sent"]
    assert 2 <= before <= 1 + 0.1 / 0.005 + 5  # the first pass, and a tenth of a second of warm-up


def test_a_warm_up_that_is_slow_is_cut_short(server: FakeServer, picture: Path):
    server.script = SlowServer(0.3)
    (run,) = load(server.url, picture, "--rate", "2", "--arrivals", "constant", "--duration", "1.2s")["runs"]
    assert run["sent"] == 2
    assert sum(asked.path == "/predict" for asked in server.asked) <= 2 + 1 + 1  # the first pass, and one to warm up


def test_pictures_are_sent_as_they_are_each_equally_often(server: FakeServer, tmp_path: Path):
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.jpg", "c.png", "d.tif", "e.bmp", "notes.txt"):
        (tmp_path / "pictures" / name).write_bytes(name[0].encode())
    options = ["--concurrency", "1", "--duration", "0.6", "--output", str(tmp_path / "r"), "--api-key", "k"]
    assert main([server.url + "/", str(tmp_path / "pictures"), *options]) == 0
    posts = [asked for asked in server.asked if asked.path == "/predict"]
    bodies = [asked.body for asked in posts]
    first, second, third = (bodies[start : start + 5] for start in (0, 5, 10))
    assert first == [b"a", b"b", b"c", b"d", b"e"]  # the first pass, then in another order each time
    assert sorted(second) == sorted(third) == first
    assert first != second != third
    assert {asked.headers["Authorization"] for asked in posts} == {"Bearer k"}
    assert {asked.headers["Accept-Encoding"] for asked in posts} == {"identity"}


def test_refusals_and_failures_are_counted_apart(server: FakeServer, picture: Path):
    strange = iter([Reply(429), Reply(503), Reply(429), Reply(500), Reply(status=0), Reply(504), Reply(400)])
    asked: list[float] = []

    def script(_: Asked) -> Reply:
        asked.append(time.monotonic())
        in_window = asked[-1] - asked[0] > 0.4
        return next(strange, Reply(content=answer())) if in_window else Reply(content=answer())

    server.script = script
    report = load(server.url, picture, "--rate", "40", "--arrivals", "constant", "--duration", "1s")
    (run,) = report["runs"]
    assert (run["refused"], run["failed"]) == (3, 4)
    assert run["ok"] == run["sent"] - 7
    once = dict.fromkeys(("400", "500", "503", "504", "connection broken"), 1)
    assert run["outcomes"] == {"200": run["ok"], "429": 2, **once}
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


def test_what_was_measured_before_an_interruption_is_reported(server: FakeServer, picture: Path):
    folder = picture.parent / "report"
    options = ["--rate", "40,200", "--duration", "1s", "--output", str(folder)]
    command = [sys.executable, "-m", "clients.loadtest", server.url, str(picture), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        while len(server.asked) < 120 and process.poll() is None:  # then the second run is under way
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 130
    assert [run["rate"] for run in json.loads((folder / "report.json").read_text())["runs"]] == [40.0]


def test_no_server_is_said(picture: Path, capsys: pytest.CaptureFixture[str]):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        folder = str(picture.parent / "report")
        assert main([url, str(picture), "--concurrency", "2", "--duration", "0.2", "--output", folder]) == 1
    assert capsys.readouterr().err == f"No connection to {url}: is a server running there?\n"


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
        pytest.param(["http://127.0.0.1:1", str(Path(__file__).parent)], id="folder without pictures"),
        pytest.param(["http://127.0.0.1:1", __file__, "--arrivals", "constant"], id="arrivals of a closed loop"),
        pytest.param(["http://127.0.0.1:1", __file__, "--scenario", "turbo"], id="unknown scenario"),
        pytest.param(["http://127.0.0.1:1", __file__, "--scenario", "offline", "--rate", "1"], id="rate offline"),
        pytest.param(["http://127.0.0.1:1", __file__, "--scenario", "server", "--rate", "1,2"], id="two rates"),
        pytest.param(
            ["http://127.0.0.1:1", __file__, "--scenario", "singlestream", "--concurrency", "2"], id="two streams"
        ),
        pytest.param(["http://127.0.0.1:1", __file__, "--duration", "soon"], id="no duration"),
        pytest.param(["http://127.0.0.1:1", __file__, "--arrivals", "bursts"], id="unknown arrivals"),
    ],
)
def test_bad_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err


def test_constant_arrivals_are_evenly_spaced():
    np.testing.assert_allclose(list(OpenLoop(4.0, "constant", 1.1).send_times_s()), [0.25, 0.5, 0.75, 1.0])


def sample(intended_s: float, done_s: float, outcome: str = "200", **server_ms: float) -> Sample:
    return Sample(intended_s, intended_s, intended_s + 0.001, done_s, outcome, server_ms)


def made(load: Load, samples: list[Sample]) -> Run:
    run = Run(Target("http://nowhere", [b""]), load)
    run.samples = samples
    return run


def test_figures_of_samples_made_by_hand():
    samples = [sample(0.01 * k, 0.01 * k + 0.001 * (k + 1), queue=float(k), batch=2.0) for k in range(100)]
    samples += [sample(0.5, 0.6, "429"), sample(0.5, 0.9, "503"), sample(0.5, 0.7, "timed out")]
    run = summarise(made(OpenLoop(100.0, "poisson", 1.0), samples))
    assert (run["sent"], run["ok"], run["refused"], run["failed"]) == (103, 100, 2, 1)
    expected = {"mean": 50.5, "p50": 51.0, "p90": 91.0, "p95": 96.0, "p99": 100.0, "max": 100.0}  # of 1 to 100
    assert run["latency_ms"] == pytest.approx(expected, abs=0.002)
    assert run["generator_lag_ms"] == pytest.approx({"p50": 1.0, "p99": 1.0}, abs=0.002)
    # Number k is done at 11 k + 1 ms: up to k = 90 inside the second.
    assert run["throughput"] == 91
    assert run["server_ms"] == {"decode": None, "queue": 49.5, "inference": None, "postprocess": None}
    assert run["batch_size"] == 2.0
    assert run["quantiles_ms"][50] == [50, pytest.approx(51.0)]
    assert run["quantiles_ms"][-1][0] == 99
    assert run["stability"]["steady"] is False  # it rises from 1 to 100 ms


def test_a_late_generator_is_said():
    on_time = [Sample(0.01 * k, 0.01 * k, 0.01 * k + 0.0005, 0.01 * k + 0.02, "200") for k in range(200)]
    late = [Sample(0.01 * k, 0.01 * k, 0.01 * k + 0.0025, 0.01 * k + 0.02, "200") for k in range(200)]
    assert summarise(made(OpenLoop(100.0, "constant", 2.0), on_time))["notes"] == []
    (note,) = summarise(made(OpenLoop(100.0, "constant", 2.0), late))["notes"]
    assert "2.5 ms late" in note


def test_figures_of_nothing():
    run = summarise(made(ClosedLoop(1, 2.0), []))
    assert run["throughput"] == 0
    assert run["latency_ms"] == dict.fromkeys(LATENCIES)
    assert run["stability"]["steady"] is None
    assert run["quantiles_ms"] == []


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("queue;dur=1.5, inference;dur=20", {"queue": 1.5, "inference": 20.0}),
        ('decode;desc="JPEG";dur=3,total;dur=4.25', {"decode": 3.0, "total": 4.25}),
        ("cache, miss;desc=x", {}),
        ('total;dur=2.5, batch;desc="4"', {"total": 2.5, "batch": 4.0}),
        ("", {}),
    ],
)
def test_server_timing(header: str, expected: dict[str, float]):
    assert parse_server_timing(header) == expected


def test_the_canvas_of_server_timing():
    assert parse_canvas('total;dur=2.5, batch;desc="4", canvas;desc="128x192"') == "128x192"
    assert parse_canvas("queue;dur=1.5") == ""


def test_service_times_by_canvas_and_batch():
    samples = [
        Sample(0.0, 0.0, 0.0, 0.001 * (20 + 10 * k), "200", {"queue": 5.0, "inference": 10.0, "batch": 1.0 + k}, name)
        for k, name in ((0, "8x8"), (1, "8x8"), (1, "8x8"), (3, "9x9"))
    ]
    run = summarise(made(ClosedLoop(1, 2.0), [*samples, sample(0.1, 0.2), sample(0.1, 0.2, "429")]))
    assert run["service"] == [
        {
            "canvas": "8x8",
            "requests": 3,
            "rest_ms": pytest.approx([5.0, 15.0, 15.0]),
            "batches": [
                {"size": 1, "requests": 1, "inference_ms": [10.0]},
                {"size": 2, "requests": 2, "inference_ms": [10.0, 10.0]},
            ],
        },
        {
            "canvas": "9x9",
            "requests": 1,
            "rest_ms": pytest.approx([35.0]),
            "batches": [{"size": 4, "requests": 1, "inference_ms": [10.0]}],
        },
    ]
