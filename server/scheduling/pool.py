"""The runners of a batcher: which are left, which are free, how fast each is, and when it is whose turn.

Speeds may differ. Nobody deals the work out: a runner that is free takes the next batch, so that each does its share.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Hashable, Sequence
from typing import Any, Generic, TypeVar

from server.scheduling.latency import LatencyModel, rest_s
from server.scheduling.queue import Entry
from server.scheduling.runner import Runner

Key = TypeVar("Key", bound=Hashable)


class RunnerPool(Generic[Key]):
    """Runners by their index, and what is known of each: its own latency model, and the batch that it runs."""

    def __init__(self, runners: Sequence[Runner[Any, Any]], max_batch: int) -> None:
        self.free: set[int] = set()
        """Those that wait for a batch."""
        self._runners = runners
        self._max_batch = max_batch
        self._left = list(range(len(runners)))
        self._latency = [LatencyModel[Key]() for _ in runners]
        self._running: dict[int, tuple[Key, int, float]] = {}
        """Key, items and start of each runner's batch."""

    @property
    def delay_s(self) -> float:
        """Expected seconds until one of them takes batches; 0: one does."""
        return min(self._runners[i].delay_s for i in self._left)

    def lose(self, runner: int) -> bool:
        """It is down for good. False: it was the last one."""
        if self._left == [runner]:
            return False
        self._left.remove(runner)
        return True

    def has_other_up(self, runner: int) -> bool:
        return any(i != runner and not self._runners[i].delay_s for i in self._left)

    def may_run(self, runner: int, entry: Entry[Key, Any, Any]) -> bool:
        """Not what is barred from it, as long as another is left."""
        return not (entry.barred and entry.failed_on == runner) or self._left == [runner]

    def is_turn_of(self, runner: int, entry: Entry[Key, Any, Any]) -> bool:
        """Whether it goes before the others that are free, as the fastest. One that has run nothing yet goes first, and
        is known then."""
        if entry.barred or len(self.free) == 1:
            return True
        return runner == min(self.free, key=lambda i: (self._latency[i].run_s(entry.key, 1), i))

    def begin(self, runner: int, key: Key, items: int) -> float:
        """It runs a batch from now on. The time."""
        started = time.monotonic()
        self._running[runner] = (key, items, started)
        return started

    def end(self, runner: int) -> None:
        self._running.pop(runner, None)

    def learn(self, runner: int, key: Key, items: int, seconds: float) -> None:
        self._latency[runner].learn(key, items, seconds)

    def wait_s(self, ahead: Collection[tuple[Key, int]], coming: int) -> float:
        """How long an item would wait that came now.

        Args:
            ahead: keys, and items of each that go before it.
            coming: items that do so too, of keys not known yet.
        """
        now = time.monotonic()
        if len(self._left) == 1:
            (only,) = self._left
            return self._free_s(only, now) + self._alone_s(only, ahead, coming)
        free_s = [self._free_s(i, now) for i in self._left]
        work_s = [self._alone_s(i, ahead, coming) for i in self._left]
        batches = sum(math.ceil(items / self._max_batch) for items in (coming, *(items for _, items in ahead)))
        return turn_s(free_s, work_s, batches)

    def work_s(self, items: int) -> float:
        """How long items of a key not known yet would be in those that are up, if there were nothing else."""
        if len(self._left) == 1:
            return self._latency[self._left[0]].any_work_s(items, self._max_batch)
        up = [i for i in self._left if not self._runners[i].delay_s] or self._left
        work_s = [self._latency[i].any_work_s(items, self._max_batch) for i in up]
        batches = math.ceil(items / self._max_batch)
        batch_s = [seconds / batches for seconds in work_s]
        before_last_s = [seconds * (batches - 1) for seconds in batch_s]
        return turn_s([0.0] * len(up), before_last_s, batches - 1) + _mean_s(batch_s)

    def _alone_s(self, runner: int, ahead: Collection[tuple[Key, int]], coming: int) -> float:
        """What all of it would take this runner by itself."""
        model, size = self._latency[runner], self._max_batch
        seconds = model.any_work_s(coming, size)
        for key, items in ahead:
            seconds += model.work_s(key, items, size)
        return seconds

    def _free_s(self, runner: int, now: float) -> float:
        if runner not in self._running:
            return self._runners[runner].delay_s
        key, items, started = self._running[runner]
        return rest_s(self._latency[runner].run_s(key, items), now - started)


def turn_s(free_s: Sequence[float], work_s: Sequence[float], batches: int) -> float:
    """Seconds until the batch is begun that has `batches` others before it.

    Each runner takes its share of these from when it is free, at its own speed, and at that moment all but the one that
    takes it are in the middle of a batch, as a rule.

    Args:
        free_s: until each runner is free.
        work_s: what all of these batches would take each of them; 0: nobody knows, and it counts as the others.
    """
    usual_s = _mean_s(work_s)
    if not batches or not usual_s:
        return min(free_s)
    rate = lost = 0.0
    turn = math.inf
    for sharing, (free, work) in enumerate(sorted(zip(free_s, work_s, strict=True))):
        if free >= turn:
            break
        rate += 1 / (work or usual_s)
        lost += free / (work or usual_s)
        ended = max(0.0, 1 - sharing / 2 / batches)
        turn = max(free, (ended + lost) / rate)
    return turn


def _mean_s(seconds: Sequence[float]) -> float:
    """Of something that each does in so many seconds, by how often each does it; what is 0 is not known."""
    known = [each for each in seconds if each]
    return len(known) / sum(1 / each for each in known) if known else 0.0
