"""Several runners of one batcher, of uneven speed, of which some fail: plain functions on strings."""

from __future__ import annotations

import asyncio
import heapq
import random
import statistics
import threading
import time
from collections.abc import Sequence

import pytest

from server.batching import NotRunning, QueueFull
from server.scheduling.pool import turn_s
from server.scheduling.runner import Unanswered
from tests.server.batchers import Engine, Strings, Threaded, batching, queued, run, sleeping, started


class Broken(Engine):
    """Fails whatever it is given."""

    def __call__(self, items: list[str]) -> Sequence[str]:
        super().__call__(items)
        raise RuntimeError("broken")


def send(batcher: Strings, items: str) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(run(batcher, item)) for item in items]


# Who takes what


async def test_a_free_runner_takes_what_waits_while_another_is_slow() -> None:
    slow, fast = Engine(), Engine()
    slow.gate.clear()
    async with batching(slow, fast, max_batch_size=1) as batcher:
        tasks = send(batcher, "abcdefgh")
        await started(slow)
        done, running = await asyncio.wait(tasks, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        while len(running) > 1:
            more, running = await asyncio.wait(running, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        assert len(fast.batches) == 7
        slow.gate.set()
        assert sorted([await task for task in tasks]) == list("ABCDEFGH")
    assert len(slow.batches) == 1


async def test_a_lone_item_goes_to_the_fastest_that_is_free() -> None:
    slow, fast = Engine(), Engine()
    runners = [lambda items: (time.sleep(0.05), slow(items))[1], fast]
    async with batching(*runners, max_batch_size=1) as batcher:
        await asyncio.gather(*send(batcher, "ab"))  # both have run then
        assert (len(slow.batches), len(fast.batches)) == (1, 1)
        for item in "cdef":
            await run(batcher, item)
        assert (len(slow.batches), len(fast.batches)) == (1, 5)
        fast.gate.clear()
        fast.busy.clear()
        busy = send(batcher, "g")
        await started(fast)
        assert await run(batcher, "h") == "H"
        fast.gate.set()
        await asyncio.gather(*busy)
    assert slow.batches[-1] == ["h"]


async def test_what_is_left_of_a_turn_is_for_the_next_runner() -> None:
    engines = [Engine(), Engine(), Engine()]
    for engine in engines:
        engine.gate.clear()
    async with batching(*engines, max_batch_size=2, max_delay_s=0.02) as batcher:
        tasks = send(batcher, "abcdef")
        for engine in engines:
            await started(engine)
        assert sorted(engine.batches for engine in engines) == [[["a", "b"]], [["c", "d"]], [["e", "f"]]]
        for engine in engines:
            engine.gate.set()
        await asyncio.gather(*tasks)


# What fails


async def test_a_broken_runner_costs_nobody_an_answer() -> None:
    broken, good = Broken(), Engine()
    async with batching(broken, good, max_batch_size=3) as batcher:
        assert await asyncio.gather(*send(batcher, "abcdefghi")) == list("ABCDEFGHI")
        assert await run(batcher, "lone") == "LONE"
        assert batcher.stats.runners[0].failed_batches == len(broken.batches) > 0
        assert batcher.stats.runners[1].items == 10
        assert batcher.reserved == 0


async def test_an_item_at_fault_meets_two_runners_and_fails_alone() -> None:
    engines = [Engine(), Engine(), Engine()]
    async with batching(*engines) as batcher:
        outcomes = await asyncio.gather(*send(batcher, "ab"), run(batcher, "poison"), return_exceptions=True)
    assert outcomes[:2] == ["A", "B"]
    assert isinstance(outcomes[2], RuntimeError)
    met = [engine for engine in engines if any("poison" in batch for batch in engine.batches)]
    assert len(met) == 2
    assert sum(batch == ["poison"] for engine in engines for batch in engine.batches) in (1, 2)


async def test_a_failed_batch_is_shared_among_those_that_are_free() -> None:
    both = threading.Barrier(2, timeout=30)

    def engine(items: list[str]) -> list[str]:
        if len(items) > 1:
            raise RuntimeError("too many")
        both.wait()  # until another runs by itself at the same time
        return items

    async with batching(engine, engine, max_delay_s=0.02) as batcher:
        assert await asyncio.gather(*send(batcher, "abcd")) == list("abcd")
        assert [stats.items for stats in batcher.stats.runners] == [2, 2]


async def test_what_failed_goes_to_the_same_runner_again_when_the_others_are_lost() -> None:
    broken, good = Broken(), Engine()
    good.gate.clear()
    other = Threaded(good)
    async with batching(broken, other, max_batch_size=1) as batcher:
        tasks = send(batcher, "xy")
        await started(good)
        await queued(batcher, 1)  # what the broken one failed on waits for the other
        other.down = "The device is gone."
        good.gate.set()
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
    assert sorted(map(str, outcomes)) in (["X", "broken"], ["Y", "broken"])
    assert len(broken.batches) == 2


async def test_a_batch_without_an_answer_is_not_tried_in_another_runner() -> None:
    other = Engine()

    def hangs(items: list[str]) -> Sequence[str]:
        raise Unanswered("It hung.")

    async with batching(hangs, other) as batcher:
        with pytest.raises(Unanswered):
            await run(batcher, "a")
    assert other.batches == []


async def test_close_leaves_nobody_waiting_who_failed_before() -> None:
    broken, other = Broken(), Engine()
    other.gate.clear()
    async with batching(broken, other) as batcher:
        tasks = send(batcher, "ab")
        await started(other)
        while not batcher.waiting:
            await asyncio.sleep(0)
        await batcher.close()
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
        other.gate.set()
    assert all(isinstance(outcome, Exception) for outcome in outcomes)


# Admission


def first_start_s(free_s: Sequence[float], run_s: Sequence[float], batches: int) -> float:
    """By playing it through: whoever is free first takes the next batch."""
    runners = [(free, run) for free, run in zip(free_s, run_s, strict=True)]
    heapq.heapify(runners)
    for _ in range(batches):
        free, run = runners[0]
        heapq.heapreplace(runners, (free + run, run))
    return runners[0][0]


@pytest.mark.parametrize("runners", [1, 2, 3, 8])
def test_the_turn_is_that_of_a_queue_played_through(runners: int) -> None:
    rng, errors = random.Random(runners), []
    for _ in range(500):
        run_s = [rng.uniform(0.1, 0.5) for _ in range(runners)]
        free_s = [rng.uniform(0, run) for run in run_s]
        batches = rng.randint(0, 40)
        turn = turn_s(free_s, [run * batches for run in run_s], batches)
        errors.append((turn - first_start_s(free_s, run_s, batches)) / min(run_s))
    assert abs(statistics.mean(errors)) < 0.1
    assert max(map(abs, errors)) < (1 if runners > 1 else 1e-9), "never a whole batch of the fastest"


@pytest.mark.parametrize(
    ("free_s", "work_s", "batches", "turn"),
    [
        pytest.param([0.5], [0.0], 0, 0.5, id="nothing before it"),
        pytest.param([0.5, 0.2], [0.0, 0.0], 9, 0.2, id="nothing has run yet"),
        pytest.param([0.0, 0.0], [10.0, 0.0], 100, 5, id="one is not known, and counts as the other"),
        pytest.param([0.0, 9.0], [4.0, 1.0], 4, 4, id="one is restarted too late to help"),
        pytest.param([0.0, 0.0], [3.0, 1.0], 1000, 0.75, id="uneven"),
    ],
)
def test_turns(free_s: list[float], work_s: list[float], batches: int, turn: float) -> None:
    assert turn_s(free_s, work_s, batches) == pytest.approx(turn, rel=0.02)


async def test_the_predicted_wait_is_that_of_the_pool() -> None:
    """0.05 s and 0.15 s an item: 40 items take 1.5 s together, not 2 s or 4 s."""
    async with batching(sleeping(0.05), sleeping(0.15), max_batch_size=1, max_wait_s=1.2) as batcher:
        await asyncio.gather(*send(batcher, "ab"))
        assert batcher.predicted_wait_s() == 0
        with batcher.reserve(40, 1):
            assert 1.2 < batcher.predicted_wait_s() < 1.8
            with pytest.raises(QueueFull, match="wait would be"):
                batcher.reserve(1, 1)
        with batcher.reserve(26, 1):
            assert 0.8 < batcher.predicted_wait_s() < 1.2
            batcher.reserve(1, 1)


async def test_a_runner_that_starts_anew_counts_from_when_it_is_up() -> None:
    restarting = Threaded(sleeping(0.05))
    async with batching(sleeping(0.05), restarting, max_batch_size=1, max_wait_s=60) as batcher:
        await asyncio.gather(*send(batcher, "ab"))
        restarting.delay_s = 1.0
        with batcher.reserve(10, 1):
            assert 0.4 < batcher.predicted_wait_s() < 0.7, "the other alone"
        with batcher.reserve(60, 1):
            assert 1.7 < batcher.predicted_wait_s() < 2.4, "both, from a second on"


async def test_only_when_none_is_up_it_is_the_engine_that_is_waited_for() -> None:
    one, other = Threaded(Engine()), Threaded(Engine())
    async with batching(one, other, max_wait_s=5) as batcher:
        one.delay_s = 90
        batcher.reserve(1, 1)
        other.delay_s = 9
        with pytest.raises(NotRunning) as caught:
            batcher.reserve(1, 1)
        assert caught.value.retry_after_s == 4
