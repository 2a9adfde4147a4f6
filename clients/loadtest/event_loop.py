"""An asyncio loop whose timers are exact and that is not held up, so that requests leave when they should."""

from __future__ import annotations

import asyncio
import gc
import select
import selectors
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` with timers good to about 0.1 ms where epoll would round them up to whole milliseconds."""
    with _short_collections(), asyncio.Runner(loop_factory=_exact_loop if sys.platform == "linux" else None) as runner:
        return runner.run(main)


@contextmanager
def _short_collections() -> Iterator[None]:
    """The garbage collector looks at nothing that was there before: that would stop the loop for over 10 ms."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


if sys.platform == "linux":

    class _ExactSelector(selectors.EpollSelector):
        """Waits with select on epoll's own descriptor: that takes microseconds, epoll takes milliseconds."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            if timeout is not None and timeout > 0:
                select.select([self.fileno()], [], [], timeout)
                timeout = 0
            return super().select(timeout)

    def _exact_loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(_ExactSelector())
