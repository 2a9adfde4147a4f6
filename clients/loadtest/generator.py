"""Sends one load over HTTP and records what became of every request.

Latency counts from the *intended* send time. In an open loop that is the appointed time, so a request that waited
behind others, here or in the server, counts its wait (no "coordinated omission").
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

from clients.errors import UnreachableError
from clients.loadtest.load import ClosedLoop, Load, OpenLoop

WARM_UP_S = 1.0
WARM_UP_REQUESTS = 4
# A closed loop against a server that refuses at once would otherwise spin.
PAUSE_AFTER_REFUSAL_S = 0.05

NO_CONNECTION = "no connection"

_TIMING = re.compile(r"([A-Za-z_]+)\s*;[^,]*?dur=([0-9.]+)")


@dataclass(frozen=True)
class Target:
    """Where to send what; `pictures` are encoded image files, sent in turn."""

    url: str
    pictures: Sequence[bytes]
    timeout_s: float = 60.0
    api_key: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return {"Content-Type": "application/octet-stream", **key}


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Times in seconds from the start of the run; `outcome` is `200`, `429`, ... or why none came."""

    intended_s: float
    sent_s: float
    done_s: float
    outcome: str
    server_ms: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.outcome == "200"

    @property
    def refused(self) -> bool:
        return self.outcome in ("429", "503")

    @property
    def latency_ms(self) -> float:
        return (self.done_s - self.intended_s) * 1e3

    @property
    def lag_ms(self) -> float:
        return (self.sent_s - self.intended_s) * 1e3


class Run:
    """One load on one target. `samples` grows while `execute` runs, so that a progress display can read it."""

    def __init__(self, target: Target, load: Load) -> None:
        self.target = target
        self.load = load
        self.samples: list[Sample] = []
        self.in_flight = 0
        self.finished = False
        self._pictures = itertools.cycle(target.pictures)
        self._start = 0.0

    @property
    def elapsed_s(self) -> float:
        """0 until the warm-up is over."""
        return time.perf_counter() - self._start if self._start else 0.0

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(sample.outcome for sample in self.samples)

    async def execute(self) -> None:
        """Warm up for at most a second, send the load, and wait for the last answer.

        Raises `UnreachableError` when nobody listens there.
        """
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=self.target.timeout_s)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self.target.headers) as session:
            await self._warm_up(session)
            self._start = time.perf_counter()
            if isinstance(self.load, ClosedLoop):
                await self._closed(session, self.load)
            else:
                await self._open(session, self.load)
        self.finished = True

    async def _warm_up(self, session: aiohttp.ClientSession) -> None:
        outcomes = []

        async def send_some() -> None:
            for _ in range(WARM_UP_REQUESTS):
                outcome, _ = await self._post(session)
                outcomes.append(outcome)

        # With a slow server what is under way is dropped, and the run starts.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(send_some(), WARM_UP_S)
        if outcomes and set(outcomes) == {NO_CONNECTION}:
            raise UnreachableError(f"No connection to {self.target.url}: is a server running there?")

    async def _closed(self, session: aiohttp.ClientSession, load: ClosedLoop) -> None:
        async def sender() -> None:
            while (now_s := self.elapsed_s) < load.duration_s:
                if not (await self._request(session, now_s)).ok:
                    await asyncio.sleep(PAUSE_AFTER_REFUSAL_S)

        await asyncio.gather(*(sender() for _ in range(load.concurrency)))

    async def _open(self, session: aiohttp.ClientSession, load: OpenLoop) -> None:
        async with asyncio.TaskGroup() as group:
            for intended_s in load.send_times_s():
                await asyncio.sleep(max(0.0, intended_s - self.elapsed_s))
                group.create_task(self._request(session, intended_s))
            # The window stays open to its end, so that rates are of the asked duration.
            await asyncio.sleep(max(0.0, load.duration_s - self.elapsed_s))

    async def _request(self, session: aiohttp.ClientSession, intended_s: float) -> Sample:
        sent_s = self.elapsed_s
        self.in_flight += 1
        try:
            outcome, server_ms = await self._post(session)
        finally:
            self.in_flight -= 1
        sample = Sample(intended_s, sent_s, self.elapsed_s, outcome, server_ms)
        self.samples.append(sample)
        return sample

    async def _post(self, session: aiohttp.ClientSession) -> tuple[str, dict[str, float]]:
        try:
            async with session.post(f"{self.target.url}/predict", data=next(self._pictures)) as response:
                await response.read()
                return str(response.status), parse_server_timing(response.headers.get("Server-Timing", ""))
        except TimeoutError:
            return "timed out", {}
        except aiohttp.ClientConnectorError:
            return NO_CONNECTION, {}
        except aiohttp.ClientError:
            return "connection broken", {}


def parse_server_timing(header: str) -> dict[str, float]:
    """`queue;dur=1.5, inference;dur=20` -> {"queue": 1.5, "inference": 20.0}, milliseconds."""
    return {name: float(duration_ms) for name, duration_ms in _TIMING.findall(header)}
