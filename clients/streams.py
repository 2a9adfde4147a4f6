"""Work on a stream of items, several at a time, with the results in the items' order and few of them in memory."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], parallel: int, stopped: threading.Event
) -> Generator[tuple[Item, Result], None, None]:
    """Each item with its result, `parallel` at work and at most as many finished ones waiting behind a slow one.

    When the caller stops early, `stopped` is set, and what is at work is waited for.
    """
    _check(parallel)
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(parallel) as threads:
        try:
            for item in items:
                waiting.append((item, threads.submit(work, item)))
                while waiting and (waiting[0][1].done() or len(waiting) >= 2 * parallel):
                    first, result = waiting.popleft()
                    yield first, result.result()
            for first, result in waiting:
                yield first, result.result()
        finally:
            stopped.set()
            threads.shutdown(wait=False, cancel_futures=True)


async def in_order_async(
    work: Callable[[Item], Awaitable[Result]], items: Iterable[Item], parallel: int
) -> AsyncGenerator[tuple[Item, Result], None]:
    """The same; when the caller stops early, what is at work is cancelled."""
    _check(parallel)
    free = asyncio.Semaphore(parallel)

    async def one(item: Item) -> Result:
        async with free:
            return await work(item)

    waiting: deque[tuple[Item, asyncio.Task[Result]]] = deque()
    try:
        for item in items:
            waiting.append((item, asyncio.create_task(one(item))))
            if len(waiting) >= 2 * parallel:
                yield waiting[0][0], await waiting[0][1]
                waiting.popleft()
        while waiting:
            yield waiting[0][0], await waiting[0][1]
            waiting.popleft()
    finally:
        for _, task in waiting:
            task.cancel()
        await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)


def _check(parallel: int) -> None:
    if parallel < 1:
        raise ValueError(f"parallel must be at least 1, not {parallel}.")
