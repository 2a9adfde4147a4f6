"""Clients that know what their answers should be, and some that send rubbish or leave early."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp

from benchmarks.soak.cases import Case

BAD_SHARE, LEAVING_SHARE = 0.02, 0.02
LONGEST_STAY_S = 0.05
TIMEOUT_S = 60
UNEXPECTED_KEPT = 20


@dataclass
class Ledger:
    """What became of the requests. `unexpected` has the first few of those that it should not have happened to."""

    outcomes: Counter[str] = field(default_factory=Counter)
    unexpected_count: int = 0
    unexpected: list[str] = field(default_factory=list)

    def note(self, outcome: str, request_id: str, problem: str = "") -> None:
        self.outcomes[outcome] += 1
        if problem:
            self.unexpected_count += 1
            if len(self.unexpected) < UNEXPECTED_KEPT:
                self.unexpected.append(f"{request_id}: {problem}")


class Traffic:
    """A closed loop of mixed requests. `in_flight` are the ids of good requests that are not answered yet."""

    def __init__(self, url: str, good: Sequence[Case], bad: Sequence[Case], seed: int = 0) -> None:
        self.ledger = Ledger()
        self.in_flight: set[str] = set()
        self.answered: set[str] = set()
        """Ids of good requests with their own answers, where `remember` is set."""
        self.remember = False
        self._url = url
        self._good = good
        self._bad = bad
        self._random = random.Random(seed)
        self._ids = (f"soak-{number}" for number in itertools.count())

    async def run(self, clients: int, wanted: Callable[[], bool]) -> None:
        """Sends for as long as `wanted` says so, and waits for the last answers."""
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await asyncio.gather(*(self._client(session, wanted) for _ in range(clients)))

    async def _client(self, session: aiohttp.ClientSession, wanted: Callable[[], bool]) -> None:
        while wanted():
            draw = self._random.random()
            if draw < LEAVING_SHARE:
                await self._leave(self._random.choice(self._good))
            elif draw < LEAVING_SHARE + BAD_SHARE:
                await self._ask(session, self._random.choice(self._bad))
            else:
                await self._ask(session, self._random.choice(self._good))

    async def _ask(self, session: aiohttp.ClientSession, case: Case) -> None:
        request_id = next(self._ids)
        headers = {"Content-Type": case.content_type, "X-Request-ID": request_id}
        if case.images is not None:
            self.in_flight.add(request_id)
        try:
            async with session.post(f"{self._url}/predict", data=case.data, headers=headers) as response:
                document = await response.json(content_type=None)
                self.judge(case, request_id, response.status, document)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self.ledger.note("lost", request_id, f"no answer: {type(error).__name__} {error}")
        self.in_flight.discard(request_id)

    def judge(self, case: Case, request_id: str, status: int, document: dict[str, object]) -> None:
        """Notes an answer: its own, another's, or none that a request of this kind should get."""
        if document.get("request_id") != request_id:
            self.ledger.note("another's", request_id, f"the answer of {document.get('request_id')}")
        elif case.images is None:
            refused = 400 <= status < 500 and bool(document.get("detail"))
            self.ledger.note("bad, refused" if refused else "bad, accepted", request_id, "" if refused else str(status))
        elif status != 200:
            self.ledger.note(str(status), request_id, f"{status} {document.get('detail')}")
        elif document["images"] != case.images:
            self.ledger.note("wrong", request_id, "the answer of another picture")
        else:
            self.ledger.note("right", request_id)
            if self.remember:
                self.answered.add(request_id)

    async def _leave(self, case: Case) -> None:
        """Sends a request, or the half of it, and goes before the answer, most often."""
        parts = urlsplit(self._url)
        body = case.data if self._random.random() < 0.5 else case.data[: len(case.data) // 2]
        head = f"POST /predict HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {case.content_type}\r\n"
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(f"{head}Content-Length: {len(case.data)}\r\n\r\n".encode() + body)
        await asyncio.sleep(self._random.random() * LONGEST_STAY_S)
        writer.transport.abort()
        self.ledger.note("left", "")
