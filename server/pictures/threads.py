"""Threads that decode pictures, and others that write answers, shared by all models of a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NEWEST_WEIGHT = 0.1
"""Share of the newest call in the mean seconds of a call."""


class PictureThreads:
    """`read` and `write` run a function in a thread; what is written never waits for what is to be read."""

    def __init__(self, threads: int) -> None:
        self.read = TimedThreads(threads, "read")
        self.write = TimedThreads(threads, "write")

    @property
    def backlog_s(self) -> float:
        """Expected seconds until all that waits has been done: both kinds share the same CPUs."""
        return self.read.backlog_s + self.write.backlog_s

    def close(self) -> None:
        """Takes no more; what runs ends by itself."""
        self.read.close()
        self.write.close()


class TimedThreads:
    """Threads that know how long their calls take."""

    def __init__(self, threads: int, name: str) -> None:
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads, name)
        self._calls = 0
        self._mean_s = 0.0

    @property
    def backlog_s(self) -> float:
        return self._calls * self._mean_s / self._threads

    async def __call__(self, function: Callable[[*Ts], T], *arguments: *Ts) -> tuple[T, float]:
        """The function's result, and the seconds that it took."""

        def timed() -> tuple[T, float]:
            started = time.monotonic()
            return function(*arguments), time.monotonic() - started

        self._calls += 1
        try:
            result, seconds = await asyncio.get_running_loop().run_in_executor(self._executor, timed)
        finally:
            self._calls -= 1
        self._mean_s += (NEWEST_WEIGHT if self._mean_s else 1.0) * (seconds - self._mean_s)
        return result, seconds

    def close(self) -> None:
        self._executor.shutdown(wait=False)
