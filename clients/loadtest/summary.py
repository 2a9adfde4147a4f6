"""One run's samples -> the figures of `report.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clients.loadtest.generator import Sample
from clients.loadtest.load import ClosedLoop, Load

SERVER_STAGES = ("decode", "queue", "inference", "postprocess")


def summarise(load: Load, samples: Sequence[Sample]) -> dict[str, Any]:
    """The run's entry in `report.json`.

    `latency_ms` is of the answered requests (200), from their intended send time. `throughput` is answers that came
    inside the window of `duration_s`, a second: what was still under way at its end counts in `ok` and `latency_ms`
    only. `server_ms` are means. A figure of nothing is null.
    """
    answered = [sample for sample in samples if sample.ok]
    refused = sum(sample.refused for sample in samples)
    in_window = sum(sample.done_s <= load.duration_s for sample in answered)
    return {
        **_mode(load),
        "duration_s": load.duration_s,
        "sent": len(samples),
        "ok": len(answered),
        "refused": refused,
        "failed": len(samples) - len(answered) - refused,
        "throughput": round(in_window / load.duration_s, 3),
        "latency_ms": _latency([sample.latency_ms for sample in answered]),
        "generator_lag_ms": _percentiles([sample.lag_ms for sample in samples], 50, 99),
        "server_ms": _server(answered),
    }


def _mode(load: Load) -> dict[str, Any]:
    if isinstance(load, ClosedLoop):
        return {"mode": "closed", "concurrency": load.concurrency, "arrivals": None}
    return {"mode": "open", "rate": load.rate, "arrivals": load.arrivals}


def _latency(values_ms: list[float]) -> dict[str, float | None]:
    return {
        "mean": _rounded(np.mean(values_ms)) if values_ms else None,
        **_percentiles(values_ms, 50, 90, 95, 99),
        "max": _rounded(max(values_ms)) if values_ms else None,
    }


def _percentiles(values_ms: list[float], *ranks: int) -> dict[str, float | None]:
    return {f"p{rank}": _rounded(np.percentile(values_ms, rank)) if values_ms else None for rank in ranks}


def _server(answered: Sequence[Sample]) -> dict[str, float | None]:
    return {stage: _mean([s.server_ms[stage] for s in answered if stage in s.server_ms]) for stage in SERVER_STAGES}


def _mean(values_ms: list[float]) -> float | None:
    return _rounded(np.mean(values_ms)) if values_ms else None


def _rounded(value_ms: float | np.floating[Any]) -> float:
    return round(float(value_ms), 3)
