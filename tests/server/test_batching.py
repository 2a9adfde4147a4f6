"""The batcher with engines that are plain functions on strings."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from server.batching import Batcher, DeadlinePassed, Draining, NotRunning, Priority, QueueFull, QueueLimits
from server.runner import Down, Unanswered

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


async def test_free_engine_takes_a_lone_item_at_once() -> None:
    engine = Engine()
    async with batching(engine) as batcher:
        assert await run(batcher, "a") == "A"
    assert engine.batches == [["a"]]


async def test_next_batch_forms_while_the_engine_runs() -> None:
    engine = Engine()
    engine.gate.clear()
    async with batching(engine, max_batch_size=3) as batcher:
        first = asyncio.create_task(run(batcher, "a"))
        await started(engine)
        others = [asyncio.create_task(run(batcher, item)) for item in "bcde"]
        await queued(batcher, 4)
        engine.gate.set()
        assert await asyncio.gather(first, *others) == list("ABCDE")
    assert engine.batches == [["a"], ["b", "c", "d"], ["e"]]


async def test_batches_hold_one_key_and_the_key_that_waits_longest_goes_first() -> None:
    engine = Engine()
    engine.gate.clear()
    async with batching(engine) as batcher:
        tasks = [asyncio.create_task(run(batcher, "first"))]
        await started(engine)
        for item, key in (("x1", "x"), ("y1", "y"), ("x2", "x"), ("y2", "y")):
            tasks.append(asyncio.create_task(run(batcher, item, key)))
            await queued(batcher, len(tasks) - 1)
        engine.gate.set()
        await asyncio.gather(*tasks)
    assert engine.batches == [["first"], ["x1", "x2"], ["y1", "y2"]]


async def test_outcome_tells_batch_size_and_times() -> None:
    engine = Engine()
    async with batching(engine) as batcher:
        with batcher.reserve(2, 2) as room:
            outcomes = await asyncio.gather(room.submit("", "a"), room.submit("", "b"))
    assert [outcome.batch_size for outcome in outcomes] == [2, 2]
    assert all(outcome.queue_s >= 0 and outcome.run_s >= 0 for outcome in outcomes)


async def test_poisoned_item_fails_alone() -> None:
    engine = Engine()
    engine.gate.clear()
    async with batching(engine) as batcher:
        first = asyncio.create_task(run(batcher, "first"))
        await started(engine)
        tasks = [asyncio.create_task(run(batcher, item)) for item in ("a", "poison", "b")]
        await queued(batcher, 3)
        engine.gate.set()
        results = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert [results[0], results[1], results[3]] == ["FIRST", "A", "B"]
    assert isinstance(results[2], RuntimeError)
    assert engine.batches[1:] == [["a", "poison", "b"], ["a"], ["poison"], ["b"]]


async def test_engine_that_returns_too_little_fails_its_waiters() -> None:
    async with batching(lambda items: []) as batcher:
        with pytest.raises(AssertionError, match="This is a bug"):
            await run(batcher, "a")


async def test_cancelled_item_never_reaches_the_engine() -> None:
    engine = Engine()
    engine.gate.clear()
    async with batching(engine) as batcher:
        first = asyncio.create_task(run(batcher, "first"))
        await started(engine)
        gone = asyncio.create_task(run(batcher, "gone"))
        stays = asyncio.create_task(run(batcher, "stays"))
        await queued(batcher, 2)
        gone.cancel()
        engine.gate.set()
        assert await asyncio.gather(first, stays) == ["FIRST", "STAYS"]
        assert batcher.stats.dropped_cancelled == 1
        assert batcher.reserved == 0
    assert engine.batches == [["first"], ["stays"]]


async def test_passed_deadline_never_reaches_the_engine() -> None:
    engine = Engine()
    engine.gate.clear()
    async with batching(engine) as batcher:
        first = asyncio.create_task(run(batcher, "first"))
        await started(engine)
        with pytest.raises(DeadlinePassed):
            await run(batcher, "late", deadline_s=0.01)
        engine.gate.set()
        assert await first == "FIRST"
        assert await run(batcher, "next") == "NEXT"
        assert batcher.stats.dropped_expired == 1
    assert engine.batches == [["first"], ["next"]]


async def test_deadline_passes_while_the_engine_runs() -> None:
    engine = Engine()
    engine.gate.clear()
    async with batching(engine) as batcher:
        with pytest.raises(DeadlinePassed):
            await run(batcher, "slow", deadline_s=0.01)
        engine.gate.set()
        assert await run(batcher, "next") == "NEXT"


@pytest.mark.parametrize(
    ("limits", "cost"),
    [pytest.param({"max_items": 1}, 1, id="items"), pytest.param({"max_cost": 10}, 10, id="cost")],
)
async def test_full_queue_refuses(limits: dict[str, float], cost: int) -> None:
    engine = Engine()
    async with batching(engine, **limits) as batcher:
        with batcher.reserve(1, 1), pytest.raises(QueueFull) as caught:
            batcher.reserve(1, cost)
        assert caught.value.retry_after_s >= 1
        assert batcher.stats.refused == 1
        batcher.reserve(1, cost)


async def test_idle_batcher_admits_a_request_larger_than_the_queue() -> None:
    async with batching(Engine(), max_items=1) as batcher:
        with batcher.reserve(2, 2) as room:
            assert (await room.submit("", "a")).result == "A"


async def test_long_predicted_wait_refuses() -> None:
    def slow(items: list[str]) -> list[str]:
        time.sleep(0.2)
        return items

    async with batching(slow, max_wait_s=0.5) as batcher:
        await run(batcher, "learn")
        with batcher.reserve(1, 1):
            batcher.reserve(1, 1)
        with batcher.reserve(50, 1), pytest.raises(QueueFull) as caught:
            batcher.reserve(1, 1)
    assert caught.value.retry_after_s >= 9


async def test_queue_delay_waits_for_company_until_the_batch_is_full() -> None:
    engine = Engine()
    async with batching(engine, max_delay_s=60, max_batch_size=2) as batcher:
        first = asyncio.create_task(run(batcher, "a"))
        await queued(batcher, 1)
        assert await asyncio.wait_for(asyncio.gather(first, run(batcher, "b")), 30) == ["A", "B"]
    assert engine.batches == [["a", "b"]]


async def test_queue_delay_ends() -> None:
    async with batching(Engine(), max_delay_s=0.01) as batcher:
        assert await asyncio.wait_for(run(batcher, "a"), 30) == "A"


async def test_two_engines_share_one_queue() -> None:
    both = threading.Barrier(2, timeout=30)

    def engine(items: list[str]) -> list[str]:
        both.wait()
        return items

    async with batching(engine, engine, max_batch_size=1) as batcher:
        assert await asyncio.gather(run(batcher, "a"), run(batcher, "b")) == ["a", "b"]


async def test_drain_answers_what_was_admitted_and_refuses_the_rest() -> None:
    engine = Engine()
    engine.gate.clear()
    async with batching(engine) as batcher:
        tasks = [asyncio.create_task(run(batcher, item)) for item in "ab"]
        await started(engine)
        drained = asyncio.create_task(batcher.drain())
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            batcher.reserve(1, 1)
        assert not drained.done()
        engine.gate.set()
        assert await asyncio.gather(*tasks) == ["A", "B"]
        await drained


async def test_close_leaves_nobody_waiting() -> None:
    engine = Engine()
    engine.gate.clear()
    async with batching(engine) as batcher:
        running = asyncio.create_task(run(batcher, "running"))
        await started(engine)
        waiting = asyncio.create_task(run(batcher, "waiting"))
        await queued(batcher, 1)
        await batcher.close()
        results = await asyncio.gather(running, waiting, return_exceptions=True)
        engine.gate.set()
    assert [type(result) for result in results] == [Draining, Draining]


async def test_close_leaves_nobody_waiting_while_a_failed_batch_is_tried_again() -> None:
    engine = Engine()
    engine.gate.clear()
    async with batching(engine) as batcher:
        first = asyncio.create_task(run(batcher, "first"))
        await started(engine)
        tasks = [asyncio.create_task(run(batcher, item)) for item in ("poison", "a", "b")]
        await queued(batcher, 3)
        engine.gate.set()
        await first
        while len(engine.batches) < 2:
            await asyncio.sleep(0)
        engine.gate.clear()
        await asyncio.sleep(0.05)
        await batcher.close()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        engine.gate.set()
    assert all(isinstance(result, Draining | RuntimeError) for result in results)


# Priority


async def test_low_priority_goes_after_normal_and_takes_the_places_left() -> None:
    engine = Engine()
    engine.gate.clear()
    low = Priority.LOW
    async with batching(engine, max_batch_size=3) as batcher:
        tasks = [asyncio.create_task(run(batcher, "first"))]
        await started(engine)
        waiting = [("x1", "x", low), ("x2", "x", low), ("y1", "y", low), ("y2", "y", Priority.NORMAL)]
        waiting += [("x3", "x", Priority.NORMAL), ("x4", "x", Priority.NORMAL)]
        for item, key, priority in waiting:
            tasks.append(asyncio.create_task(run(batcher, item, key, priority=priority)))
            await queued(batcher, len(tasks) - 1)
        engine.gate.set()
        await asyncio.gather(*tasks)
    assert engine.batches == [["first"], ["y2", "y1"], ["x3", "x4", "x1"], ["x2"]]


async def test_low_priority_waits_as_long_as_normal_does_and_may_be_late() -> None:
    engine = Engine()
    engine.gate.clear()
    async with batching(engine, max_batch_size=1) as batcher:
        first = asyncio.create_task(run(batcher, "first"))
        await started(engine)
        low = asyncio.create_task(run(batcher, "low", deadline_s=0.05, priority=Priority.LOW))
        await queued(batcher, 1)
        normal = asyncio.create_task(run(batcher, "normal"))
        await queued(batcher, 2)
        with pytest.raises(DeadlinePassed):
            await low
        engine.gate.set()
        assert await asyncio.gather(first, normal) == ["FIRST", "NORMAL"]
    assert engine.batches == [["first"], ["normal"]]


async def test_normal_priority_does_not_count_low_priority_in_its_wait() -> None:
    async with batching(sleeping(0.1), max_wait_s=1) as batcher:
        await run(batcher, "learn")
        with batcher.reserve(40, 1, priority=Priority.LOW):
            batcher.reserve(1, 1)
            with pytest.raises(QueueFull):
                batcher.reserve(1, 1, priority=Priority.LOW)
        with batcher.reserve(40, 1), pytest.raises(QueueFull):
            batcher.reserve(1, 1, priority=Priority.LOW)


# Admission by time


def sleeping(seconds: float) -> Callable[[list[str]], list[str]]:
    def engine(items: list[str]) -> list[str]:
        time.sleep(seconds * len(items))
        return items

    return engine


async def test_what_would_miss_its_deadline_is_refused_at_once() -> None:
    async with batching(sleeping(0.1), max_wait_s=60) as batcher:
        await run(batcher, "learn")
        with batcher.reserve(20, 1):
            batcher.reserve(1, 1, time.monotonic() + 10)
            with pytest.raises(QueueFull, match="deadline is sooner") as caught:
                batcher.reserve(1, 1, time.monotonic() + 0.5)
        assert 1 <= caught.value.retry_after_s <= 3
        assert batcher.stats.refused == 1


async def test_an_idle_engine_takes_even_what_may_be_late() -> None:
    async with batching(sleeping(0.2)) as batcher:
        await run(batcher, "learn")
        batcher.reserve(1, 1, time.monotonic() + 0.01)


async def test_the_rest_of_the_running_batch_and_the_queue_count() -> None:
    async with batching(sleeping(0.2), max_batch_size=1) as batcher:
        await run(batcher, "learn")
        tasks = [asyncio.create_task(run(batcher, "running"))]
        await asyncio.sleep(0.1)
        assert 0 < batcher.predicted_wait_s() < 0.2
        tasks += [asyncio.create_task(run(batcher, "waiting")) for _ in range(3)]
        await queued(batcher, 3)
        assert 0.6 < batcher.predicted_wait_s() < 0.8
        await asyncio.gather(*tasks)
        assert batcher.predicted_wait_s() == 0


async def test_what_has_to_be_done_before_counts() -> None:
    async with batching(Engine(), max_wait_s=5) as batcher:
        with batcher.reserve(1, 1):
            batcher.reserve(1, 1, lead_s=4)
            with pytest.raises(QueueFull) as caught:
                batcher.reserve(1, 1, lead_s=9)
            assert caught.value.retry_after_s == 4


async def test_one_slow_batch_does_not_lock_the_batcher() -> None:
    slow = [1.0, 0.0]
    async with batching(lambda items: (time.sleep(slow.pop(0) if slow else 0), items)[1], max_wait_s=0.3) as batcher:
        await run(batcher, "slow")
        with batcher.reserve(1, 1), pytest.raises(QueueFull):
            batcher.reserve(1, 1)
        await run(batcher, "an idle batcher takes this one")
        await run(batcher, "and this one")
        with batcher.reserve(1, 1):
            batcher.reserve(1, 1)


# Runners that stop


async def test_a_runner_that_starts_anew_delays_and_refuses_what_would_be_late() -> None:
    runner = Threaded(Engine())
    async with batching(runner, max_wait_s=5) as batcher:
        await run(batcher, "a")
        runner.delay_s = 2
        batcher.reserve(1, 1)
        with pytest.raises(NotRunning, match="started anew"):
            batcher.reserve(1, 1, time.monotonic() + 1)
        runner.delay_s = 9
        with pytest.raises(NotRunning) as caught:
            batcher.reserve(1, 1)
        assert caught.value.retry_after_s == 4


async def test_work_waits_for_a_runner_within_its_deadline() -> None:
    runner = Threaded(Engine())
    runner.up.clear()
    async with batching(runner) as batcher:
        late = asyncio.create_task(run(batcher, "late", deadline_s=0.05))
        waits = asyncio.create_task(run(batcher, "waits"))
        with pytest.raises(DeadlinePassed):
            await late
        runner.up.set()
        assert await waits == "WAITS"


async def test_a_batch_that_was_given_up_is_not_tried_again() -> None:
    engine = Engine()
    engine.gate.clear()

    def hangs_once(items: list[str]) -> Sequence[str]:
        found = engine(items)
        if "hangs" in items:
            raise Unanswered("It hung.")
        return found

    async with batching(hangs_once) as batcher:
        tasks = [asyncio.create_task(run(batcher, "first"))]
        await started(engine)
        tasks += [asyncio.create_task(run(batcher, item)) for item in ("hangs", "with it")]
        await queued(batcher, 2)
        engine.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert await run(batcher, "next") == "NEXT"
    assert [type(result) for result in results] == [str, Unanswered, Unanswered]
    assert engine.batches == [["first"], ["hangs", "with it"], ["next"]]


async def test_when_the_last_runner_is_down_all_are_told_at_once() -> None:
    dying, other = Threaded(Engine()), Threaded(Engine())
    dying.up.clear()
    other.up.clear()
    async with batching(dying, other) as batcher:
        waiting = [asyncio.create_task(run(batcher, "a")) for _ in range(3)]
        await queued(batcher, 3)
        dying.down = other.down = "The device is gone."
        dying.up.set()
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in waiting)
        other.up.set()
        results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
        assert [str(result) for result in results] == ["The device is gone."] * 3
        with pytest.raises(Down, match="device"):
            batcher.reserve(1, 1)
