"""OpenTelemetry: a span a request, with its stages inside, made when the request is over from the times that it kept.

On where the extra `otel` is installed and one of OpenTelemetry's own variables names a collector; the same variables
set the rest: `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS`, ...
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from server.record import Record

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger("server.tracing")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def trace_id_of(headers: Mapping[str, str]) -> str:
    """Of the trace that the caller is in (W3C Trace Context); empty when it says nothing of one."""
    found = TRACEPARENT.match(headers.get("traceparent", ""))
    return found[1] if found else ""


def from_environment() -> Tracing | None:
    """What the variables ask for. None, and a warning, where the extra is missing."""
    endpoint = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    if endpoint is None:
        return None
    try:
        return Tracing(_exporting())
    except ModuleNotFoundError as error:
        missing = f"there are no traces without {error.name}: pip install 'maskline[otel]'"
        logger.warning("%s is set, but %s", endpoint, missing)
        return None


def _exporting() -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    ours = Resource({"service.name": "maskline", "service.version": version("maskline")})
    provider = TracerProvider(resource=Resource.get_empty().merge(ours).merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Tracing:
    """Spans of requests, to wherever `provider` sends them."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("maskline", version("maskline"))
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, record: Record, headers: Mapping[str, str]) -> None:
        """Opens the request's span, in the caller's trace if it is in one."""
        from opentelemetry.trace import SpanKind, format_trace_id

        caller = self._propagator.extract(headers)
        record.span = self._tracer.start_span(record.method, caller, SpanKind.SERVER)
        record.trace_id = format_trace_id(record.span.get_span_context().trace_id)

    def end(self, record: Record) -> None:
        span = record.span
        if span.is_recording():
            self._add_stages(record)
            span.update_name(f"{record.method} {record.route}".strip())
            span.set_attributes(_attributes(record))
            if record.status >= 500:
                span.set_status(_error())
        span.end()

    def close(self) -> None:
        """Sends what is left; may take seconds where the collector does not answer."""
        self._provider.shutdown()

    def _add_stages(self, record: Record) -> None:
        from opentelemetry.trace import set_span_in_context

        inside = set_span_in_context(record.span)
        epoch = time.time() - time.monotonic()
        for name, stage in record.progress.items():
            ended = epoch + stage.ended
            child = self._tracer.start_span(name, inside, start_time=_nanoseconds(ended - stage.seconds))
            child.end(_nanoseconds(ended))


def _attributes(record: Record) -> dict[str, Any]:
    """OpenTelemetry's names where it has one."""
    attributes: dict[str, Any] = {
        "http.request.method": record.method,
        "http.response.status_code": record.status,
        "url.path": record.path,
        "maskline.request_id": record.request_id,
    }
    if record.route:
        attributes["http.route"] = record.route
    if record.model is not None:
        attributes |= {"maskline.model": record.model.name, "maskline.version": record.model.version}
    if record.pictures:
        attributes["maskline.pictures"] = record.pictures
    if record.batch_size:
        attributes["maskline.batch_size"] = record.batch_size
    return attributes


def _error() -> Any:
    from opentelemetry.trace import Status, StatusCode

    return Status(StatusCode.ERROR)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
