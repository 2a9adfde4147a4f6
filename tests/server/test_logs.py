"""Log lines: one a request, in text or JSON, without secrets, and few of them in an overload."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from server import logs
from server.app import create_app
from server.engines.fake import FakeEngine
from server.models import Models
from tests.server.running import PNG_HEADERS, fake_server, png, running, server_with, settings

PICTURE = png()
TRACE = "0af7651916cd43dd8448eb211c80319c"


class Lines(io.StringIO):
    def json(self, message: str = "") -> list[dict[str, Any]]:
        documents = [json.loads(line) for line in self.getvalue().splitlines()]
        return [document for document in documents if message in document["message"]]


@pytest.fixture
def text_lines() -> Iterator[Lines]:
    yield from captured(logs.TextFormatter())


@pytest.fixture
def json_lines() -> Iterator[Lines]:
    yield from captured(logs.JsonFormatter())


def captured(formatter: logging.Formatter) -> Iterator[Lines]:
    lines = Lines()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(formatter)
    logger = logging.getLogger("server")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


async def predict(client: httpx2.AsyncClient, query: str = "", **headers: str) -> httpx2.Response:
    return await client.post(f"/predict{query}", content=PICTURE, headers={**PNG_HEADERS, **headers})


async def test_a_request_is_one_line(json_lines: Lines) -> None:
    async with fake_server() as client:
        reply = await predict(client, "?mask=none", traceparent=f"00-{TRACE}-b7ad6b7169203331-01")
    (line,) = json_lines.json("request")
    assert line["level"] == "info"
    assert line["request_id"] == reply.headers["X-Request-ID"]
    assert (line["method"], line["path"], line["status"]) == ("POST", "/predict", 200)
    assert (line["model"], line["version"], line["pictures"], line["batch_size"]) == ("fake", "1", 1, 1)
    assert line["bytes_in"] == len(PICTURE)
    assert line["bytes_out"] == len(reply.content)
    stages = [line[f"{stage}_ms"] for stage in ("decode", "queue", "inference", "postprocess")]
    assert line["ms"] >= max(stages)
    assert line["trace_id"] == reply.headers["X-Trace-ID"] == TRACE


async def test_text_has_the_same(text_lines: Lines) -> None:
    async with fake_server() as client:
        reply = await predict(client)
    (line,) = text_lines.getvalue().splitlines()
    for word in (
        f"request_id={reply.headers['X-Request-ID']}",
        "status=200",
        "path=/predict",
        "model=fake",
        "queue_ms=",
    ):
        assert f" {word}" in line


@pytest.mark.parametrize("kind", ["text", "json"])
async def test_neither_query_nor_key_is_logged(kind: str, request: pytest.FixtureRequest) -> None:
    lines: Lines = request.getfixturevalue(f"{kind}_lines")
    logging.getLogger("server").setLevel(logging.DEBUG)
    async with fake_server(api_keys=("right-key",)) as client:
        for query in ("?key=in-the-query", "?mask=none"):
            await predict(client, query, Authorization="Bearer right-key")
            await predict(client, query, Authorization="Bearer wrong-key", Cookie="in-a-cookie")
        await client.get("/nothing?key=in-the-query", headers={"X-API-Key": "right-key"})
    assert len(lines.getvalue().splitlines()) >= 5
    for secret in ("right-key", "wrong-key", "in-the-query", "in-a-cookie", "mask=none"):
        assert secret not in lines.getvalue()


@pytest.mark.parametrize("kind", ["text", "json"])
async def test_a_path_cannot_forge_a_line(kind: str, request: pytest.FixtureRequest) -> None:
    lines: Lines = request.getfixturevalue(f"{kind}_lines")
    async with fake_server() as client:
        await client.get("/x%0A2026%20INFO%20server%20forged%20status%3D200%E2%80%A8y")
        await client.get("/" + "x" * 10000)
    first, second = lines.getvalue().splitlines()
    assert "forged" in first
    assert len(second) < 1000
    if kind == "text":
        assert " status=200" not in first.replace('"/x', "").partition('"')[2]


async def test_an_exception_is_one_object(json_lines: Lines) -> None:
    class Broken(FakeEngine):
        def infer(self, images, windows):  # type: ignore[no-untyped-def]
            if images.any():
                raise ZeroDivisionError("by nothing")
            return super().infer(images, windows)

    async with server_with(Models.of(settings(), [Broken()])) as client:
        reply = await predict(client)
    (bug,) = json_lines.json("bug")
    assert bug["request_id"] == reply.headers["X-Request-ID"]
    assert (bug["exception"]["type"], bug["exception"]["message"]) == ("ZeroDivisionError", "by nothing")
    assert "Traceback" in bug["exception"]["trace"]
    assert [line["status"] for line in json_lines.json("request")] == [500]


async def test_an_overload_is_one_warning(json_lines: Lines) -> None:
    async with fake_server(fake_batch_ms=300, max_queue_size=1) as client:
        replies = await asyncio.gather(*(predict(client) for _ in range(200)))
    assert sum(reply.status_code == 429 for reply in replies) > 100
    assert [line["status"] for line in json_lines.json("request") if "status" in line] == [200]
    (warning,) = json_lines.json("refused")
    assert warning["level"] == "warning"


async def test_probes_are_quiet(json_lines: Lines) -> None:
    async with running(create_app(settings())) as client:
        for path in ("/health/live", "/health/ready", "/metrics"):
            await client.get(path)
    assert json_lines.getvalue() == ""


def test_odd_values_stay_one_line() -> None:
    record = logging.makeLogRecord({"msg": "a\nb %s", "args": ("ü\udc80",), "values": {"path": object(), "n": 1.5}})
    document = json.loads(line := logs.JsonFormatter().format(record))
    assert "\n" not in line
    assert document["message"] == "a\nb ü\udc80"
    assert document["n"] == 1.5


def test_every_line_of_a_process_is_json_and_nobody_floods_the_log() -> None:
    """uvicorn's, warnings and the start included."""
    code = """
import sys, threading, time, urllib.request, socket, warnings, signal, os
from server.__main__ import main
def visit():
    time.sleep(0.5)
    while True:
        try: urllib.request.urlopen(f"http://127.0.0.1:{port}/models?key=hidden").read(); break
        except OSError: time.sleep(0.1)
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", port)) as odd:
            odd.sendall(b"nonsense\\r\\n\\r\\n"); odd.recv(100)
    warnings.warn("mind this")
    os.kill(os.getpid(), signal.SIGTERM)
with socket.create_server(("127.0.0.1", 0)) as free: port = free.getsockname()[1]
threading.Thread(target=visit).start()
sys.exit(main(["--engine", "fake", "--log-format", "json", "--port", str(port)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.stdout == ""
    loggers = {line["logger"] for line in lines}
    assert {"server", "server.requests", "uvicorn.error", "py.warnings"} <= loggers
    assert any("http://127.0.0.1" in line["message"] for line in lines)
    assert "hidden" not in done.stderr
    assert len([line for line in lines if line["logger"] == "uvicorn.error"]) < 5
