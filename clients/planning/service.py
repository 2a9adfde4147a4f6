"""What a load test tells of one replica: how long its batches and the rest of a request take, and how it forms batches.

K canvases, B sizes of a batch, Q equally likely values of a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

QUANTILES = 100
FEW = 20
"""Requests. Of fewer a batch size counts as not measured."""

Values = npt.NDArray[np.float64]
_MIDDLES = (np.arange(QUANTILES) + 0.5) / QUANTILES


class NotEnoughError(Exception):
    """The report lacks what a plan needs; the message is for the person at the command line."""


@dataclass(frozen=True)
class Server:
    """One replica: how it forms batches and whom it refuses, as the server's settings of the same names."""

    engines: int = 1
    max_batch_size: int = 8
    max_queue_delay_s: float = 0.0
    max_queue_size: int = 1024
    max_queue_wait_s: float = 15.0

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Server:
        """Raises `NotEnoughError`."""
        told = report.get("server")
        if not told:
            raise NotEnoughError("It has no `server`: load one model of one server whose /metrics can be read.")
        try:
            return cls(
                engines=max(1, int(told["engines"])),  # none is up while the only one is made anew
                max_batch_size=int(told["max_batch_size"]),
                max_queue_delay_s=float(told["max_queue_delay_s"]),
                max_queue_size=int(told["max_queue_size"]),
                max_queue_wait_s=float(told["max_queue_wait_s"]),
            )
        except KeyError as error:
            raise NotEnoughError(f"Its `server` has no {error.args[0]}.") from error


@dataclass(frozen=True)
class Times:
    """Seconds at one load: `shares` [K] of the requests, `rest_s` [K, Q] beside queue and engine, `batch_s` [K, B, Q]
    of a batch of 1 to B."""

    shares: Values
    rest_s: Values
    batch_s: Values


@dataclass(frozen=True)
class Measured:
    """A time at several loads: `loads` [R] rising, in requests a second; `values_s` [R, Q]."""

    loads: Values
    values_s: Values

    def at(self, load: float) -> Values:
        """[Q] between the two loads next to it; beyond the last, as there."""
        upper = int(np.clip(np.searchsorted(self.loads, load), 0, len(self.loads) - 1))
        lower = max(upper - 1, 0)
        share = np.interp(load, self.loads[[lower, upper]], [0.0, 1.0]) if upper > lower else 1.0
        return np.asarray((1 - share) * self.values_s[lower] + share * self.values_s[upper])


@dataclass(frozen=True)
class Canvas:
    """Of one canvas; `batches` by size."""

    requests: int
    rest: Measured
    batches: Mapping[int, Measured]


@dataclass(frozen=True)
class Service:
    """Of all canvases, up to `highest` requests a second: more was never answered. `largest` is the largest batch whose
    time was measured, on the canvas where that is the smallest."""

    canvases: Sequence[Canvas]
    highest: float

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Service:
        """Raises `NotEnoughError`."""
        rows = sorted((row for row in report["runs"] if row["throughput"]), key=lambda row: float(row["throughput"]))
        if not rows:
            raise NotEnoughError("Nothing was answered in it.")
        rows = [row for row in rows if row.get("service")]
        if not rows:
            raise NotEnoughError("It has no service times: load a Maskline server of this version or a later one.")
        names = sorted({entry["canvas"] for row in rows for entry in row["service"]})
        return cls([_canvas(name, rows) for name in names], float(rows[-1]["throughput"]))

    @property
    def largest(self) -> int:
        return min(max(canvas.batches) for canvas in self.canvases)

    def at(self, load: float, max_batch: int) -> Times:
        """The times of a replica that gets so many requests a second."""
        requests = np.array([canvas.requests for canvas in self.canvases], float)
        rest_s = np.stack([canvas.rest.at(load) for canvas in self.canvases])
        batch_s = np.stack([_every_size(canvas.batches, load, max_batch) for canvas in self.canvases])
        return Times(requests / requests.sum(), rest_s, batch_s)


def _canvas(name: str, rows: Sequence[Mapping[str, Any]]) -> Canvas:
    """`rows` by rising throughput. A size that was rare counts where a canvas has no other."""
    entries = [(float(row["throughput"]), entry) for row in rows for entry in row["service"] if entry["canvas"] == name]
    rest = [(load, entry["rest_ms"]) for load, entry in entries]
    cells = [(load, cell) for load, entry in entries for cell in entry["batches"]]
    commonest = max(cells, key=lambda cell: int(cell[1]["requests"]))[1]["size"]
    frequent = [(load, cell) for load, cell in cells if cell["requests"] >= FEW]
    kept = frequent or [(load, cell) for load, cell in cells if cell["size"] == commonest]
    by_size = {
        size: _measured([(load, cell["inference_ms"]) for load, cell in kept if cell["size"] == size])
        for size in sorted({int(cell["size"]) for _, cell in kept})
    }
    return Canvas(sum(int(entry["requests"]) for _, entry in entries), _measured(rest), by_size)


def _measured(values_ms: Sequence[tuple[float, Sequence[float]]]) -> Measured:
    loads = np.array([load for load, _ in values_ms])
    return Measured(loads, np.stack([np.quantile(values, _MIDDLES) / 1e3 for _, values in values_ms]))


def _every_size(batches: Mapping[int, Measured], load: float, max_batch: int) -> Values:
    """[B, Q]. A size that was not measured has the spread of the one next to it, around a line between the means of
    those that were; larger ones lie on the line through all of them, or cost as much a picture as the only one."""
    known = {size: measured.at(load) for size, measured in batches.items()}
    sizes = np.array(list(known))
    means = np.array([values.mean() for values in known.values()])
    slope = means[0] / sizes[0] if len(sizes) == 1 else max(0.0, float(np.polyfit(sizes, means, 1)[0]))
    every = []
    for size in range(1, max_batch + 1):
        nearest = int(sizes[np.abs(sizes - size).argmin()])
        mean = np.interp(size, sizes, means) + slope * max(0, size - sizes[-1])
        every.append(known[nearest] * (mean / max(known[nearest].mean(), 1e-12)))
    return np.stack(every)
