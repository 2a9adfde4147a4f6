"""`python -m server` as a process of its own: start, failures to start, clients that leave, stop."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from server.__main__ import main
from tests.server.running import PNG_HEADERS, ServerProcess, as_png, noise, png, server_process, write_bundle

PICTURE = png()


NO_DISK = ("sh", "-c", 'ulimit -f 0; exec "$@"', "sh")
"""Runs a program that can write nothing into any file, as on a full disk."""


def in_flight(count: int) -> str:
    return f"maskline_requests_in_flight {count:.1f}\n"


def test_accepted_requests_are_answered_after_sigterm() -> None:
    with server_process("--fake-batch-ms", "400", "--max-batch-size", "1") as server, ThreadPoolExecutor(6) as threads:
        answers = [threads.submit(server.predict, PICTURE) for _ in range(6)]
        server.wait_until("/metrics", in_flight(6))
        server.process.send_signal(signal.SIGTERM)
        while server.get("/health/ready").status_code == 200:
            pass
        refused = server.predict(PICTURE)
        server.process.send_signal(signal.SIGTERM)
        assert [answer.result().status_code for answer in answers] == [200] * 6
        assert refused.status_code == 503
        assert refused.headers["Connection"] == "close"
        assert server.process.wait(30) == 0


def test_a_full_disk_stops_nothing() -> None:
    large = as_png(noise(0, (1500, 2000)))  # more than is kept in memory by libraries that spool to files
    with server_process(prefix=NO_DISK) as server:
        for content in ({"content": large, "headers": PNG_HEADERS}, {"files": [("image", large)] * 8}):
            assert httpx2.post(f"{server.url}/predict", **content, timeout=60).status_code == 200
        assert server.get("/metrics").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0


def test_idle_server_stops_at_once() -> None:
    with server_process() as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 0


def test_stuck_requests_do_not_stop_the_stop() -> None:
    arguments = ("--fake-batch-ms", "1500", "--drain-timeout-s", "0.1")
    with server_process(*arguments) as server, ThreadPoolExecutor(1) as threads:
        answer = threads.submit(server.predict, PICTURE)
        server.wait_until("/metrics", in_flight(1))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert answer.result().status_code == 503


def test_work_of_a_client_that_left_never_reaches_the_engine() -> None:
    with server_process("--fake-batch-ms", "3000", "--max-batch-size", "1") as server, ThreadPoolExecutor(1) as threads:
        server.predict(PICTURE)  # the first picture of a process decodes slowly; the next could overtake it
        first = threads.submit(server.predict, PICTURE)
        server.wait_until("/metrics", in_flight(1))
        time.sleep(0.5)  # from its arrival to the engine
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(PICTURE)}\r\n\r\n"
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port)) as leaving:
            leaving.sendall(head.encode() + PICTURE)
            server.wait_until("/metrics", 'maskline_queue_depth{model="fake",version="1"} 1.0')
        assert first.result().status_code == 200
        server.wait_until("/metrics", in_flight(0))
        server.wait_until(
            "/metrics", 'maskline_requests_total{method="POST",outcome="client_gone",route="/predict",status="499"} 1.0'
        )
        assert server.predict(PICTURE).status_code == 200
        server.wait_until("/metrics", 'maskline_batches_total{model="fake",version="1"} 3.0')
        server.wait_until("/metrics", 'maskline_dropped_total{model="fake",reason="cancelled",version="1"} 1.0')


def test_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--engine", "fake", "--port", str(port)]) == 1
    assert str(port) in (message := capsys.readouterr().err)
    assert "PORT=" in message


def test_bad_host(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--engine", "fake", "--host", "no.such.host.invalid"]) == 1
    assert "no.such.host.invalid" in capsys.readouterr().err


def test_bad_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_bundle(tmp_path / "bundle", b"not what was built")
    (bundle / "model.onnx").write_bytes(b"something else")
    assert main([str(bundle), "--port", "0"]) == 2
    message = capsys.readouterr().err
    assert "model.onnx" in message
    assert "maskline build" in message


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["--port", "many"], "--port"), (["--max-batch-size", "0"], "--max-batch-size"), (["--port", "70000"], "65535")],
)
def test_bad_flag(arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert word in capsys.readouterr().err


def test_bad_variable(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MASKLINE_TIMEOUT_S", "soon")
    assert main([]) == 2
    assert "MASKLINE_TIMEOUT_S" in capsys.readouterr().err


def test_help_lists_every_setting_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in ("--port PORT port to listen on; 0: any free one [8000]", "--max-batch-size", "[8]", "MASKLINE_PORT"):
        assert words in text


def test_server_imports_neither_torch_nor_onnx() -> None:
    code = """
import json, sys
from server.app import create_app
from server.engines import onnxruntime_
from server.settings import Settings
import onnxruntime
create_app(Settings(engine="fake"))
print(json.dumps([name for name in ("torch", "onnx", "torchvision", "matplotlib") if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout) == []


def test_start_line_names_address_and_model() -> None:
    with server_process("--root-path", "/masks") as server:
        assert isinstance(server, ServerProcess)
        assert server.url.endswith("/masks")
