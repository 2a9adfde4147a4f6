"""Who may wait: bounds in number, in size and in time, refused before any work is done."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Literal, get_args

from server.scheduling.queue import Priority

Refusal = Literal["items", "memory", "wait", "deadline", "engine"]
"""What there is not enough of, or not soon enough."""

REFUSALS: tuple[Refusal, ...] = get_args(Refusal)


class BatchingError(Exception):
    """Base of what the batcher refuses or gives up; `server.batching` has the tree."""


class QueueFull(BatchingError):  # noqa: N818 - a state of the queue, as the field names it
    def __init__(self, kind: Refusal, reason: str, retry_after_s: float) -> None:
        self.kind = kind
        self.retry_after_s = max(1, math.ceil(retry_after_s))
        super().__init__(f"{reason} Try again in {self.retry_after_s} s.")


class NotRunning(QueueFull):
    pass


@dataclass(frozen=True)
class QueueLimits:
    """`max_cost` is in the caller's unit (bytes here); items and cost count from reservation to release."""

    max_batch_size: int = 8
    max_delay_s: float = 0.0
    max_items: int = 1024
    max_cost: int = 2 << 30
    max_wait_s: float = 15.0


@dataclass(frozen=True)
class Forecast:
    """What a request would meet: seconds until an engine is up, until its turn (from now), and in the engine."""

    delay_s: float
    wait_s: float
    run_s: float


class Admission:
    """Counts what is admitted, from reservation to release, and which of it has not been submitted yet."""

    def __init__(self, limits: QueueLimits) -> None:
        self.idle = asyncio.Event()
        self.idle.set()
        self.items = 0
        self._cost = 0
        self._coming = dict.fromkeys(Priority, 0)
        self._limits = limits

    def coming(self, priority: Priority) -> int:
        """Items not submitted yet that are to go before a new one of that priority."""
        return sum(count for own, count in self._coming.items() if own <= priority)

    def occupy(self, items: int, cost: int) -> None:
        """Room taken, or given back where negative."""
        self.items += items
        self._cost += cost
        (self.idle.clear if self.items else self.idle.set)()

    def expect(self, items: int, priority: Priority) -> None:
        """Items that will be submitted, or no longer will where negative."""
        self._coming[priority] += items

    def check_room(self, items: int, cost: int, forecast: Forecast) -> None:
        """Raises `QueueFull`. Where nothing is, anything has room."""
        if not self.items:
            return
        if self.items + items > self._limits.max_items:
            raise QueueFull("items", f"The queue is full: {self.items} pictures are waiting.", forecast.run_s)
        if self._cost + cost > self._limits.max_cost:
            raise QueueFull("memory", "The queue is full: the waiting pictures fill its memory.", forecast.run_s)

    def check_time(self, until_deadline_s: float, forecast: Forecast) -> None:
        """Raises `QueueFull` or `NotRunning` for what would be late. Where nothing is, only an engine can be waited
        for."""
        latest_s = min(until_deadline_s - forecast.run_s, self._limits.max_wait_s)
        late_s = forecast.wait_s - max(latest_s, 0.0)
        if late_s <= 0 or not (self.items or forecast.delay_s):
            return
        if forecast.delay_s:
            raise NotRunning("engine", "The engine is being started anew.", late_s)
        if latest_s < self._limits.max_wait_s:
            answer_s = forecast.wait_s + forecast.run_s
            raise QueueFull("deadline", f"The answer would take {answer_s:.1f} s, and the deadline is sooner.", late_s)
        raise QueueFull("wait", f"The wait would be {forecast.wait_s:.0f} s.", late_s)
