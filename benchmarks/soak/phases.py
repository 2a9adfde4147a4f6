"""What the soak does to a server, each phase with what it found."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from benchmarks.overhead.processes import Server
from benchmarks.soak.cases import ADMIN_KEY, Case
from benchmarks.soak.traffic import Traffic
from clients.loadtest.generator import Run, Sample, Target
from clients.loadtest.load import ClosedLoop, OpenLoop

CLIENTS = 12
RSS_EVERY_S = 1.0
PEAK_CLIENTS, PEAK_S = 64, 8.0
CALM_CLIENTS, CALM_S = 2, 3.0
OVERLOAD_FACTOR = 5
RECOVERY_S = 2.0
TERM_AFTER_S = 2.0


@dataclass(frozen=True)
class Soaked:
    """A server that is soaked: its process, its address, and pictures for it."""

    server: Server
    url: str
    good: Sequence[Case]
    bad: Sequence[Case]

    def traffic(self, seed: int) -> Traffic:
        return Traffic(self.url, self.good, self.bad, seed)

    def target(self) -> Target:
        return Target(self.url, [case.data for case in self.good])


async def mixed(soaked: Soaked, seconds: float, reloads: int) -> dict[str, Any]:
    """Mixed requests, with reloads spread over the time; the memory is looked at every second."""
    traffic, end = soaked.traffic(0), time.monotonic() + seconds
    rss_mib: list[float] = []
    watch = asyncio.create_task(_watch(soaked.server, rss_mib))
    load = asyncio.create_task(_reload(soaked.url, reloads, seconds))
    try:
        await traffic.run(CLIENTS, lambda: time.monotonic() < end)
        loaded = await load
    finally:
        watch.cancel()
        load.cancel()
    return {
        "seconds": seconds,
        "outcomes": dict(traffic.ledger.outcomes),
        "unexpected_count": traffic.ledger.unexpected_count,
        "unexpected": traffic.ledger.unexpected,
        "reloads": loaded,
        "rss_growth": growth(rss_mib),
        "rss_mib": rss_mib,
    }


async def overload(soaked: Soaked, seconds: float) -> dict[str, Any]:
    """The peak of a closed loop, five times that in an open one, and how soon the latency is as before."""
    calm_ms = await _calm_latency_ms(soaked)
    peak = await _run(soaked, ClosedLoop(PEAK_CLIENTS, PEAK_S))
    peak_per_s = sum(sample.ok for sample in peak) / PEAK_S
    rss_mib: list[float] = []
    watch = asyncio.create_task(_watch(soaked.server, rss_mib))
    samples = await _run(soaked, OpenLoop(OVERLOAD_FACTOR * peak_per_s, "constant", seconds))
    watch.cancel()
    await asyncio.sleep(RECOVERY_S)
    after_ms = await _calm_latency_ms(soaked)
    answered = [sample for sample in samples if sample.ok and sample.done_s <= seconds]
    refused_ms = sorted((sample.done_s - sample.sent_s) * 1e3 for sample in samples if sample.refused)
    return {
        "seconds": seconds,
        "peak_per_s": peak_per_s,
        "sent": len(samples),
        "goodput_per_s": len(answered) / seconds,
        "goodput_of_peak": len(answered) / seconds / peak_per_s,
        "refused": len(refused_ms),
        "refusal_p50_ms": statistics.median(refused_ms) if refused_ms else None,
        "failed": sum(not (sample.ok or sample.refused) for sample in samples),
        "generator_lag_p50_ms": statistics.median(sample.lag_ms for sample in samples),
        "calm_p50_ms": calm_ms,
        "after_p50_ms": after_ms,
        "rss_growth": growth(rss_mib[len(rss_mib) // 2 :]),  # the queue and the connections fill first
        "rss_mib": rss_mib,
    }


async def terminate(soaked: Soaked) -> dict[str, Any]:
    """kill -TERM under load: which of the requests that were sent before it were not answered as they should be."""
    traffic = soaked.traffic(1)
    traffic.remember = True
    running = True
    load = asyncio.create_task(traffic.run(CLIENTS, lambda: running))
    await asyncio.sleep(TERM_AFTER_S)
    owed = set(traffic.in_flight)
    os.kill(soaked.server.pid, signal.SIGTERM)
    await asyncio.sleep(0)
    running = False
    await load
    return {"owed": len(owed), "unanswered": sorted(owed - traffic.answered), "status": await _status(soaked.server)}


def growth(rss_mib: Sequence[float]) -> float | None:
    """Median of the last fifth over that of the first fifth, less 1."""
    fifth = len(rss_mib) // 5
    if not fifth:
        return None
    return statistics.median(rss_mib[-fifth:]) / statistics.median(rss_mib[:fifth]) - 1


async def _watch(server: Server, rss_mib: list[float]) -> None:
    while True:
        rss_mib.append(round(server.rss_mib(), 2))
        await asyncio.sleep(RSS_EVERY_S)


async def _reload(url: str, times: int, seconds: float) -> int:
    """Loads the model again, evenly spread; how often that worked."""
    worked = 0
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {ADMIN_KEY}"}) as session:
        for _ in range(times):
            await asyncio.sleep(seconds / (times + 1))
            async with session.post(f"{url}/models/fake/load") as response:
                worked += response.status == 200
    return worked


async def _run(soaked: Soaked, load: ClosedLoop | OpenLoop) -> list[Sample]:
    run = Run(soaked.target(), load)
    await run.execute()
    return run.samples


async def _calm_latency_ms(soaked: Soaked) -> float:
    return statistics.median(sample.latency_ms for sample in await _run(soaked, ClosedLoop(CALM_CLIENTS, CALM_S)))


async def _status(server: Server) -> int | None:
    """Exit status of a server that is about to end; None when it does not."""
    for _ in range(300):
        if server.ended:
            return server.status
        await asyncio.sleep(0.1)
    return None
