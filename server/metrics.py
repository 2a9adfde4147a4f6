"""Counters, gauges and histograms for Prometheus, in seconds and bytes, one registry a server.

Labels have few values: a model is one that is loaded, a route is a template, a method or a path that a client makes up
counts as "other".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from server.contract.wire import ModelRef
from server.model import EngineHealth
from server.models import Model
from server.record import Record
from server.statistics import Statistics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 3, 5, 7.5, 10, 20, 30, 60),
)
"""From a GPU's 5 ms to a CPU's 5 s, and the default deadline."""
STAGES = {
    "decode": "Seconds that decoding and resizing took.",
    "queue": "Seconds in the queue.",
    "inference": "Seconds in the engine.",
    "postprocess": "Seconds that boxes and masks took.",
    "total": "Seconds from a request's head to the end of its answer.",
}
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
PREDICT = "/predict"
EXPECTED = (200, 400, 429, 500, 503, 504)
STATES = ("warming", "ready", "restarting", "failed")
METHODS = ("GET", "HEAD", "POST", "OPTIONS")
OUTCOMES = {429: "refused", 499: "client_gone", 503: "not_ready", 504: "deadline"}
MODEL = ("model", "version")


class Metrics:
    """What one server counts."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a gauge beside every counter: nobody asks for it
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        Info("maskline", "The server.", registry=self._registry).info({"version": version("maskline")})
        requests = ["route", "method", "status", "outcome"]
        self._requests = self._counter("requests", "Requests answered.", requests)
        self._request_bytes = self._counter("request_bytes", "Bytes of bodies that came in.")
        self._response_bytes = self._counter("response_bytes", "Bytes of bodies that went out.")
        self._pictures = self._counter("pictures", "Pictures that were read from requests.", [*MODEL, "outcome"])
        self._stages = {name: self._histogram(f"{name}_seconds", text, SECONDS) for name, text in STAGES.items()}
        self._batch_size = self._histogram("batch_size", "Pictures in the batch of an answered request.", BATCH_SIZES)
        self._request_counters: dict[tuple[str, str, int], Counter] = {}
        self._histograms: dict[ModelRef, _Histograms] = {}
        self._models: Iterable[Model] = ()
        self.statistics = Statistics()
        for status in EXPECTED:  # a rate cannot see a counter's first value
            self._counter_of(PREDICT, "POST", status)

    def watch(self, name: str, description: str, read: Callable[[], float]) -> None:
        """A gauge that is read whenever it is asked for."""
        Gauge(f"maskline_{name}", description, registry=self._registry).set_function(read)

    def watch_models(self, models: Iterable[Model]) -> None:
        """What the models' batchers and engines tell of themselves. Series of others are dropped."""
        self._models = models
        self._registry.register(_ModelCollector(models))

    def done(self, record: Record) -> None:
        """Counts a request whose answer has gone out. Histograms are of those answered with 200: a refusal takes no
        time, and would make the latencies of an overloaded server look fine."""
        self.statistics.done(record)
        status = record.status
        self._counter_of(record.route, record.method, status).inc()
        self._request_bytes.inc(record.bytes_in)
        self._response_bytes.inc(record.bytes_out)
        if record.model is None:
            return
        histograms = self._histograms_of(record.model)
        if record.pictures:
            self._pictures.labels(record.model.name, record.model.version, _outcome(status)).inc(record.pictures)
        if record.timings_ms is not None and status == 200:
            histograms.observe(record)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The text that Prometheus reads, and its content type. OpenMetrics where that is accepted."""
        self._forget_unloaded()
        if "application/openmetrics-text" in accept:
            text = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            return text, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self._registry), CONTENT_TYPE

    def _forget_unloaded(self) -> None:
        """A server that loads a new version every day would never stop growing."""
        loaded = {model.ref for model in self._models}
        self.statistics.keep(loaded)
        for model in set(self._histograms) - loaded:
            del self._histograms[model]
            for metric in (*self._stages.values(), self._batch_size, self._pictures):
                metric.remove_by_labels({"model": model.name, "version": model.version})

    def _counter(self, name: str, description: str, labels: Iterable[str] = ()) -> Counter:
        return Counter(f"maskline_{name}", description, labels, registry=self._registry)

    def _histogram(self, name: str, description: str, buckets: Iterable[float]) -> Histogram:
        return Histogram(f"maskline_{name}", description, MODEL, registry=self._registry, buckets=tuple(buckets))

    def _counter_of(self, route: str, method: str, status: int) -> Counter:
        key = (route, method if method in METHODS else "other", status)
        found = self._request_counters.get(key)
        if found is None:
            found = self._requests.labels(key[0] or "other", key[1], status, _outcome(status))
            self._request_counters[key] = found
        return found

    def _histograms_of(self, model: ModelRef) -> _Histograms:
        found = self._histograms.get(model)
        if found is None:
            labels = (model.name, model.version)
            stages = {stage: histogram.labels(*labels) for stage, histogram in self._stages.items()}
            found = self._histograms[model] = _Histograms(stages, self._batch_size.labels(*labels))
        return found


class _Histograms:
    """Of one model."""

    def __init__(self, stages: dict[str, Histogram], batch_size: Histogram) -> None:
        self._total = stages["total"]
        self._stages = [(name, histogram) for name, histogram in stages.items() if name != "total"]
        self._batch_size = batch_size

    def observe(self, record: Record) -> None:
        for name, histogram in self._stages:
            histogram.observe(getattr(record.timings_ms, name) / 1e3)
        self._batch_size.observe(record.batch_size)
        self._total.observe(record.seconds, {"trace_id": record.trace_id} if record.trace_id else None)


@dataclass(frozen=True)
class _Watched:
    """What `read` tells of a model: a value for each set of values of the `labels` besides the model's."""

    kind: type[GaugeMetricFamily | CounterMetricFamily]
    name: str
    description: str
    read: Callable[[Model], Mapping[tuple[str, ...], float]]
    labels: tuple[str, ...] = ()

    def family(self, models: Iterable[Model]) -> Metric:
        family = self.kind(f"maskline_{self.name}", self.description, labels=(*MODEL, *self.labels))
        for model in models:
            for values, number in self.read(model).items():
                family.add_metric((model.ref.name, model.ref.version, *values), number)
        return family


def _gauge(name: str, description: str, read: Callable[[Model], float]) -> _Watched:
    return _Watched(GaugeMetricFamily, name, description, lambda model: {(): read(model)})


def _counter(name: str, description: str, read: Callable[[Model], float]) -> _Watched:
    return _Watched(CounterMetricFamily, name, description, lambda model: {(): read(model)})


def _of_engines(read: Callable[[EngineHealth], float]) -> Callable[[Model], Mapping[tuple[str, ...], float]]:
    return lambda model: {(str(index),): read(engine) for index, engine in enumerate(model.engines)}


def _faults(model: Model) -> Mapping[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for index, engine in enumerate(model.engines):
        counted = engine.counted
        faults = {"failed": counted.failed_batches, "hung": counted.hung, "restart": counted.restarts}
        found |= {(str(index), fault): number for fault, number in faults.items()}
    return found


WATCHED = (
    _Watched(GaugeMetricFamily, "model_info", "What a model runs on.", lambda m: {(m.description,): 1}, ("engine",)),
    _Watched(
        GaugeMetricFamily,
        "engine_state",
        "1 for the state that the best of a model's engines is in.",
        lambda model: {(state,): state == model.state for state in STATES},
        ("state",),
    ),
    _Watched(
        GaugeMetricFamily,
        "engine_up",
        "1 while the engine takes batches.",
        _of_engines(lambda engine: engine.state == "ready"),
        ("index",),
    ),
    _Watched(
        CounterMetricFamily,
        "engine_pictures",
        "Pictures, and tiles of pictures, that the engine ran.",
        _of_engines(lambda engine: engine.counted.items),
        ("index",),
    ),
    _Watched(
        CounterMetricFamily,
        "engine_busy_seconds",
        "Seconds of the batches that the engine ran.",
        _of_engines(lambda engine: engine.counted.run_s),
        ("index",),
    ),
    _Watched(CounterMetricFamily, "engine_faults", "What went wrong in the engine.", _faults, ("index", "fault")),
    _gauge("max_batch_size", "Pictures that run together at most.", lambda m: m.serving.batcher.limits.max_batch_size),
    _gauge(
        "max_queue_delay_seconds",
        "How long a batch that is not full waits for more.",
        lambda model: model.serving.batcher.limits.max_delay_s,
    ),
    _gauge("max_queue_size", "Pictures that may wait.", lambda model: model.serving.batcher.limits.max_items),
    _gauge(
        "max_queue_wait_seconds",
        "Requests whose wait would be longer are refused.",
        lambda model: model.serving.batcher.limits.max_wait_s,
    ),
    _gauge("ready_time_seconds", "When the model had warmed up, in Unix time; 0: not yet.", lambda m: m.ready_at),
    _gauge("queue_depth", "Pictures waiting for the engine.", lambda model: model.serving.batcher.waiting),
    _gauge(
        "predicted_wait_seconds",
        "How long a picture that came now would wait.",
        lambda model: model.serving.batcher.predicted_wait_s(),
    ),
    _counter("batches", "Batches that ran.", lambda model: model.serving.batcher.stats.batches),
    _counter("failed_batches", "Batches that failed.", lambda model: model.serving.batcher.stats.failed_batches),
    _counter("engine_restarts", "Engines replaced after a fault.", lambda model: model.serving.batcher.stats.restarts),
    _counter("hung_batches", "Batches that an engine never answered.", lambda model: model.serving.batcher.stats.hung),
    _Watched(
        CounterMetricFamily,
        "dropped",
        "Pictures dropped before they ran.",
        lambda model: {
            ("cancelled",): model.serving.batcher.stats.dropped_cancelled,
            ("expired",): model.serving.batcher.stats.dropped_expired,
        },
        ("reason",),
    ),
    _Watched(
        CounterMetricFamily,
        "refused",
        "Requests that the queue had no room for.",
        lambda model: {(kind,): count for kind, count in model.serving.batcher.stats.refused.items()},
        ("reason",),
    ),
)
"""Of each loaded model, read when Prometheus asks."""


class _ModelCollector(Collector):
    def __init__(self, models: Iterable[Model]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        for watched in WATCHED:
            yield watched.family(self._models)


def _outcome(status: int) -> str:
    if status < 400:
        return "ok"
    return OUTCOMES.get(status, "bad_request" if status < 500 else "error")
