"""Keeps a worker running that may raise, hang or die. Knows neither pictures nor HTTP.

A worker lives in a thread of its own. One that fails several times in a row is closed, one that hangs is left behind
with its thread, and in both cases a new one is made in a new thread, again and again with growing pauses until one
has passed its first batches. What ends the whole process (a crash in native code, the system's memory killer) is for
whoever started the process to notice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from server.scheduling.latency import rest_s
from server.scheduling.runner import Down, Unanswered
from server.scheduling.worker_thread import Hung, WorkerThread

logger = logging.getLogger("server.scheduling.supervision")

Item = TypeVar("Item")
Result = TypeVar("Result")
Made = TypeVar("Made", covariant=True)

State = Literal["warming", "ready", "restarting", "failed"]


class Worker(Protocol[Item, Made]):
    """Called by one thread only. Making one may take long; it is closed once, and dropped then."""

    def first_batches(self) -> Iterable[Sequence[Item]]:
        """What it has to run before it gets real work: first runs are slow, and tell whether it works at all."""
        ...

    def run(self, items: Sequence[Item], /) -> Sequence[Made]: ...

    def close(self) -> None: ...


class Counters(Protocol):
    restarts: int
    hung: int


@dataclass(frozen=True)
class RestartPolicy:
    """`timeout_s` is the longest that a batch may take, `make_timeout_s` the longest that making a worker may.

    The pauses add up to some 20 s before nothing more is tried. The longest is short enough that work goes on within
    5 s once the cause is gone.
    """

    timeout_s: float = 60.0
    make_timeout_s: float = 300.0
    close_timeout_s: float = 5.0
    failures_in_a_row: int = 3
    attempts: int = 8
    first_pause_s: float = 0.2
    longest_pause_s: float = 4.0


class Supervised(Generic[Item, Result]):
    """A `server.scheduling.runner.Runner`: the worker of the moment, and how it is replaced.

    Args:
        worker: the first one.
        make: makes another like it; called in a thread.
        policy: when and how often.
        counters: where restarts and hung batches are counted.
        fatal: errors of a worker after which no other can work in this process.
    """

    def __init__(
        self,
        worker: Worker[Item, Result],
        make: Callable[[], Worker[Item, Result]],
        policy: RestartPolicy,
        counters: Counters,
        fatal: tuple[type[Exception], ...] = (),
    ) -> None:
        self.state: State = "warming"
        self.reason = ""
        """Why it is not ready, as a sentence; empty while it warms up or is ready."""
        self.worker = worker
        self._make = make
        self._policy = policy
        self._counters = counters
        self._fatal = fatal
        self._thread: WorkerThread | None = None
        self._has_worker = True
        self._settled = asyncio.Event()
        """Set while a batch can be run, and for good once none ever will."""
        self._restart: asyncio.Task[None] | None = None
        self._failures = 0
        self._pause_s = policy.first_pause_s
        self._start_s = 0.0
        self._expected: tuple[float, float] = (0.0, 0.0)
        """Start of the attempt that runs, and how long it should take."""

    async def start(self) -> None:
        """Runs the first batches. Raises what they raise, and is `failed` then."""
        self._thread = WorkerThread()
        started = time.monotonic()
        try:
            await self._first_batches(self._thread, self.worker)
        except Exception as error:
            self._fail(f"The engine failed its first run: {_sentence(error)}")
            raise
        self._start_s = time.monotonic() - started
        self._become_ready()

    @property
    def delay_s(self) -> float:
        """Expected seconds until a batch can be run; 0: it can, or nobody knows."""
        if self.state != "restarting":
            return 0.0
        began, expected_s = self._expected
        return rest_s(expected_s, time.monotonic() - began)

    async def ready(self) -> None:
        """Waits until a batch can be run. Raises `Down` when none ever will."""
        await self._settled.wait()
        if self.state == "failed":
            raise Down(self.reason)

    async def run(self, items: Sequence[Item]) -> Sequence[Result]:
        """Raises what the worker raises, and `Unanswered` when it hangs."""
        assert self._thread is not None, "run comes after start"
        try:
            results = await self._thread.call(self.worker.run, items, timeout_s=self._policy.timeout_s)
        except Hung as error:
            self._counters.hung += 1
            sentence = f"The engine did not answer a batch within {self._policy.timeout_s:g} s."
            self._replace(sentence, hung=True)
            raise Unanswered(f"{sentence} It is being started anew.") from error
        except self._fatal as error:
            self._fail(str(error))
            raise
        except Exception as error:
            self._count_failure(len(items), error)
            raise
        self._failures, self._pause_s = 0, self._policy.first_pause_s
        return results

    async def close(self) -> None:
        """Ends the worker; one that hangs is left behind."""
        if self._restart:
            self._restart.cancel()
            await asyncio.gather(self._restart, return_exceptions=True)
        self._fail("The engine is closed.")
        if self._has_worker:
            self._has_worker = False
            await self._retire(self._thread or WorkerThread(), self.worker.close)

    def _count_failure(self, items: int, error: Exception) -> None:
        """Only those that failed alone count: of the items of a batch, one may be at fault."""
        self._failures += items == 1
        if self._failures >= self._policy.failures_in_a_row:
            self._replace(f"The engine failed {self._failures} times in a row: {_sentence(error)}", hung=False)

    def _replace(self, reason: str, *, hung: bool) -> None:
        logger.error("%s It is being started anew.", reason)
        self.state, self.reason = "restarting", f"{reason} It is being started anew."
        self._failures = 0
        self._settled.clear()
        self._counters.restarts += 1
        self._expect(self._pause_s + self._start_s)
        self._restart = asyncio.create_task(self._start_anew(reason, hung))

    async def _start_anew(self, reason: str, hung: bool) -> None:
        assert self._thread is not None, "what is replaced has started"
        self._has_worker = False
        await self._retire(self._thread, self.worker.close, hung)
        for _ in range(self._policy.attempts):
            pause_s = self._next_pause()
            self._expect(pause_s + self._start_s)
            await asyncio.sleep(pause_s)
            try:
                await self._attempt()
            except self._fatal as error:
                self._fail(str(error))
                return
            except Exception as error:  # whatever it is, the next attempt may do better
                reason = _sentence(error)
                logger.exception("the engine cannot be started anew")
            else:
                self._become_ready()
                return
        self._fail(f"The engine could not be started anew, {self._policy.attempts} times: {reason}")

    async def _attempt(self) -> None:
        """A new worker in a new thread, or neither."""
        thread, started = WorkerThread(), time.monotonic()
        made: list[Worker[Item, Result]] = []
        try:
            await thread.call(lambda: made.append(self._make()), timeout_s=self._policy.make_timeout_s)
            await self._first_batches(thread, made[0])
        except BaseException as error:
            hung = isinstance(error, Hung | Unanswered)
            await self._retire(thread, lambda: made[0].close() if made else None, hung)
            raise
        self.worker, self._thread, self._has_worker = made[0], thread, True
        self._start_s = time.monotonic() - started

    async def _first_batches(self, thread: WorkerThread, worker: Worker[Item, Result]) -> None:
        batches = iter(worker.first_batches())
        while batch := await thread.call(lambda: next(batches, None), timeout_s=self._policy.timeout_s):
            try:
                await thread.call(worker.run, batch, timeout_s=self._policy.timeout_s)
            except Hung as error:
                raise Unanswered(f"It did not answer a batch within {self._policy.timeout_s:g} s.") from error
            if self.state == "failed":  # closed while it started
                raise Down(self.reason)

    async def _retire(self, thread: WorkerThread, close: Callable[[], None], hung: bool = False) -> None:
        """Closes a worker in its thread, and waits for that where it does not hang."""
        closed = thread.finish(close)
        await asyncio.wait({closed}, timeout=0 if hung else self._policy.close_timeout_s)
        if not closed.done():
            logger.error("An engine that hangs is left behind; its memory is in use until it returns.")
        elif error := closed.result()[1]:
            logger.error("An engine did not close: %s", error)

    def _next_pause(self) -> float:
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, self._policy.longest_pause_s)
        return pause_s

    def _expect(self, seconds: float) -> None:
        self._expected = (time.monotonic(), seconds)

    def _become_ready(self) -> None:
        self.state, self.reason = "ready", ""
        self._settled.set()

    def _fail(self, reason: str) -> None:
        self.state, self.reason = "failed", reason
        self._settled.set()


def _sentence(error: Exception) -> str:
    return f"{str(error).rstrip('.') or type(error).__name__}."
