"""What waits for an engine: entries by key, and of two priorities."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Priority(IntEnum):
    """The smaller goes first."""

    NORMAL = 0
    LOW = 1


PRIORITIES = tuple(Priority)
"""In their order; a tuple is walked several times as fast as the enumeration."""


@dataclass(eq=False)
class Entry(Generic[Key, Item, Answer]):
    """An item, and the future of who waits for its answer. Times are those of `time.monotonic`."""

    key: Key
    item: Item
    priority: Priority
    deadline: float | None
    arrived: float
    future: asyncio.Future[Answer]
    failed_on: int | None = None
    """The runner that it failed on last, in a batch or by itself. It runs by itself from then on."""
    barred: bool = False
    """Whether it failed by itself there, and is for another runner now."""

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # marks it as seen: its waiter may be gone by now


class KeyedQueue(Generic[Key, Item, Answer]):
    """Batches of one key. Whatever is of low priority waits while anything of normal priority does, and what has
    failed shares its batch with nothing."""

    def __init__(self) -> None:
        self._queues: dict[_Place[Key, Item, Answer], deque[Entry[Key, Item, Answer]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[Entry[Key, Item, Answer]]:
        for queue in self._queues.values():
            yield from queue

    def push(self, entry: Entry[Key, Item, Answer]) -> None:
        key, only = _kind(entry)
        self._queues.setdefault((entry.priority, key, only), deque()).append(entry)

    def keep(self, is_wanted: Callable[[Entry[Key, Item, Answer]], bool]) -> None:
        """Drops all others."""
        for place, queue in list(self._queues.items()):
            kept = deque(entry for entry in queue if is_wanted(entry))
            if kept:
                self._queues[place] = kept
            else:
                del self._queues[place]

    def counts(self, priority: Priority) -> Iterator[tuple[Key, int]]:
        """Keys, and how many of their entries go before a new one of that priority."""
        for (own, key, _), queue in self._queues.items():
            if own <= priority:
                yield key, len(queue)

    def first(self, may_run: Callable[[Entry[Key, Item, Answer]], bool]) -> tuple[Entry[Key, Item, Answer], int] | None:
        """The entry whose turn it is among those that may run, and how many could go together, itself included."""
        heads = [queue[0] for queue in self._queues.values() if may_run(queue[0])]
        if not heads:
            return None
        first = min(heads, key=lambda entry: (entry.priority, entry.arrived))
        key, only = _kind(first)
        return first, sum(len(self._queues.get((priority, key, only), ())) for priority in PRIORITIES)

    def take(self, first: Entry[Key, Item, Answer], count: int) -> list[Entry[Key, Item, Answer]]:
        """Removes up to so many entries that go with `first`: those of normal priority, then others in the places
        left."""
        batch: list[Entry[Key, Item, Answer]] = []
        key, only = _kind(first)
        for priority in PRIORITIES:
            place = (priority, key, only)
            queue = self._queues.get(place, deque())
            while queue and len(batch) < count:
                batch.append(queue.popleft())
            if not queue:
                self._queues.pop(place, None)
        return batch

    def clear(self) -> list[Entry[Key, Item, Answer]]:
        """Removes all."""
        entries = list(self)
        self._queues.clear()
        return entries


_Place = tuple[Priority, Key, Entry[Key, Item, Answer] | None]


def _kind(entry: Entry[Key, Item, Answer]) -> tuple[Key, Entry[Key, Item, Answer] | None]:
    """Equal for those that may share a batch."""
    return entry.key, None if entry.failed_on is None else entry
