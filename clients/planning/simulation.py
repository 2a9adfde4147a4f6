"""One replica, event by event, as `server.batching` and its admission work: when an engine is free, the canvas that has
waited longest goes with all that wait for it, up to the largest batch.

The rest of a request (decoding, masks, network) goes before the queue: behind it, it would be the same for the latency.
Who finds nobody in the replica is decoded in the engine's place, as small pictures are, and nobody overtakes it.
Left out: deadlines, the limit on memory, low priority, failing engines.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clients.planning.service import Server, Times

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Simulated:
    """`latencies_s` [n] of the requests in the order of their arrival, NaN for those refused; `busy_s` of all engines
    together; `batches` that ran."""

    arrivals_s: Values
    latencies_s: Values
    busy_s: float
    batches: int

    @property
    def refused(self) -> npt.NDArray[np.bool_]:
        return np.isnan(self.latencies_s)


def simulate(times: Times, server: Server, arrivals_s: Values, rng: np.random.Generator) -> Simulated:
    """Requests at `arrivals_s` [n], rising, at an idle replica."""
    replica = _Replica(times, server, len(arrivals_s), rng)
    for request, now in enumerate(arrivals_s.tolist()):
        replica.run_until(now)
        replica.arrive(request, now)
    replica.run_until(math.inf)
    return Simulated(arrivals_s, replica.done_s - arrivals_s, replica.busy_s, replica.batches)


class _Replica:
    def __init__(self, times: Times, server: Server, requests: int, rng: np.random.Generator) -> None:
        self.done_s = np.full(requests, np.nan)
        self.busy_s = 0.0
        self.batches = 0
        self._server = server
        count, values = times.rest_s.shape
        canvases = rng.choice(count, requests, p=times.shares)
        self._canvas = canvases.tolist()
        self._rest_s = times.rest_s[canvases, rng.integers(values, size=requests)].tolist()
        self._batch_s = times.batch_s.tolist()
        self._mean_s = times.batch_s.mean(2).tolist()
        self._usual_s = (times.shares @ times.batch_s.mean(2)).tolist()
        self._draws = rng.integers(times.batch_s.shape[2], size=requests).tolist()
        self._queues: list[deque[tuple[float, int]]] = [deque() for _ in range(count)]
        self._events: list[tuple[float, int, int]] = []
        """(when, request that joins the queue or -1, requests that leave an engine)."""
        self._free = server.engines
        self._inside = 0

    def arrive(self, request: int, now: float) -> None:
        """It is admitted, or stays without an end."""
        if self._inside and (self._inside >= self._server.max_queue_size or self._is_late(now)):
            return
        self._inside += 1
        if self._inside == 1 and not self._server.max_queue_delay_s:
            self._run([request], self._canvas[request], now, self._rest_s[request])
            return
        heapq.heappush(self._events, (now + self._rest_s[request], request, 0))

    def run_until(self, end: float) -> None:
        while self._events and self._events[0][0] <= end:
            now, request, left = heapq.heappop(self._events)
            if request >= 0:
                self._queues[self._canvas[request]].append((now, request))
            elif left:
                self._free += 1
                self._inside -= left
            self._start(now)

    def _start(self, now: float) -> None:
        """Runs batches while an engine is free."""
        limit = self._server.max_batch_size
        while self._free:
            heads = [(queue[0][0], canvas) for canvas, queue in enumerate(self._queues) if queue]
            if not heads:
                return
            oldest, canvas = min(heads)
            queue = self._queues[canvas]
            ripe = oldest + self._server.max_queue_delay_s
            if ripe > now and len(queue) < limit:
                heapq.heappush(self._events, (ripe, -1, 0))
                return
            self._run([queue.popleft()[1] for _ in range(min(len(queue), limit))], canvas, now)

    def _run(self, batch: list[int], canvas: int, now: float, before_s: float = 0.0) -> None:
        seconds = self._batch_s[canvas][len(batch) - 1][self._draws[batch[0]]]
        self._free -= 1
        self.busy_s += seconds
        self.batches += 1
        end = now + before_s + seconds
        self.done_s[batch] = end
        heapq.heappush(self._events, (end, -1, len(batch)))

    def _is_late(self, now: float) -> bool:
        """As the server predicts it: the time until an engine is free and what is before it in full batches."""
        if self._inside * max(mean_s[0] for mean_s in self._mean_s) <= self._server.max_queue_wait_s:
            return False
        ends = [when for when, request, left in self._events if request < 0 and left]
        free_s = 0.0 if self._free else min(ends) - now
        queued = [(len(queue), mean_s) for queue, mean_s in zip(self._queues, self._mean_s, strict=True)]
        coming = sum(request >= 0 for _, request, _ in self._events)
        work_s = sum(_work_s(items, mean_s) for items, mean_s in [*queued, (coming, self._usual_s)])
        return free_s + work_s / self._server.engines > self._server.max_queue_wait_s


def _work_s(items: int, mean_s: list[float]) -> float:
    """In as few batches as may be; `mean_s` of 1 to the largest."""
    full, rest = divmod(items, len(mean_s))
    return full * mean_s[-1] + (mean_s[rest - 1] if rest else 0.0)
