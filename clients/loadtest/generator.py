"""Sends one load over HTTP and records what became of every request.

Latency counts from the *intended* send time. In an open loop that is the appointed time, so a request that waited
behind others, here or in the server, counts its wait (no "coordinated omission").
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import math
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import urljoin

import aiohttp

from clients.errors import UnreachableError
from clients.loadtest.adapters import MASKLINE, Adapter, Request
from clients.loadtest.answers import Answers
from clients.loadtest.load import ClosedLoop, Load, MultiStream, Offline, OpenLoop
from clients.loadtest.metrics import Scrapes
from clients.loadtest.mlperf import rank

WARM_UP_S = 1.0
# A closed loop against a server that refuses at once would otherwise spin.
PAUSE_AFTER_REFUSAL_S = 0.05

NO_CONNECTION = "no connection"
TIMED_OUT = "timed out"

_TIMING = re.compile(r"([A-Za-z_]+)\s*;[^,]*?dur=([0-9.]+)")
_BATCH = re.compile(r'batch;desc="(\d+)"')
_CANVAS = re.compile(r'canvas;desc="([^"]*)"')
# Beyond this aiohttp warns of a body that is handed over in one piece.
_ONE_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Target:
    """Where to send what; `pictures` are encoded image files. Every pass over them is in a random order."""

    url: str
    pictures: Sequence[bytes]
    timeout_s: float = 60.0
    api_key: str | None = None
    adapter: Adapter = MASKLINE
    metrics_url: str | None = None

    @cached_property
    def requests(self) -> list[Request]:
        return [self.adapter.request(picture) for picture in self.pictures]

    def session(self) -> aiohttp.ClientSession:
        """No limit of connections: an open loop never waits for one. Answers are not compressed."""
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        headers = {"Accept-Encoding": "identity", **key}
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout, headers=headers)

    async def post(self, session: aiohttp.ClientSession, picture: int) -> Answer:
        request = self.requests[picture]
        body = request.body if len(request.body) < _ONE_PIECE_BYTES else io.BytesIO(request.body)
        try:
            async with session.post(self.url + self.adapter.path, data=body, headers=request.headers) as response:
                content = await response.read()
                return Answer(str(response.status), content, response.headers.get("Server-Timing", ""))
        except TimeoutError:
            return Answer(TIMED_OUT)
        except aiohttp.ClientConnectorError:
            return Answer(NO_CONNECTION)
        except aiohttp.ClientError:
            return Answer("connection broken")


@dataclass(frozen=True, slots=True)
class Answer:
    """`outcome` is `200`, `429`, ... or why none came."""

    outcome: str
    content: bytes = b""
    server_timing: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Times in seconds from the start of the window.

    `intended_s`: when it should have been there, from which latency counts. `due_s`: when the generator could send it;
    the same but for `Offline`, where requests wait for those before them. `server_ms`: the server's own account;
    `canvas`: the size that the picture had in the engine, where the server tells it.
    """

    intended_s: float
    due_s: float
    sent_s: float
    done_s: float
    outcome: str
    server_ms: dict[str, float] = field(default_factory=dict)
    canvas: str = ""

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
        return (self.sent_s - self.due_s) * 1e3


class Run:
    """One load on one target. `samples` grows while `execute` runs, so that a progress display can read it.

    `queries_ms` has MultiStream's queries, infinite where not all of one was answered. `carried` counts answers inside
    the window to requests that were sent before it. `duration_s` is the load's, unless the run was given up earlier.
    """

    def __init__(self, target: Target, load: Load, answers: Answers | None = None) -> None:
        self.target = target
        self.load = load
        self.answers = answers
        self.scrapes = Scrapes(target.metrics_url or urljoin(target.url, "/metrics"), load.duration_s)
        self.samples: list[Sample] = []
        self.queries_ms: list[float] = []
        self.outcomes: Counter[str] = Counter()
        self.carried = self.in_flight = 0
        self.finished = self.given_up = False
        self.duration_s = load.duration_s
        self._pictures = _shuffled_passes(len(target.pictures))
        self._start: float | None = None
        self._late_left: int | None = None

    @property
    def elapsed_s(self) -> float:
        """From the start of the window; negative in the warm-up."""
        return time.perf_counter() - self._start if self._start is not None else -WARM_UP_S

    async def execute(self) -> None:
        """Warm up for at most a second, send the load, and wait for the last answer.

        Raises `UnreachableError` when nobody listens there.
        """
        async with self.target.session() as session:
            warm_up_s = min(WARM_UP_S, self.load.duration_s / 4)
            self._start = time.perf_counter() + warm_up_s
            await self._reach(session)
            scraping = asyncio.create_task(self.scrapes.collect(session, -self.elapsed_s))
            try:
                await self._send(session)
            finally:
                scraping.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await scraping
            await self.scrapes.take(session)
        self.finished = True

    async def _send(self, session: aiohttp.ClientSession) -> None:
        match self.load:
            case ClosedLoop(concurrency):
                # The senders are at work when the window begins, and go on: nothing of theirs is dropped.
                await asyncio.gather(*(self._stream(session) for _ in range(concurrency)))
            case MultiStream():
                await self._queries(session, self.load)
            case Offline(concurrency):
                await self._warm_up(session)
                await asyncio.gather(*(self._drain(session) for _ in range(concurrency)))
            case OpenLoop():
                await self._warm_up(session)
                await self._open(session, self.load)

    async def _reach(self, session: aiohttp.ClientSession) -> None:
        if await self._ask_in_warm_up(session) == NO_CONNECTION:
            raise unreachable(self.target.url)

    async def _warm_up(self, session: aiohttp.ClientSession) -> None:
        """One request after another until the window begins, so that it begins with an idle server."""
        while self.elapsed_s < 0:
            await self._ask_in_warm_up(session)
        self._start = time.perf_counter()

    async def _ask_in_warm_up(self, session: aiohttp.ClientSession) -> str:
        """With a slow server what is under way is dropped."""
        try:
            async with asyncio.timeout(max(-self.elapsed_s, 0.001)):
                return (await self.target.post(session, next(self._pictures))).outcome
        except TimeoutError:
            return TIMED_OUT

    async def _stream(self, session: aiohttp.ClientSession) -> None:
        while (now_s := self.elapsed_s) < self.load.duration_s:
            if not (await self._request(session, now_s, now_s)).ok:
                await asyncio.sleep(PAUSE_AFTER_REFUSAL_S)

    async def _queries(self, session: aiohttp.ClientSession, load: MultiStream) -> None:
        while (now_s := self.elapsed_s) < load.duration_s:
            requests = (self._request(session, now_s, now_s) for _ in range(load.samples_per_query))
            query = await asyncio.gather(*requests)
            ok = all(sample.ok for sample in query)
            if now_s >= 0:
                self.queries_ms.append(max(sample.latency_ms for sample in query) if ok else math.inf)
            if not ok:
                await asyncio.sleep(PAUSE_AFTER_REFUSAL_S)

    async def _drain(self, session: aiohttp.ClientSession) -> None:
        while (now_s := self.elapsed_s) < self.load.duration_s:
            if not (await self._request(session, 0.0, now_s)).ok:
                await asyncio.sleep(PAUSE_AFTER_REFUSAL_S)

    async def _open(self, session: aiohttp.ClientSession, load: OpenLoop) -> None:
        times_s = load.send_times_s()
        if load.target_ms is not None:
            self._late_left = len(times_s) - rank(len(times_s), 0.99)
        async with asyncio.TaskGroup() as group:
            for intended_s in map(float, times_s):
                await asyncio.sleep(max(0.0, intended_s - self.elapsed_s))
                if self.given_up:
                    return
                group.create_task(self._request(session, intended_s, intended_s))
            # The window stays open to its end, so that rates are of the asked duration.
            await asyncio.sleep(max(0.0, load.duration_s - self.elapsed_s))

    async def _request(self, session: aiohttp.ClientSession, intended_s: float, due_s: float) -> Sample:
        picture, sent_s = next(self._pictures), self.elapsed_s
        self.in_flight += 1
        try:
            answer = await self.target.post(session, picture)
        finally:
            self.in_flight -= 1
        done_s = self.elapsed_s
        told = parse_server_timing(answer.server_timing)
        canvas = parse_canvas(answer.server_timing)
        sample = Sample(intended_s, due_s, sent_s, done_s, answer.outcome, told, canvas)
        if due_s >= 0:
            self._record(sample, picture, answer)
        elif sample.ok and 0 <= done_s <= self.load.duration_s:
            self.carried += 1
        return sample

    def _record(self, sample: Sample, picture: int, answer: Answer) -> None:
        self.samples.append(sample)
        self.outcomes[sample.outcome] += 1
        if sample.ok and self.answers is not None:
            self.answers.note(picture, answer.content)
        if self._late_left is not None and isinstance(self.load, OpenLoop) and not self.given_up:
            self._late_left -= not sample.ok or sample.latency_ms > (self.load.target_ms or 0)
            if self._late_left <= 0:
                self.given_up, self.duration_s = True, min(self.elapsed_s, self.load.duration_s)


def _shuffled_passes(count: int) -> Iterator[int]:
    """Every picture equally often, in an order that is random and the same in every run."""
    rng = random.Random(0)
    while True:
        yield from rng.sample(range(count), count)


def unreachable(url: str) -> UnreachableError:
    return UnreachableError(f"No connection to {url}: is a server running there?")


def parse_server_timing(header: str) -> dict[str, float]:
    """`queue;dur=1.5, inference;dur=20` -> {"queue": 1.5, "inference": 20.0}, milliseconds; `batch` is a size."""
    if not header:
        return {}
    found = {name: float(duration_ms) for name, duration_ms in _TIMING.findall(header)}
    if batch := _BATCH.search(header):
        found["batch"] = float(batch[1])
    return found


def parse_canvas(header: str) -> str:
    """`canvas;desc="800x1088"` -> "800x1088"; empty where it is not told."""
    found = _CANVAS.search(header)
    return found[1] if found else ""
