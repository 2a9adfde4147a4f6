"""Who may wait, in which order, and what becomes of it when the engine stops: the batcher with plain functions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from server.batching import DeadlinePassed, NotRunning, Priority, QueueFull
from server.scheduling.runner import Down, Unanswered
from tests.server.batchers import Engine, Threaded, batching, queued, run, sleeping, started

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


async def test_what_would_miss_its_deadline_is_refused_at_once() -> None:
    async with batching(sleeping(0.1), max_wait_s=60) as batcher:
        await run(batcher, "learn")
        with batcher.reserve(20, 1):
            batcher.reserve(1, 1, time.monotonic() + 10)
            with pytest.raises(QueueFull, match="deadline is sooner") as caught:
                batcher.reserve(1, 1, time.monotonic() + 0.5)
        assert 1 <= caught.value.retry_after_s <= 3
        assert sum(batcher.stats.refused.values()) == 1


async def test_an_idle_engine_takes_even_what_may_be_late() -> None:
    async with batching(sleeping(0.2)) as batcher:
        await run(batcher, "learn")
        batcher.reserve(1, 1, time.monotonic() + 0.01)


async def test_the_rest_of_the_running_batch_and_the_queue_count() -> None:
    async with batching(sleeping(0.5), max_batch_size=1) as batcher:
        await run(batcher, "learn")
        tasks = [asyncio.create_task(run(batcher, "running"))]
        await asyncio.sleep(0.05)
        assert 0 < batcher.predicted_wait_s() < 0.5
        tasks += [asyncio.create_task(run(batcher, "waiting")) for _ in range(3)]
        await queued(batcher, 3)
        assert 1.5 < batcher.predicted_wait_s() < 2
        await batcher.close()
        await asyncio.gather(*tasks, return_exceptions=True)
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


async def test_work_that_comes_after_the_last_runner_is_down_ends_a_drain_too() -> None:
    runner = Threaded(Engine())
    runner.up.clear()
    async with batching(runner) as batcher:
        with batcher.reserve(1, 1) as room:
            runner.down = "The device is gone."
            runner.up.set()
            await asyncio.sleep(0.05)
            drained = asyncio.create_task(batcher.drain())
            await asyncio.sleep(0)
            with pytest.raises(Down, match="device"):
                await asyncio.wait_for(room.submit("", "a"), 5)
        await drained
