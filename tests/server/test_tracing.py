"""OpenTelemetry: the spans of a request, in the caller's trace; nothing at all unless it is asked for."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from server import tracing
from server.app import create_app
from tests.server.running import PNG_HEADERS, fake_server, png, running, settings

PICTURE = png()
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STAGES = ["decode", "queue", "inference", "postprocess"]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tracing.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


def split(spans: tuple[ReadableSpan, ...]) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """The request's span, and those inside it."""
    (root,) = [span for span in spans if span.kind is SpanKind.SERVER]
    return root, [span for span in spans if span is not root]


async def test_spans_of_a_request(exporter: InMemorySpanExporter, provider: TracerProvider) -> None:
    async with running(create_app(settings(), traces=tracing.Tracing(provider))) as client:
        headers = {**PNG_HEADERS, "traceparent": f"00-{TRACE}-{CALLER}-01"}
        reply = await client.post("/predict?mask=none", content=PICTURE, headers=headers)
        spans = exporter.get_finished_spans()
    root, stages = split(spans)
    assert root.name == "POST /predict"
    assert root.context is not None
    assert root.parent is not None
    assert f"{root.context.trace_id:032x}" == reply.headers["X-Trace-ID"] == TRACE
    assert f"{root.parent.span_id:016x}" == CALLER
    assert root.attributes is not None
    assert dict(root.attributes) == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "url.path": "/predict",
        "maskline.request_id": reply.headers["X-Request-ID"],
        "maskline.model": "fake",
        "maskline.version": "1",
        "maskline.pictures": 1,
        "maskline.batch_size": 1,
    }
    assert [span.name for span in stages] == STAGES
    assert all(span.parent and span.parent.span_id == root.context.span_id for span in stages)


async def test_stages_follow_each_other_inside_the_request(
    exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    async with running(create_app(settings(fake_batch_ms=20), traces=tracing.Tracing(provider))) as client:
        reply = await client.post("/predict", content=PICTURE, headers=PNG_HEADERS)
    root, stages = split(exporter.get_finished_spans())
    slack = 5_000_000  # clocks of two kinds, and rounds of the event loop
    edges = [root.start_time, *(edge for span in stages for edge in (span.start_time, span.end_time)), root.end_time]
    known = [edge for edge in edges if edge is not None]
    assert len(known) == 10
    assert all(later >= earlier - slack for earlier, later in itertools.pairwise(known))
    for span in stages:
        assert span.end_time is not None
        assert span.start_time is not None
        ms = (span.end_time - span.start_time) / 1e6
        assert ms == pytest.approx(reply.json()["timings_ms"][span.name], abs=0.01)


async def test_a_failed_request_has_the_spans_it_came_to(
    exporter: InMemorySpanExporter, provider: TracerProvider
) -> None:
    app = create_app(settings(fake_batch_ms=300, max_batch_size=1), traces=tracing.Tracing(provider))
    async with running(app) as client:
        slow = asyncio.create_task(client.post("/predict", content=PICTURE, headers=PNG_HEADERS))
        while "maskline_requests_in_flight 1.0" not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.005)
        reply = await client.post("/predict?timeout_ms=100", content=PICTURE, headers=PNG_HEADERS)
        assert reply.status_code == 504
        root, stages = split(exporter.get_finished_spans())
        await slow
    assert root.status.status_code is StatusCode.ERROR
    assert [span.name for span in stages] == ["decode", "queue"]


async def test_probes_and_unsampled_requests_leave_no_spans(exporter: InMemorySpanExporter) -> None:
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with running(create_app(settings(), traces=tracing.Tracing(provider))) as client:
        assert "X-Trace-ID" not in (await client.get("/health/live")).headers
        reply = await client.post("/predict", content=PICTURE, headers=PNG_HEADERS)
        assert len(reply.headers["X-Trace-ID"]) == 32
    assert exporter.get_finished_spans() == ()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param("", id="none"),
        pytest.param("00-zz-b7ad6b7169203331-01", id="nonsense"),
        pytest.param(f"00-{'0' * 32}-{CALLER}-01", id="zeros"),
        pytest.param(f"00-{TRACE.upper()}-{CALLER}-01", id="capitals"),
    ],
)
async def test_no_trace_no_header(sent: str) -> None:
    async with fake_server() as client:
        reply = await client.post("/predict", content=PICTURE, headers={**PNG_HEADERS, "traceparent": sent})
        assert reply.status_code == 200
        assert "X-Trace-ID" not in reply.headers


def test_off_unless_a_variable_asks() -> None:
    assert tracing.from_environment() is None


def test_a_missing_extra_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with caplog.at_level(logging.WARNING):
        assert tracing.from_environment() is None
    assert "maskline[otel]" in caplog.text


class Collector(BaseHTTPRequestHandler):
    received: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    received: list[tuple[str, bytes]] = []
    handler = type("Handler", (Collector,), {"received": received})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()
        thread.join()


async def test_the_standard_variables_name_the_collector(
    collector: tuple[str, list[tuple[str, bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, received = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "nuclei-service")
    async with fake_server() as client:
        assert (await client.post("/predict", content=PICTURE, headers=PNG_HEADERS)).status_code == 200
    assert [path for path, _ in received] == ["/v1/traces"]
    for text in (b"nuclei-service", b"POST /predict", b"postprocess"):
        assert text in received[0][1]
