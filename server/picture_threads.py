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
"""Share of the newest picture in the mean seconds of decoding."""


class PictureThreads:
    """`read` and `write` give a function's result and the seconds it took; an answer never waits for a picture."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._readers = ThreadPoolExecutor(threads, "read")
        self._writers = ThreadPoolExecutor(threads, "write")
        self._reading = 0
        self._read_s = 0.0

    @property
    def backlog_s(self) -> float:
        """Expected seconds until a picture that comes now is read."""
        return self._reading * self._read_s / self._threads

    async def read(self, function: Callable[[*Ts], T], *arguments: *Ts) -> tuple[T, float]:
        self._reading += 1
        try:
            result, seconds = await _timed_in(self._readers, function, *arguments)
        finally:
            self._reading -= 1
        self._read_s += (NEWEST_WEIGHT if self._read_s else 1.0) * (seconds - self._read_s)
        return result, seconds

    async def write(self, function: Callable[[*Ts], T], *arguments: *Ts) -> tuple[T, float]:
        return await _timed_in(self._writers, function, *arguments)

    def close(self) -> None:
        """Takes no more; what runs ends by itself."""
        for threads in (self._readers, self._writers):
            threads.shutdown(wait=False)


async def _timed_in(threads: ThreadPoolExecutor, function: Callable[[*Ts], T], *arguments: *Ts) -> tuple[T, float]:
    def timed() -> tuple[T, float]:
        started = time.monotonic()
        return function(*arguments), time.monotonic() - started

    return await asyncio.get_running_loop().run_in_executor(threads, timed)
