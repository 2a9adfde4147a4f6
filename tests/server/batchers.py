"""Batchers whose engines are plain functions on strings, without a supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence

from server.batching import Batcher, Priority, QueueLimits
from server.scheduling.runner import Down

Strings = Batcher[str, str, str]


class Engine:
    """Answers in capitals, once `gate` is open; remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.busy = threading.Event()

    def __call__(self, items: list[str]) -> Sequence[str]:
        self.batches.append(items)
        self.busy.set()
        if not self.gate.wait(30):
            raise TimeoutError
        if "poison" in items:
            raise RuntimeError("poisoned")
        return [item.upper() for item in items]


class Threaded:
    """A runner without a supervisor: a function in a thread. It is down once `down` is set."""

    def __init__(self, engine: Callable[[list[str]], Sequence[str]]) -> None:
        self.engine = engine
        self.delay_s = 0.0
        self.up = asyncio.Event()
        self.up.set()
        self.down = ""

    async def ready(self) -> None:
        await self.up.wait()
        if self.down:
            raise Down(self.down)

    async def run(self, items: Sequence[str]) -> Sequence[str]:
        return await asyncio.to_thread(self.engine, list(items))


@contextlib.asynccontextmanager
async def batching(
    *engines: Callable[[list[str]], Sequence[str]] | Threaded, **limits: float
) -> AsyncIterator[Strings]:
    runners = [engine if isinstance(engine, Threaded) else Threaded(engine) for engine in engines]
    batcher = Strings(runners, QueueLimits(**limits))  # type: ignore[arg-type]
    batcher.start()
    try:
        yield batcher
    finally:
        await batcher.close()


async def run(
    batcher: Strings,
    item: str,
    key: str = "",
    deadline_s: float | None = None,
    priority: Priority = Priority.NORMAL,
) -> str:
    deadline = None if deadline_s is None else time.monotonic() + deadline_s
    with batcher.reserve(1, 1, deadline, priority) as room:
        return (await room.submit(key, item)).result


async def started(engine: Engine) -> None:
    """Until the engine runs its first batch."""
    await asyncio.to_thread(engine.busy.wait, 30)


async def queued(batcher: Strings, count: int) -> None:
    while batcher.waiting != count:
        await asyncio.sleep(0)


def sleeping(seconds: float) -> Callable[[list[str]], list[str]]:
    def engine(items: list[str]) -> list[str]:
        time.sleep(seconds * len(items))
        return items

    return engine
