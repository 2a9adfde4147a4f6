"""Counters and histograms for Prometheus, in seconds, one registry a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from server.batching import BatcherStats
from server.contract.wire import ModelRef, Timings

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

    def watch_batchers(self, read: Callable[[], Iterable[tuple[ModelRef, BatcherStats]]]) -> None:
        """What the batchers have counted, for each model."""
        self._registry.register(_BatcherCollector(read))

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


class _BatcherCollector(Collector):
    def __init__(self, read: Callable[[], Iterable[tuple[ModelRef, BatcherStats]]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        batches = CounterMetricFamily("maskline_batches", "Batches that ran.", labels=("model", "version"))
        failed = CounterMetricFamily("maskline_failed_batches", "Batches that failed.", labels=("model", "version"))
        dropped = CounterMetricFamily(
            "maskline_dropped", "Pictures dropped before they ran.", labels=("model", "version", "reason")
        )
        for model, stats in self._read():
            labels = (model.name, model.version)
            batches.add_metric(labels, stats.batches)
            failed.add_metric(labels, stats.failed_batches)
            dropped.add_metric((*labels, "cancelled"), stats.dropped_cancelled)
            dropped.add_metric((*labels, "expired"), stats.dropped_expired)
        yield from (batches, failed, dropped)
