"""The supervisor with workers that are plain objects, told what to do wrong."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from server.scheduling.runner import Down, Unanswered
from server.scheduling.stats import RunnerStats
from server.scheduling.supervision import RestartPolicy, Supervised

POLICY = RestartPolicy(timeout_s=0.3, make_timeout_s=0.3, close_timeout_s=0.3, first_pause_s=0.01, longest_pause_s=0.02)


class LostError(Exception):
    pass


@dataclass
class Shop:
    """Makes workers, and says what those that live do."""

    on_make: Callable[[], None] = lambda: None
    on_run: Callable[[], None] = lambda: None
    on_close: Callable[[], None] = lambda: None
    workers: list[ShopWorker] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)

    def make(self) -> ShopWorker:
        self.on_make()
        self.workers.append(worker := ShopWorker(self))
        return worker

    def hang(self) -> None:
        self.release.wait(30)


class ShopWorker:
    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.batches: list[list[str]] = []
        self.threads: set[int] = set()
        self.closed = 0

    def first_batches(self) -> Iterator[list[str]]:
        yield ["first"]

    def run(self, items: Sequence[str]) -> list[str]:
        self.threads.add(threading.get_ident())
        self.batches.append(list(items))
        self.shop.on_run()
        return [item.upper() for item in items]

    def close(self) -> None:
        self.closed += 1
        self.shop.on_close()


def failing(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    yield shop
    shop.release.set()


@contextlib.asynccontextmanager
async def supervised(shop: Shop, policy: RestartPolicy = POLICY) -> AsyncIterator[Supervised[str, str]]:
    runner = Supervised[str, str](shop.make(), shop.make, policy, RunnerStats(), fatal=(LostError,))
    await runner.start()
    try:
        yield runner
    finally:
        await runner.close()


async def storm(runner: Supervised[str, str], failures: int = POLICY.failures_in_a_row) -> None:
    for _ in range(failures):
        with pytest.raises(RuntimeError):
            await runner.run(["x"])


async def test_first_batches_come_first_and_all_run_in_one_thread(shop: Shop) -> None:
    async with supervised(shop) as runner:
        assert (runner.state, runner.reason, runner.delay_s) == ("ready", "", 0)
        assert await runner.run(["a", "b"]) == ["A", "B"]
    (worker,) = shop.workers
    assert worker.batches == [["first"], ["a", "b"]]
    assert len(worker.threads) == 1
    assert worker.threads != {threading.get_ident()}
    assert worker.closed == 1


@pytest.mark.parametrize(
    "error", [ValueError("no device"), StopIteration("no device"), SystemExit("no device"), TimeoutError("no device")]
)
async def test_whatever_a_worker_raises_is_raised(shop: Shop, error: BaseException) -> None:
    async with supervised(shop) as runner:
        shop.on_run = failing(error)
        with pytest.raises(Exception, match="no device"):
            await runner.run(["a"])
        shop.on_run = lambda: None
        assert await runner.run(["a"]) == ["A"]


async def test_failed_start(shop: Shop) -> None:
    shop.on_run = failing(RuntimeError("No device."))
    runner = Supervised[str, str](shop.make(), shop.make, POLICY, RunnerStats())
    with pytest.raises(RuntimeError, match="No device"):
        await runner.start()
    assert (runner.state, runner.reason) == ("failed", "The engine failed its first run: No device.")
    with pytest.raises(Down, match="No device"):
        await runner.ready()
    await runner.close()
    assert shop.workers[0].closed == 1


async def test_failures_between_successes_change_nothing(shop: Shop) -> None:
    async with supervised(shop) as runner:
        for _ in range(POLICY.failures_in_a_row):
            shop.on_run = failing(RuntimeError())
            await storm(runner, POLICY.failures_in_a_row - 1)
            shop.on_run = lambda: None
            await runner.run(["a"])
        assert runner.state == "ready"
    assert len(shop.workers) == 1


async def test_batches_of_several_do_not_count_as_failures(shop: Shop) -> None:
    async with supervised(shop) as runner:
        shop.on_run = failing(RuntimeError())
        for _ in range(POLICY.failures_in_a_row + 1):
            with pytest.raises(RuntimeError):
                await runner.run(["a", "b"])
        assert runner.state == "ready"


async def test_a_storm_of_failures_replaces_the_worker(shop: Shop) -> None:
    async with supervised(shop) as runner:
        shop.on_run = failing(RuntimeError("out of memory"))
        await storm(runner)
        assert runner.state == "restarting"
        assert runner.reason == "The engine failed 3 times in a row: out of memory. It is being started anew."
        waiting = asyncio.create_task(runner.ready())
        await asyncio.sleep(0.1)
        assert not waiting.done()
        shop.on_run = lambda: None
        await asyncio.wait_for(waiting, 5)
        assert (runner.state, runner.reason) == ("ready", "")
        assert await runner.run(["a"]) == ["A"]
    assert shop.workers[-1].batches[-2:] == [["first"], ["a"]]
    assert [worker.closed for worker in shop.workers] == [1] * len(shop.workers)


async def test_restarts_and_hung_batches_are_counted(shop: Shop) -> None:
    counters = RunnerStats()
    runner = Supervised[str, str](shop.make(), shop.make, POLICY, counters)
    await runner.start()
    shop.on_run = failing(RuntimeError())
    await storm(runner)
    shop.on_run = lambda: None
    await runner.ready()
    shop.on_run = shop.hang
    with pytest.raises(Unanswered):
        await runner.run(["a"])
    shop.on_run = lambda: None
    await runner.ready()
    await runner.close()
    assert (counters.restarts, counters.hung) == (2, 1)


async def test_a_hung_worker_is_left_behind_and_disturbs_nothing_when_it_returns(shop: Shop) -> None:
    async with supervised(shop) as runner:
        shop.on_run = shop.hang
        with pytest.raises(Unanswered, match=r"did not answer a batch within 0.3 s"):
            await runner.run(["hangs"])
        shop.on_run = lambda: None
        await runner.ready()
        assert await runner.run(["a"]) == ["A"]
        hung, new = shop.workers
        assert hung.closed == 0
        shop.on_run = failing(LostError("the old one's"))  # what the old one raises now is nobody's
        shop.release.set()
        while not hung.closed:
            await asyncio.sleep(0.01)
        assert runner.state == "ready"
        shop.on_run = lambda: None
        assert await runner.run(["b"]) == ["B"]
        assert hung.threads.isdisjoint(new.threads)
    assert (hung.closed, new.closed) == (1, 1)


async def test_what_hangs_while_it_is_made_is_tried_again(shop: Shop) -> None:
    async with supervised(shop) as runner:
        shop.on_run, shop.on_make = failing(RuntimeError()), shop.hang
        await storm(runner)
        await asyncio.sleep(0.1)
        shop.on_run, shop.on_make = lambda: None, lambda: None
        await asyncio.wait_for(runner.ready(), 5)
        late = len(shop.workers)
        shop.release.set()
        while len(shop.workers) == late or not shop.workers[-1].closed:
            await asyncio.sleep(0.01)
        assert await runner.run(["a"]) == ["A"]
        assert sum(not worker.closed for worker in shop.workers) == 1


async def test_restarts_end_after_so_many_attempts(shop: Shop) -> None:
    async with supervised(shop) as runner:
        shop.on_run, shop.on_make = failing(RuntimeError()), failing(OSError("The file is gone."))
        await storm(runner)
        with pytest.raises(Down, match=r"could not be started anew, 8 times: The file is gone\."):
            await asyncio.wait_for(runner.ready(), 5)
        assert runner.state == "failed"
    assert [worker.closed for worker in shop.workers] == [1]


async def test_pauses_grow_and_shrink_back_after_a_success(shop: Shop) -> None:
    policy = RestartPolicy(first_pause_s=0.1, longest_pause_s=0.3)
    async with supervised(shop, policy) as runner:
        for least_s in (0.1, 0.2, 0.3, 0.3):
            started = time.monotonic()
            shop.on_run = failing(RuntimeError())
            await storm(runner)
            shop.on_run = lambda: None
            assert runner.delay_s > 0
            await runner.ready()
            assert time.monotonic() - started >= least_s
        await runner.run(["a"])
        shop.on_run = failing(RuntimeError())
        await storm(runner)
        assert 0 < runner.delay_s < 0.2


async def test_a_fatal_error_ends_it_at_once(shop: Shop) -> None:
    async with supervised(shop) as runner:
        shop.on_run = failing(LostError("The GPU is gone."))
        with pytest.raises(LostError):
            await runner.run(["a", "b"])
        with pytest.raises(Down, match=r"The GPU is gone\."):
            await runner.ready()
        assert runner.state == "failed"
    assert len(shop.workers) == 1


async def test_closing_does_not_wait_for_what_hangs(shop: Shop) -> None:
    started = time.monotonic()
    async with supervised(shop):
        shop.on_close = shop.hang
    assert time.monotonic() - started < 10
    async with supervised(shop) as runner:
        shop.on_run = shop.hang
        cancelled = asyncio.create_task(runner.run(["a"]))
        await asyncio.sleep(0.05)
        cancelled.cancel()
    assert time.monotonic() - started < 10


async def test_closing_ends_a_restart(shop: Shop) -> None:
    async with supervised(shop) as runner:
        shop.on_run, shop.on_make = failing(RuntimeError()), shop.hang
        await storm(runner)
        await asyncio.sleep(0.05)
    shop.release.set()
    while len(shop.workers) < 2 or not shop.workers[-1].closed:
        await asyncio.sleep(0.01)
    assert [worker.closed for worker in shop.workers] == [1, 1]


async def test_closing_while_it_starts(shop: Shop) -> None:
    shop.on_run = shop.hang
    runner = Supervised[str, str](shop.make(), shop.make, RestartPolicy(close_timeout_s=0.1), RunnerStats())
    start = asyncio.create_task(runner.start())
    await asyncio.sleep(0.05)
    await runner.close()
    shop.release.set()
    with pytest.raises(Down, match="closed"):
        await start


async def test_memory_of_a_replaced_and_of_a_closed_worker_is_given_back(shop: Shop) -> None:
    runner = Supervised[str, str](shop.make(), shop.make, POLICY, RunnerStats())
    await runner.start()
    first = weakref.ref(shop.workers.pop())
    shop.on_run = failing(RuntimeError())
    await storm(runner)
    shop.on_run = lambda: None
    await runner.ready()
    await runner.run(["a"])
    shop.workers[:-1] = []
    gc.collect()
    assert first() is None
    second = weakref.ref(shop.workers.pop())
    await runner.close()
    del runner
    gc.collect()
    assert second() is None
