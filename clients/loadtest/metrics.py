"""What the server's own /metrics say of a run: counters before and after, gauges in between.

Known are the names of Maskline and of Triton. The texts are kept as they come and read after the run: reading them
takes milliseconds, in which requests would leave late.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import aiohttp

STAGES = ("decode", "queue", "inference", "postprocess")
MOST_SCRAPES = 60

_LINE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{.*\})? +(\S+)", re.MULTILINE)
_TRITON_US = {
    "queue": ("nv_inference_queue_duration_us",),
    "inference": ("nv_inference_compute_infer_duration_us",),
}
_DEPTHS = ("maskline_queue_depth", "nv_inference_pending_request_count")
_SERVER = {
    "engines": "engine_up",
    "max_batch_size": "max_batch_size",
    "max_queue_delay_s": "max_queue_delay_seconds",
    "max_queue_size": "max_queue_size",
    "max_queue_wait_s": "max_queue_wait_seconds",
}

Totals = Mapping[str, float]


class Scrapes:
    """Of one run. `texts` holds (seconds on the clock, text)."""

    def __init__(self, url: str, duration_s: float) -> None:
        self.url = url
        self.interval_s = max(1.0, duration_s / MOST_SCRAPES)
        self.texts: list[tuple[float, str]] = []
        self._missing = False

    async def collect(self, session: aiohttp.ClientSession, delay_s: float) -> None:
        """From `delay_s` on until cancelled, or until it is clear that there is nothing."""
        await asyncio.sleep(delay_s)
        while not self._missing:
            await self.take(session)
            await asyncio.sleep(self.interval_s)

    async def take(self, session: aiohttp.ClientSession) -> None:
        if self._missing:
            return
        try:
            async with session.get(self.url) as response:
                text = await response.text()
                self._missing = response.status != 200
        except (aiohttp.ClientError, TimeoutError, UnicodeDecodeError):
            self._missing = True
        if not self._missing:
            self.texts.append((time.perf_counter(), text))

    def summary(self) -> dict[str, Any] | None:
        """`ms`: means by stage; `batch_size`: mean; `queue_depth`: mean and max of the scrapes. None: nothing known."""
        if len(self.texts) < 2:
            return None
        first, last = totals(self.texts[0][1]), totals(self.texts[-1][1])
        grown = {name: value - first.get(name, 0.0) for name, value in last.items()}
        if "maskline_total_seconds_count" in grown:
            return {"source": "maskline", **_maskline(grown), "queue_depth": self._depth()}
        if "nv_inference_count" in grown:
            return {"source": "triton", **_triton(grown), "queue_depth": self._depth()}
        return None

    def server(self) -> dict[str, float] | None:
        """How the server forms batches and whom it refuses, and how long its start took. None: not known, or of several
        models."""
        text = self.texts[-1][1] if self.texts else ""
        if len(re.findall(r"^maskline_max_batch_size\b", text, re.MULTILINE)) != 1:
            return None
        known = totals(text)
        found = {key: known[f"maskline_{name}"] for key, name in _SERVER.items() if f"maskline_{name}" in known}
        if "process_start_time_seconds" in known and known.get("maskline_ready_time_seconds"):
            found["startup_s"] = round(known["maskline_ready_time_seconds"] - known["process_start_time_seconds"], 2)
        return found

    def depths(self) -> list[tuple[float, float]]:
        """(seconds from the first scrape, pictures waiting), where the server tells."""
        read = [(at_s - self.texts[0][0], totals(text)) for at_s, text in self.texts]
        return [(at_s, one[name]) for at_s, one in read for name in _DEPTHS if name in one]

    def _depth(self) -> dict[str, float] | None:
        depths = [depth for _, depth in self.depths()]
        return {"mean": round(sum(depths) / len(depths), 2), "max": max(depths)} if depths else None


def totals(text: str) -> Totals:
    """Prometheus' text format -> the sum over the labels, by name."""
    summed: dict[str, float] = defaultdict(float)
    for name, value in _LINE.findall(text):
        summed[name] += float(value)
    return summed


def _maskline(grown: Totals) -> dict[str, Any]:
    def mean(name: str) -> float | None:
        return _ratio(grown.get(f"maskline_{name}_sum", 0.0), grown.get(f"maskline_{name}_count", 0.0))

    stages = {stage: _milliseconds(mean(f"{stage}_seconds"), 1e3) for stage in STAGES}
    return {"ms": stages, "batch_size": _milliseconds(mean("batch_size"), 1.0)}


def _triton(grown: Totals) -> dict[str, Any]:
    """Durations are summed over requests; a batch is one execution."""
    requests = grown.get("nv_inference_request_success", 0.0)
    stages: dict[str, float | None] = dict.fromkeys(STAGES)
    for stage, names in _TRITON_US.items():
        stages[stage] = _milliseconds(_ratio(sum(grown.get(name, 0.0) for name in names), requests), 1e-3)
    batch = _ratio(grown.get("nv_inference_count", 0.0), grown.get("nv_inference_exec_count", 0.0))
    return {"ms": stages, "batch_size": _milliseconds(batch, 1.0)}


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _milliseconds(value: float | None, factor: float) -> float | None:
    return None if value is None else round(value * factor, 3)
