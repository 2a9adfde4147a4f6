"""One run's samples -> the figures of `report.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from clients.loadtest.generator import Run, Sample
from clients.loadtest.load import Load, Offline, OpenLoop
from clients.loadtest.metrics import STAGES
from clients.loadtest.mlperf import percentile
from clients.loadtest.service import service_times
from clients.loadtest.stability import stability

QUANTILES = (*range(100), 99.5, 99.9)
# Later than this, and than a twentieth of the latency, the generator itself is in the figures.
LAG_LIMIT_MS = 1.0
# Fewer requests than that are in flight at the end of a window without any overload.
LEAST_BEHIND = 20

Values = npt.NDArray[np.float64]


def summarise(run: Run) -> dict[str, Any]:
    """The run's entry in `report.json`.

    `latency_ms` is of the answered requests (200), from their intended send time; percentiles are LoadGen's.
    `throughput` is answers that came inside the window of `duration_s`, a second: what was still under way at its end
    counts in `ok` and `latency_ms` only. `server_ms` are means. A figure of nothing is null.
    """
    answered = [sample for sample in run.samples if sample.ok]
    refused = sum(sample.refused for sample in run.samples)
    latencies_ms = np.sort(_column(answered, "latency_ms"))
    row = {
        "label": run.load.label,
        **_mode(run.load),
        "duration_s": round(run.duration_s, 3),
        "given_up": run.given_up,
        "sent": len(run.samples),
        "ok": len(answered),
        "refused": refused,
        "failed": len(run.samples) - len(answered) - refused,
        "outcomes": dict(sorted(run.outcomes.items())),
        "throughput": round(_throughput(run, answered), 3),
        "latency_ms": _latency(latencies_ms),
        "generator_lag_ms": _percentiles(np.sort(_column(run.samples, "lag_ms")), 50, 99),
        "server_ms": {stage: _mean(answered, stage) for stage in STAGES},
        "batch_size": _mean(answered, "batch"),
        "server_metrics": run.scrapes.summary(),
        "service": service_times(answered),
        "stability": _stability(run, answered),
        "answers": run.answers.summary() if run.answers else None,
        "quantiles_ms": _quantiles(latencies_ms),
    }
    return {**row, "notes": notes(row)}


def notes(row: dict[str, Any]) -> list[str]:
    """What a reader of the figures must know, in sentences."""
    return [sentence for sentence in (_lag(row), _drift(row), _overload(row), _few(row), _different(row)) if sentence]


def _lag(row: dict[str, Any]) -> str | None:
    lag_ms, median_ms = row["generator_lag_ms"]["p99"], row["latency_ms"]["p50"]
    if lag_ms is None or lag_ms <= max(LAG_LIMIT_MS, (median_ms or 0) / 20):
        return None
    return f"The generator could not keep up: it sent {lag_ms:.1f} ms late at p99, and that is in the latencies."


def _drift(row: dict[str, Any]) -> str | None:
    found = row["stability"]
    if found["steady"] is not False:
        return None
    drifts = f"throughput {found['throughput_drift']:+.0%}, latency {found['latency_drift']:+.0%}"
    return f"Not steady: over the window {drifts}. The figures depend on its length."


def _overload(row: dict[str, Any]) -> str | None:
    asked = row["sent"] / row["duration_s"]
    behind = row["sent"] - row["throughput"] * row["duration_s"]
    if row["mode"] != "open" or row["given_up"] or behind < max(LEAST_BEHIND, 0.05 * row["sent"]):
        return None
    return f"Overload: {asked:.1f} requests a second were sent, {row['throughput']:.1f} answered."


def _few(row: dict[str, Any]) -> str | None:
    return "Fewer than 100 answers: p99 is the slowest of them." if 0 < row["ok"] < 100 else None


def _different(row: dict[str, Any]) -> str | None:
    found = row["answers"]
    if not found or not found["different"]:
        return None
    return (
        f"{found['different']} of {found['checked']} answers were not those of the first pass ({found['example']}): "
        "load or batches change what is found."
    )


def _mode(load: Load) -> dict[str, Any]:
    if isinstance(load, OpenLoop):
        return {"mode": "open", "rate": load.rate, "arrivals": load.arrivals}
    return {"mode": "closed", "concurrency": load.concurrency, "arrivals": None}


def _throughput(run: Run, answered: Sequence[Sample]) -> float:
    """Offline's pictures are all that there are: a second of the time until the last of them was answered."""
    if isinstance(run.load, Offline):
        return len(answered) / max((sample.done_s for sample in answered), default=1.0)
    return (run.carried + sum(sample.done_s <= run.duration_s for sample in answered)) / run.duration_s


def _stability(run: Run, answered: Sequence[Sample]) -> dict[str, Any]:
    """Offline's latency rises by its definition; there it counts from when a picture could be sent."""
    started = "due_s" if isinstance(run.load, Offline) else "intended_s"
    started_s, done_s = _column(answered, started), _column(answered, "done_s")
    return stability(started_s, done_s, (done_s - started_s) * 1e3, run.duration_s)


def _column(samples: Sequence[Sample], name: str) -> Values:
    return np.array([getattr(sample, name) for sample in samples], float)


def _latency(ascending_ms: Values) -> dict[str, float | None]:
    some = len(ascending_ms) > 0
    return {
        "mean": round(float(ascending_ms.mean()), 3) if some else None,
        **_percentiles(ascending_ms, 50, 90, 95, 99),
        "max": round(float(ascending_ms[-1]), 3) if some else None,
    }


def _percentiles(ascending_ms: Values, *ranks: int) -> dict[str, float | None]:
    some = len(ascending_ms) > 0
    return {f"p{rank}": round(percentile(ascending_ms, rank / 100), 3) if some else None for rank in ranks}


def _quantiles(ascending_ms: Values) -> list[list[float]]:
    """[percent, ms], so that two reports can be drawn over each other; none that so few answers cannot tell."""
    told = [percent for percent in QUANTILES if percent <= 100 - 100 / max(1, len(ascending_ms))]
    return [[percent, round(percentile(ascending_ms, percent / 100), 3)] for percent in told if len(ascending_ms)]


def _mean(samples: Sequence[Sample], name: str) -> float | None:
    values = [sample.server_ms[name] for sample in samples if name in sample.server_ms]
    return round(float(np.mean(values)), 3) if values else None
