"""`Client` and `AsyncClient`: the same calls, waiting or awaited. What they share is in `clients.exchange`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Self, Unpack

from clients.errors import MissingExtraError
from clients.picture import Picture
from clients.prediction import Prediction

try:
    import httpx2
except ModuleNotFoundError as error:
    raise MissingExtraError("the Python client", "httpx2", "client") from error

from clients import exchange
from clients.exchange import Options, Outcome

PICTURES_PER_REQUEST = 8


class Client:
    """A Maskline server. Keeps its connections: use one for many pictures, in any thread; `close` it or use `with`.

    `timeout`: seconds to connect, and for each wait on the socket. `retries`: tries after the first one, with the waits
    of `exchange.RetryPolicy`.
    """

    def __init__(self, url: str, api_key: str | None = None, timeout: float = 60.0, retries: int = 2) -> None:
        self.url = url.rstrip("/")
        self._policy = exchange.RetryPolicy(retries)
        self._http = httpx2.Client(headers=exchange.headers(api_key), timeout=timeout)

    def predict(self, picture: Picture, **options: Unpack[Options]) -> Prediction:
        """What the server finds in one picture. Raises the errors of `clients.errors`."""
        return self._send([picture], options)[0]

    def predict_many(self, pictures: Iterable[Picture], **options: Unpack[Options]) -> list[Prediction]:
        """The same for many, `PICTURES_PER_REQUEST` a request, in their order. One bad picture fails the call."""
        found: list[Prediction] = []
        for part in _parts(pictures):
            with exchange.counting_from(len(found)):
                found += self._send(part, options)
        return found

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, pictures: Sequence[Picture], options: Options) -> list[Prediction]:
        body, query = exchange.body(pictures), exchange.query(options)
        for attempt in count():
            outcome = self._try(query, body)
            delay_s = self._policy.delay_s(outcome, attempt)
            if delay_s is None:
                break
            time.sleep(delay_s)
        return exchange.predictions(outcome, self.url, len(pictures))

    def _try(self, query: dict[str, str], body: exchange.Body) -> Outcome:
        try:
            return self._http.post(f"{self.url}/predict", params=query, **body)
        except exchange.FAILURES as failure:
            return failure


class AsyncClient:
    """`Client` for asyncio: the same calls, awaited; `aclose` it or use `async with`."""

    def __init__(self, url: str, api_key: str | None = None, timeout: float = 60.0, retries: int = 2) -> None:
        self.url = url.rstrip("/")
        self._policy = exchange.RetryPolicy(retries)
        self._http = httpx2.AsyncClient(headers=exchange.headers(api_key), timeout=timeout)

    async def predict(self, picture: Picture, **options: Unpack[Options]) -> Prediction:
        """See `Client.predict`."""
        return (await self._send([picture], options))[0]

    async def predict_many(self, pictures: Iterable[Picture], **options: Unpack[Options]) -> list[Prediction]:
        """See `Client.predict_many`."""
        found: list[Prediction] = []
        for part in _parts(pictures):
            with exchange.counting_from(len(found)):
                found += await self._send(part, options)
        return found

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _send(self, pictures: Sequence[Picture], options: Options) -> list[Prediction]:
        body, query = await asyncio.to_thread(exchange.body, pictures), exchange.query(options)
        for attempt in count():
            outcome = await self._try(query, body)
            delay_s = self._policy.delay_s(outcome, attempt)
            if delay_s is None:
                break
            await asyncio.sleep(delay_s)
        return exchange.predictions(outcome, self.url, len(pictures))

    async def _try(self, query: dict[str, str], body: exchange.Body) -> Outcome:
        try:
            return await self._http.post(f"{self.url}/predict", params=query, **body)
        except exchange.FAILURES as failure:
            return failure


def _parts(pictures: Iterable[Picture]) -> Iterator[list[Picture]]:
    part: list[Picture] = []
    for picture in pictures:
        part.append(picture)
        if len(part) == PICTURES_PER_REQUEST:
            yield part
            part = []
    if part:
        yield part
