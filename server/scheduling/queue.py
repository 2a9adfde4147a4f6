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


@dataclass(eq=False)
class Entry(Generic[Key, Item, Answer]):
    """An item, and the future of who waits for its answer. Times are those of `time.monotonic`."""

    key: Key
    item: Item
    priority: Priority
    deadline: float | None
    arrived: float
    future: asyncio.Future[Answer]

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # marks it as seen: its waiter may be gone by now


class KeyedQueue(Generic[Key, Item, Answer]):
    """Batches of one key. Whatever is of low priority waits while anything of normal priority does."""

    def __init__(self) -> None:
        self._queues: dict[tuple[Priority, Key], deque[Entry[Key, Item, Answer]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[Entry[Key, Item, Answer]]:
        for queue in self._queues.values():
            yield from queue

    def push(self, entry: Entry[Key, Item, Answer]) -> None:
        self._queues.setdefault((entry.priority, entry.key), deque()).append(entry)

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
        for (own, key), queue in self._queues.items():
            if own <= priority:
                yield key, len(queue)

    def first(self) -> tuple[Entry[Key, Item, Answer], int] | None:
        """The entry whose turn it is, and how many could go with it."""
        if not self._queues:
            return None
        priority, key = min(self._queues, key=lambda place: (place[0], self._queues[place][0].arrived))
        together = sum(len(self._queues.get((each, key), ())) for each in Priority)
        return self._queues[priority, key][0], together

    def take(self, key: Key, count: int) -> list[Entry[Key, Item, Answer]]:
        """Removes up to so many entries of the key: those of normal priority, then others in the places left."""
        batch: list[Entry[Key, Item, Answer]] = []
        for priority in Priority:
            queue = self._queues.get((priority, key), deque())
            while queue and len(batch) < count:
                batch.append(queue.popleft())
            if not queue:
                self._queues.pop((priority, key), None)
        return batch

    def clear(self) -> list[Entry[Key, Item, Answer]]:
        """Removes all."""
        entries = list(self)
        self._queues.clear()
        return entries
