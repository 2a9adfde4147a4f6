"""Waiting items become batches. Knows neither images nor arrays: keys, items and results are anything.

Work-conserving: when an engine is free, the key that has waited longest goes at once, with every item of that key
up to `max_batch_size`; while the engine runs, the next batch forms. Everything but the engines' own calls happens
on the event loop, so there are no locks.

    BatchingError
    ├── QueueFull         no room, or the wait would be too long; carries `retry_after_s`
    ├── DeadlinePassed    the item's deadline passed before its result was there
    └── Draining          the batcher takes no more work
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")

LATENCY_WEIGHT = 0.2
"""Share of the newest batch in the learned seconds an item takes."""


class BatchingError(Exception):
    """Base of what the batcher refuses or gives up."""


class QueueFull(BatchingError):  # noqa: N818 - a state of the queue, as the field names it
    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(f"{reason} Try again in {max(1, math.ceil(retry_after_s))} s.")
        self.retry_after_s = max(1, math.ceil(retry_after_s))


class DeadlinePassed(BatchingError):  # noqa: N818 - as above
    pass


class Draining(BatchingError):  # noqa: N818 - as above
    pass


@dataclass(frozen=True)
class QueueLimits:
    """`max_cost` is in the caller's unit (bytes here); items and cost count from reservation to release."""

    max_batch_size: int = 8
    max_delay_s: float = 0.0
    max_items: int = 1024
    max_cost: int = 2 << 30
    max_wait_s: float = 45.0


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """An item's result, the size of the batch it ran in, and its seconds in the queue and in the engine."""

    result: Result
    batch_size: int
    queue_s: float
    run_s: float


@dataclass
class BatcherStats:
    """Counters since the start, for metrics."""

    batches: int = 0
    items: int = 0
    failed_batches: int = 0
    dropped_cancelled: int = 0
    dropped_expired: int = 0
    refused: dict[str, int] = field(default_factory=lambda: {"items": 0, "memory": 0, "wait": 0})


@dataclass(eq=False)
class _Entry(Generic[Key, Item, Result]):
    key: Key
    item: Item
    deadline: float | None
    arrived: float
    future: asyncio.Future[Outcome[Result]]


class Reservation(Generic[Key, Item, Result]):
    """Room in the queue for the items of one request, given back on exit."""

    def __init__(self, batcher: Batcher[Key, Item, Result], items: int, cost: int, deadline: float | None) -> None:
        self._batcher = batcher
        self._items = items
        self._cost = cost
        self._deadline = deadline

    async def submit(self, key: Key, item: Item) -> Outcome[Result]:
        """Waits for the item's result. Raises what the engine raised for it, or `DeadlinePassed`."""
        return await self._batcher._enqueue(key, item, self._deadline)

    def __enter__(self) -> Reservation[Key, Item, Result]:
        self._batcher._occupy(self._items, self._cost)
        return self

    def __exit__(self, *_: object) -> None:
        self._batcher._occupy(-self._items, -self._cost)


class Batcher(Generic[Key, Item, Result]):
    """Runs each of `engines` in a thread of its own: `engine(items)` gets items of one key, returns as many results.

    Deadlines are in seconds of `time.monotonic`, as asyncio's loop counts.
    """

    def __init__(self, engines: Sequence[Callable[[list[Item]], Sequence[Result]]], limits: QueueLimits) -> None:
        self.limits = limits
        self.stats = BatcherStats()
        self._engines = engines
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix=f"engine-{i}") for i in range(len(engines))]
        self._queues: dict[Key, deque[_Entry[Key, Item, Result]]] = {}
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: list[asyncio.Task[None]] = []
        self._reserved_items = 0
        self._reserved_cost = 0
        self._seconds_per_item = 0.0
        self._draining = False
        self._closed = False

    def start(self) -> None:
        """Starts the workers on the running event loop."""
        self._tasks = [asyncio.create_task(self._serve(i)) for i in range(len(self._engines))]

    @property
    def waiting(self) -> int:
        """Items in the queue, not yet in an engine."""
        return sum(len(queue) for queue in self._queues.values())

    @property
    def reserved(self) -> int:
        """Items of admitted requests: being prepared, waiting or in an engine."""
        return self._reserved_items

    def predicted_wait_s(self) -> float:
        """How long an item admitted now would wait, from the latency learned so far."""
        return self._reserved_items * self._seconds_per_item / max(1, len(self._engines))

    def reserve(self, items: int, cost: int, deadline: float | None = None) -> Reservation[Key, Item, Result]:
        """Admits a request of `items` items, or raises `QueueFull` or `Draining`. An idle batcher admits anything."""
        if self._draining:
            raise Draining("The model is being unloaded.")
        if self._reserved_items:
            self._refuse_if_full(items, cost)
        return Reservation(self, items, cost, deadline)

    async def drain(self) -> None:
        """Refuses new work and waits until all admitted work is done."""
        self._draining = True
        await self._idle.wait()

    async def close(self) -> None:
        """Stops the workers at once; who still waits gets `Draining`."""
        self._draining = self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for entry in [entry for queue in self._queues.values() for entry in queue]:
            _fail(entry, Draining("The server stopped."))
        self._queues.clear()
        for thread in self._threads:
            thread.shutdown(wait=False)

    def _refuse_if_full(self, items: int, cost: int) -> None:
        wait_s = self.predicted_wait_s()
        reason, told = "", ""
        if self._reserved_items + items > self.limits.max_items:
            reason, told = "items", f"The queue is full: {self._reserved_items} pictures are waiting."
        elif self._reserved_cost + cost > self.limits.max_cost:
            reason, told = "memory", "The queue is full: the waiting pictures fill its memory."
        elif wait_s > self.limits.max_wait_s:
            reason, told = "wait", f"The wait would be {wait_s:.0f} s."
        if reason:
            self.stats.refused[reason] += 1
            raise QueueFull(told, max(wait_s - self.limits.max_wait_s, 0))

    def _occupy(self, items: int, cost: int) -> None:
        self._reserved_items += items
        self._reserved_cost += cost
        (self._idle.clear if self._reserved_items else self._idle.set)()

    async def _enqueue(self, key: Key, item: Item, deadline: float | None) -> Outcome[Result]:
        if self._closed:
            raise Draining("The server stopped.")
        future: asyncio.Future[Outcome[Result]] = asyncio.get_running_loop().create_future()
        entry = _Entry(key, item, deadline, time.monotonic(), future)
        self._queues.setdefault(key, deque()).append(entry)
        self._arrived.set()
        try:
            async with asyncio.timeout_at(deadline):
                return await future
        except TimeoutError:
            raise DeadlinePassed("The deadline passed before the model had an answer.") from None

    async def _serve(self, worker: int) -> None:
        while True:
            await self._run(worker, await self._next_batch())

    async def _next_batch(self) -> list[_Entry[Key, Item, Result]]:
        while True:
            self._drop_abandoned()
            self._arrived.clear()
            if not self._queues:
                await self._arrived.wait()
                continue
            queue = min(self._queues.values(), key=lambda queue: queue[0].arrived)
            hold_s = queue[0].arrived + self.limits.max_delay_s - time.monotonic()
            if hold_s <= 0 or len(queue) >= self.limits.max_batch_size:
                return self._take(queue)
            await self._wait_for_arrival(hold_s)

    async def _wait_for_arrival(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._arrived.wait()

    def _take(self, queue: deque[_Entry[Key, Item, Result]]) -> list[_Entry[Key, Item, Result]]:
        batch = [queue.popleft() for _ in range(min(len(queue), self.limits.max_batch_size))]
        if not queue:
            del self._queues[batch[0].key]
        return batch

    def _drop_abandoned(self) -> None:
        """Nobody computes for a client that has gone or for an answer that would be late."""
        now = time.monotonic()
        for key, queue in list(self._queues.items()):
            alive = deque(entry for entry in queue if self._is_wanted(entry, now))
            if alive:
                self._queues[key] = alive
            else:
                del self._queues[key]

    def _is_wanted(self, entry: _Entry[Key, Item, Result], now: float) -> bool:
        if entry.deadline is not None and entry.deadline <= now:
            self.stats.dropped_expired += 1
            _fail(entry, DeadlinePassed("The deadline passed in the queue."))
            return False
        if entry.future.done():
            self.stats.dropped_cancelled += 1
            return False
        return True

    async def _run(self, worker: int, batch: list[_Entry[Key, Item, Result]]) -> None:
        """Every entry gets its result or an exception; one that fails alone fails only itself."""
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        try:
            items = [entry.item for entry in batch]
            results = await loop.run_in_executor(self._threads[worker], self._engines[worker], items)
            if len(results) != len(batch):
                raise AssertionError(f"{len(results)} results for {len(batch)} items. This is a bug.")
        except Exception as error:  # noqa: BLE001 - whatever the engine raised belongs to those who wait
            await self._run_again(worker, batch, error)
            return
        except asyncio.CancelledError:
            for entry in batch:
                _fail(entry, Draining("The server stopped."))
            raise
        run_s = time.monotonic() - started
        self._learn(run_s, len(batch))
        for entry, result in zip(batch, results, strict=True):
            if not entry.future.done():
                entry.future.set_result(Outcome(result, len(batch), started - entry.arrived, run_s))

    async def _run_again(self, worker: int, batch: list[_Entry[Key, Item, Result]], error: Exception) -> None:
        self.stats.failed_batches += 1
        if len(batch) == 1:
            _fail(batch[0], error)
            return
        now = time.monotonic()
        for entry in batch:
            if self._is_wanted(entry, now):
                await self._run(worker, [entry])

    def _learn(self, run_s: float, items: int) -> None:
        self.stats.batches += 1
        self.stats.items += items
        weight = LATENCY_WEIGHT if self._seconds_per_item else 1.0
        self._seconds_per_item += weight * (run_s / items - self._seconds_per_item)


def _fail(entry: _Entry[Key, Item, Result], error: Exception) -> None:
    if not entry.future.done():
        entry.future.set_exception(error)
        entry.future.exception()  # marks it as seen: its waiter may be gone by now
