"""Waiting items become batches. Knows neither images nor arrays: keys, items and results are anything.

Work-conserving: when a runner is free, the key that has waited longest goes at once, with every item of that key
up to `max_batch_size`; while it runs, the next batch forms. Of several runners that are free, the fastest goes. Items
of low priority take the places that normal ones leave. Everything but the runners' own work happens on the event loop,
so there are no locks.

    BatchingError
    ├── QueueFull         no room, or the answer would be late; carries `retry_after_s`
    │    └── NotRunning   as long as the engine is being started anew
    ├── DeadlinePassed    the item's deadline passed before its result was there
    └── Draining          the batcher takes no more work
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from server.scheduling.admission import Admission, BatchingError, Forecast, NotRunning, QueueFull, QueueLimits
from server.scheduling.pool import RunnerPool
from server.scheduling.queue import Entry, KeyedQueue, Priority
from server.scheduling.runner import Down, Runner, Unanswered
from server.scheduling.stats import BatcherStats

__all__ = [
    "Batcher",
    "BatcherStats",
    "BatchingError",
    "DeadlinePassed",
    "Draining",
    "NotRunning",
    "Outcome",
    "Priority",
    "QueueFull",
    "QueueLimits",
    "Reservation",
]

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


class DeadlinePassed(BatchingError):  # noqa: N818 - what happened, as the field names it
    pass


class Draining(BatchingError):  # noqa: N818 - as above
    pass


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """An item's result, the size of the batch it ran in, and its seconds in the queue and in the engine."""

    result: Result
    batch_size: int
    queue_s: float
    run_s: float


class Reservation(Generic[Key, Item, Result]):
    """Room in the queue for the items of one request, given back on exit."""

    def __init__(
        self, batcher: Batcher[Key, Item, Result], items: int, cost: int, deadline: float | None, priority: Priority
    ) -> None:
        self.deadline = deadline
        self.priority = priority
        self._batcher = batcher
        self._items = items
        self._cost = cost
        self._coming = items

    async def submit(self, key: Key, item: Item) -> Outcome[Result]:
        """Waits for the item's result. Raises what the engine raised for it, `Unanswered`, `Down`, `DeadlinePassed` or
        `Draining`."""
        self._expect(-min(self._coming, 1))
        return await self._batcher._enqueue(key, item, self)

    def take_back(self) -> None:
        """An item that has been submitted is to be submitted once more."""
        self._expect(1)

    def __enter__(self) -> Reservation[Key, Item, Result]:
        self._batcher._admission.occupy(self._items, self._cost)
        self._batcher._admission.expect(self._items, self.priority)
        return self

    def __exit__(self, *_: object) -> None:
        self._expect(-self._coming)
        self._batcher._admission.occupy(-self._items, -self._cost)

    def _expect(self, items: int) -> None:
        self._coming += items
        self._batcher._admission.expect(items, self.priority)


class Batcher(Generic[Key, Item, Result]):
    """Shares the work among `runners`. Deadlines are in seconds of `time.monotonic`, as asyncio's loop counts."""

    def __init__(
        self, runners: Sequence[Runner[Item, Result]], limits: QueueLimits, stats: BatcherStats | None = None
    ) -> None:
        self.limits = limits
        self.stats = stats or BatcherStats.of(len(runners))
        self._runners = runners
        self._pool = RunnerPool[Key](runners, limits.max_batch_size)
        self._admission = Admission(limits)
        self._queue = KeyedQueue[Key, Item, Outcome[Result]]()
        self._arrived = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._refusal: BatchingError | Down | None = None
        """Why nothing is admitted any more."""
        self._closed = False

    def start(self) -> None:
        """Starts the workers on the running event loop."""
        if not self._closed:
            self._tasks = [asyncio.create_task(self._serve(i)) for i in range(len(self._runners))]

    @property
    def waiting(self) -> int:
        """Items in the queue, not yet in an engine."""
        return len(self._queue)

    @property
    def reserved(self) -> int:
        """Items of admitted requests: being prepared, waiting or in an engine."""
        return self._admission.items

    def predicted_wait_s(self, priority: Priority = Priority.NORMAL) -> float:
        """How long an item admitted now would wait for its turn, by the batches that ran so far."""
        return self._pool.wait_s(list(self._queue.counts(priority)), self._admission.coming(priority))

    def reserve(
        self,
        items: int,
        cost: int,
        deadline: float | None = None,
        priority: Priority = Priority.NORMAL,
        lead_s: float = 0.0,
        in_all: int | None = None,
    ) -> Reservation[Key, Item, Result]:
        """Admits a request of `items` items that will be submitted in no less than `lead_s`; or of more `in_all`, never
        more than `items` at once.

        An idle batcher admits anything where a runner is up. Raises `QueueFull`, `NotRunning`, `Down` or `Draining`.
        """
        self._check_open()
        delay_s = self._pool.delay_s
        if self._admission.items or delay_s:
            until_deadline_s = math.inf if deadline is None else deadline - time.monotonic()
            self._check_admission(
                items, cost, until_deadline_s, self._forecast(in_all or items, priority, lead_s, delay_s)
            )
        return Reservation(self, items, cost, deadline, priority)

    async def drain(self) -> None:
        """Refuses new work and waits until all admitted work is done."""
        self._refusal = self._refusal or Draining("The model is being unloaded.")
        await self._admission.idle.wait()

    async def close(self) -> None:
        """Stops the workers at once; who still waits gets `Draining`."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._give_up(Draining("The server stopped."))

    def _check_admission(self, items: int, cost: int, until_deadline_s: float, forecast: Forecast) -> None:
        try:
            self._admission.check_room(items, cost, forecast)
            self._admission.check_time(until_deadline_s, forecast)
        except QueueFull as error:
            self.stats.refused[error.kind] += 1
            raise

    def _forecast(self, items: int, priority: Priority, lead_s: float, delay_s: float) -> Forecast:
        return Forecast(delay_s, max(lead_s, self.predicted_wait_s(priority)), self._pool.work_s(items))

    def _check_open(self) -> None:
        if self._refusal:
            raise type(self._refusal)(str(self._refusal))

    async def _enqueue(self, key: Key, item: Item, room: Reservation[Key, Item, Result]) -> Outcome[Result]:
        if self._closed or isinstance(self._refusal, Down):
            self._check_open()
        future: asyncio.Future[Outcome[Result]] = asyncio.get_running_loop().create_future()
        self._queue.push(Entry(key, item, room.priority, room.deadline, time.monotonic(), future))
        self._arrived.set()
        try:
            async with asyncio.timeout_at(room.deadline):
                return await future
        except TimeoutError:
            raise DeadlinePassed("The deadline passed before the model had an answer.") from None

    async def _serve(self, runner: int) -> None:
        batch: list[Entry[Key, Item, Outcome[Result]]] = []
        try:
            while True:
                await self._runners[runner].ready()
                batch = await self._next_batch(runner)
                await self._run(runner, batch)
                batch = []
        except Down as error:
            if not self._pool.lose(runner):
                self._give_up(error)
            self._arrived.set()  # what was barred from another may be for that one now
        finally:
            _fail(batch, Draining("The server stopped."))  # those without an answer, if any

    async def _next_batch(self, runner: int) -> list[Entry[Key, Item, Outcome[Result]]]:
        self._pool.free.add(runner)
        try:
            while True:
                self._queue.keep(self._is_wanted)
                self._arrived.clear()
                first = self._queue.first(partial(self._pool.may_run, runner))
                if first is None or not self._pool.is_turn_of(runner, first[0]):
                    await self._arrived.wait()
                    continue
                entry, together = first
                hold_s = entry.arrived + self.limits.max_delay_s - time.monotonic()
                if hold_s <= 0 or together >= self.limits.max_batch_size or entry.failed_on is not None:
                    return self._queue.take(entry, self.limits.max_batch_size)
                with suppress(TimeoutError):
                    async with asyncio.timeout(hold_s):
                        await self._arrived.wait()
        finally:
            self._pool.free.remove(runner)
            if self._pool.free and len(self._queue):
                self._arrived.set()  # those that left the turn to this one look again

    def _is_wanted(self, entry: Entry[Key, Item, Outcome[Result]]) -> bool:
        """Nobody computes for a client that has gone or for an answer that would be late."""
        if entry.deadline is not None and entry.deadline <= time.monotonic():
            self.stats.dropped_expired += 1
            entry.fail(DeadlinePassed("The deadline passed in the queue."))
            return False
        if entry.future.done():
            self.stats.dropped_cancelled += 1
            return False
        return True

    async def _run(self, runner: int, batch: list[Entry[Key, Item, Outcome[Result]]]) -> None:
        """Every entry gets its result, an exception, or its place in the queue again."""
        started = self._pool.begin(runner, batch[0].key, len(batch))
        try:
            results = await self._runners[runner].run([entry.item for entry in batch])
            if len(results) != len(batch):
                raise AssertionError(f"{len(results)} results for {len(batch)} items. This is a bug.")
        except Exception as error:  # noqa: BLE001 - whatever the engine raised belongs to those who wait
            self.stats.runners[runner].failed_batches += 1
            self._try_again(runner, batch, error)
            return
        finally:
            self._pool.end(runner)
        run_s = time.monotonic() - started
        self.stats.ran(runner, len(batch), run_s)
        self._pool.learn(runner, batch[0].key, len(batch), run_s)
        for entry, result in zip(batch, results, strict=True):
            if not entry.future.done():
                entry.future.set_result(Outcome(result, len(batch), started - entry.arrived, run_s))

    def _try_again(self, runner: int, batch: list[Entry[Key, Item, Outcome[Result]]], error: Exception) -> None:
        """Each by itself, so that one that is at fault fails alone; and what has failed by itself once more in another
        runner that is up, so that one that is broken costs nobody an answer. Two runners are enough."""
        alone = len(batch) == 1
        for entry in batch:
            elsewhere = entry.failed_on not in (None, runner)
            entry.failed_on, entry.barred = runner, alone
            if isinstance(error, Unanswered) or (alone and (elsewhere or not self._pool.has_other_up(runner))):
                entry.fail(error)
            else:
                self._queue.push(entry)
        self._arrived.set()

    def _give_up(self, error: BatchingError | Down) -> None:
        self._refusal = error
        _fail(self._queue.clear(), error)


def _fail(entries: Iterable[Entry[Key, Item, Outcome[Result]]], error: Exception) -> None:
    for entry in entries:
        entry.fail(error)
