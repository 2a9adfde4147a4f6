"""Counters and histograms for Prometheus, in seconds, one registry a server."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from server.contract.wire import Timings

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
STAGES = ("decode", "queue", "inference", "postprocess")
OUTCOMES = {200: "ok", 429: "refused", 499: "client_gone", 503: "not_ready", 504: "deadline"}


class Metrics:
    """What one server counts."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "maskline_requests", "Requests to /predict by outcome.", ["outcome"], registry=self._registry
        )
        self._stages = {
            stage: Histogram(
                f"maskline_{stage}_seconds", f"Seconds of a request: {stage}.", registry=self._registry, buckets=SECONDS
            )
            for stage in STAGES
        }
        self._total = Histogram(
            "maskline_total_seconds", "Seconds from request to answer.", registry=self._registry, buckets=SECONDS
        )
        self._batch_size = Histogram(
            "maskline_batch_size", "Pictures that ran together.", registry=self._registry, buckets=(1, 2, 4, 8, 16, 32)
        )

    def watch(self, name: str, description: str, read: Callable[[], float]) -> None:
        """A gauge that is read whenever it is asked for."""
        Gauge(f"maskline_{name}", description, registry=self._registry).set_function(read)

    def request_done(self, path: str, status: int, seconds: float) -> None:
        if path == "/predict":
            outcome = OUTCOMES.get(status, "bad_request" if 400 <= status < 500 else "error")
            self._requests.labels(outcome).inc()
            self._total.observe(seconds)

    def answered(self, timings: Timings, batch_size: int) -> None:
        for stage in STAGES:
            self._stages[stage].observe(getattr(timings, stage) / 1e3)
        self._batch_size.observe(batch_size)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)
