"""benchmarks/serving.py without its peers: load, CPU time, agreement, rows, refusals."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks import serving
from benchmarks.overhead import load, network, processes
from benchmarks.overhead.contestants import BASELINE, OURS, Contestant, contestants, disagreement
from server.pictures.decode import decode_image
from server.pipeline import Pipeline
from tests.server.running import png, server_process, write_bundle
from tests.server.tiny_onnx import tiny_onnx

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

FAKE = [sys.executable, "-m", "server", "--engine", "fake"]


def raw(picture: bytes) -> tuple[bytes, str]:
    return picture, "image/jpeg"


def fake_contestants(*_: object) -> list[Contestant]:
    return [
        Contestant(name, lambda port: [*FAKE, "--port", str(port)], "/health/ready", raw) for name in (BASELINE, OURS)
    ]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two servers with the fake engine, at little load."""
    monkeypatch.setattr(serving, "contestants", fake_contestants)
    monkeypatch.setattr(serving, "CONNECTIONS", (1, 3))
    monkeypatch.setattr(serving, "WARM_UP_S", 0.1)
    monkeypatch.setattr(network, "write_bundle", lambda folder: folder)


@pytest.mark.usefixtures("small")
def test_contestants_take_turns_and_get_a_row_a_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLINE_PEER_PYTHON", sys.executable)
    report, plot = tmp_path / "serving.json", tmp_path / "serving.png"
    options = ["--rounds", "2", "--seconds", "0.2", "--json", str(report), "--plot", str(plot)]
    assert serving.main(options) == 0
    written = json.loads(report.read_text())
    assert set(written) == {"machine", "date", "rows"}
    assert [(row["case"], row["variant"]) for row in written["rows"]] == [
        (case, name) for case in ("1 connection", "3 connections") for name in (BASELINE, OURS)
    ]
    for row in written["rows"]:
        assert row["unit"] == "requests/CPU s"
        assert 0 < row["low"] <= row["median"] <= row["high"]
        assert row["rss_mib"] > 20
        assert row["p50_ms"] <= row["p99_ms"]
    assert written["rows"][0]["speedup"] == 1.0
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("small")
def test_a_contestant_with_another_answer_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MASKLINE_PEER_PYTHON", sys.executable)
    ours, other = fake_contestants()
    without = Contestant(other.name, other.command, other.ready, raw, lambda _: {"images": [{"detections": []}]})
    monkeypatch.setattr(serving, "contestants", lambda *_: [ours, without])
    assert serving.main(["--seconds", "0.2"]) == 1
    assert "classes" in capsys.readouterr().err


def test_an_interpreter_that_is_not_there_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MASKLINE_PEER_PYTHON", "/nowhere/python")
    monkeypatch.setattr(network, "write_bundle", lambda folder: folder)
    assert serving.main([]) == 2
    assert "/nowhere/python cannot be run" in capsys.readouterr().err


def test_the_speedup_is_over_the_baseline_of_the_same_load() -> None:
    def samples(*per_cpu_s: float) -> list[serving.Sample]:
        return [serving.Sample(value, value, 1, 2, 100) for value in per_cpu_s]

    rows = serving.rows({(1, BASELINE): samples(90, 100, 110), (1, OURS): samples(130), (8, BASELINE): samples(50)})
    assert [(row["case"], row["variant"], row["median"], row["speedup"]) for row in rows] == [
        ("1 connection", BASELINE, 100, 1.0),
        ("1 connection", OURS, 130, 1.3),
        ("8 connections", BASELINE, 50, 1.0),
    ]
    assert "1.30" in serving.table(rows)


def one(class_id: int = 1, x: float = 0.0, mask: object = "counts") -> dict[str, Any]:
    return {"class_id": class_id, "box": [x, 0.0, 9.0, 9.0], "mask": mask}


def test_answers_agree_up_to_rounding() -> None:
    assert disagreement([one(), one(2)], [one(x=0.05), one(2)]) == ""
    for other in ([], [one(2)], [one(x=0.5)], [one(mask=None)], [one(), one()]):
        assert disagreement([one()], other)


def test_the_load_keeps_so_many_requests_under_way_and_tells_what_fails() -> None:
    marks: list[float] = []
    with server_process("--fake-batch-ms", "20") as server:

        def run(path: str) -> load.Load:
            request = load.request(f"{server.url}{path}", png(), "image/png")
            return asyncio.run(load.run(server.url, [request], 4, 0.2, 0.8, mark, mark))

        def mark() -> None:
            marks.append(time.perf_counter())

        found = run("/predict?mask=none")
        assert marks[1] - marks[0] == pytest.approx(0.8, abs=0.5)
        assert len(found.latencies_s) > 8
        assert min(found.latencies_s) >= 0.02
        assert json.loads(found.last_answer)["images"][0]["detections"][0]["mask"] is None
        with pytest.raises(load.LoadError, match="404"):
            run("/nothing")


def test_cpu_time_counts_the_children_and_they_are_stopped_too(tmp_path: Path) -> None:
    port = processes.free_port()
    page = f"import http.server as h; h.HTTPServer(('127.0.0.1', {port}), h.SimpleHTTPRequestHandler).serve_forever()"
    child = "import time; t = time.process_time()\nwhile time.process_time() - t < 0.3: pass\ntime.sleep(600)"
    busy = (
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True); {page}"
    )
    with processes.serving([sys.executable, "-c", busy], {}, f"http://127.0.0.1:{port}/", tmp_path / "log") as server:
        deadline = time.monotonic() + 60
        while server.cpu_s() < 0.3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        family = server.pids()
        assert len(family) == 2
    while any(is_running(pid) for pid in family):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """False for one that waits for somebody to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_a_server_that_ends_says_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no such model')"]
    with (
        pytest.raises(processes.ServerError, match="no such model"),
        processes.serving(command, {}, "http://127.0.0.1:1/", tmp_path / "log"),
    ):
        pass


def test_the_picture_is_of_100_kb_and_never_another() -> None:
    picture = network.jpeg(1)
    assert 85_000 < len(picture) < 115_000
    assert picture == network.jpeg(1) != network.jpeg(2)
    assert decode_image(picture).shape == (300, 400, 3)


def test_peers_are_started_as_modules_that_exist() -> None:
    root = Path(serving.__file__).parents[1]
    for contestant in contestants(Path("bundle"), "python"):
        command = contestant.command(8000)
        named = [part.partition(":")[0] for part in command if part.startswith("benchmarks.")]
        assert all((root / f"{name.replace('.', '/')}.py").is_file() for name in named)
        assert "8000" in command
        assert contestant.request(8000, b"picture").startswith(b"POST /predict HTTP/1.1\r\n")


def test_help_needs_no_heavy_import() -> None:
    script = Path(serving.__file__)
    result = subprocess.run(
        [sys.executable, str(script), "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "requests a second" in result.stdout


def test_peers_do_the_same_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_bundle(tmp_path / "tiny", tiny_onnx())
    monkeypatch.setenv("BENCHMARK_BUNDLE", str(bundle))
    work = importlib.import_module("benchmarks.overhead.peers.work")
    pipeline = Pipeline.open(bundle, "onnxruntime", threads=1)
    pictures = [network.jpeg(seed) for seed in range(2)]
    canvases = [work.read(picture) for picture in pictures]
    for picture, canvas, answer in zip(pictures, canvases, work.answers(canvases), strict=True):
        ours = pipeline.prepare(decode_image(picture))
        assert (canvas.window_xyxy, canvas.size_hw) == (ours.window_xyxy, ours.size_hw)
        assert (canvas.image == ours.image).all()
        expected = json.loads(orjson.dumps(pipeline.predict(picture)))["detections"]
        assert len(expected) == 1
        assert disagreement(expected, json.loads(answer)["images"][0]["detections"]) == ""
