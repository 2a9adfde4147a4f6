"""The batcher with engines that are plain functions on strings: batches, failures, deadlines, the end."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from server.batching import DeadlinePassed, Draining, QueueFull
from tests.server.batchers import Engine, batching, queued, run, started


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
    ("limits", "cost", "reason"),
    [
        pytest.param({"max_items": 1}, 1, "items", id="items"),
        pytest.param({"max_cost": 10}, 10, "memory", id="cost"),
    ],
)
async def test_full_queue_refuses(limits: dict[str, float], cost: int, reason: str) -> None:
    engine = Engine()
    async with batching(engine, **limits) as batcher:
        with batcher.reserve(1, 1), pytest.raises(QueueFull) as caught:
            batcher.reserve(1, cost)
        assert caught.value.retry_after_s >= 1
        assert batcher.stats.refused[reason] == 1
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
