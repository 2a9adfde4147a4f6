"""A thread for calls that may never return."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Returned = tuple[Any, Exception | None]


class Hung(Exception):  # noqa: N818 - what the call did
    """A call has not returned in time."""


class WorkerThread:
    """Makes calls one after another, for one event loop.

    A daemon, unlike an executor's threads: one that hangs does not keep the process from ending.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=_serve, args=(self._calls,), name="engine", daemon=True).start()

    async def call(self, function: Callable[[*Ts], T], *arguments: *Ts, timeout_s: float) -> T:
        """The function's result. Raises what it raises, and `Hung` when it takes longer; nobody learns of its end
        then."""
        returned = self._put(function, *arguments)
        try:
            async with asyncio.timeout(timeout_s):
                result, error = await returned
        except TimeoutError:
            raise Hung(f"The call has not returned within {timeout_s:g} s.") from None
        if error:
            raise error
        return result  # type: ignore[no-any-return]

    def finish(self, last: Callable[[], object]) -> asyncio.Future[Returned]:
        """Makes one more call, and then ends the thread; both when the call that runs returns, if it does."""
        returned = self._put(last)
        self._calls.put(None)
        return returned

    def _put(self, function: Callable[[*Ts], object], *arguments: *Ts) -> asyncio.Future[Returned]:
        loop = asyncio.get_running_loop()
        returned: asyncio.Future[Returned] = loop.create_future()

        def call() -> None:
            outcome = _outcome(function, arguments)
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(_resolve, returned, outcome)

        self._calls.put(call)
        return returned


def _serve(calls: SimpleQueue[Callable[[], None] | None]) -> None:
    while call := calls.get():
        call()
        del call  # and with it what the function holds


def _outcome(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Returned:
    """Errors travel as values: a future and the event loop refuse some of them."""
    try:
        return function(*arguments), None
    except BaseException as error:  # noqa: BLE001 - it is for whoever waits
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            return None, error
        return None, RuntimeError(f"{type(error).__name__}: {error}")


def _resolve(returned: asyncio.Future[Returned], outcome: Returned) -> None:
    if not returned.done():
        returned.set_result(outcome)
