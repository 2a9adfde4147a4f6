"""`Client` and `AsyncClient`: the same calls, waiting or awaited. What they share is in `clients.exchange`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from typing import Self, TypeVar, Unpack

from clients.errors import MasklineError, MissingExtraError
from clients.picture import Picture
from clients.prediction import Prediction

try:
    import httpx2
except ModuleNotFoundError as error:
    raise MissingExtraError("the Python client", "httpx2", "client") from error

from clients import exchange
from clients.exchange import Options, Outcome, RetryPolicy, Tries
from clients.streams import in_order, in_order_async

PATIENCE_S = 600.0
"""How long a picture of many is offered to a server that is too busy for it."""

AnyPicture = TypeVar("AnyPicture", bound=Picture)


class Client:
    """A Maskline server. Keeps its connections: use one for many pictures, in any thread; `close` it or use `with`.

    `timeout`: seconds to connect, and for each wait on the socket; for an answer, `timeout_ms` of a call where that is
    longer. `retries`: tries after the first one, with the waits of `exchange.RetryPolicy`.
    """

    def __init__(self, url: str, api_key: str | None = None, timeout: float = 60.0, retries: int = 2) -> None:
        self.url = url.rstrip("/")
        self._timeout, self._retries = timeout, retries
        self._http = httpx2.Client(headers=exchange.headers(api_key))

    def predict(self, picture: Picture, **options: Unpack[Options]) -> Prediction:
        """What the server finds in one picture. Raises the errors of `clients.errors`."""
        return self._send(picture, Tries(RetryPolicy(self._retries), options, self._timeout), time.sleep)

    def predict_many(
        self, pictures: Iterable[AnyPicture], parallel: int = 8, **options: Unpack[Options]
    ) -> Generator[tuple[AnyPicture, Prediction | MasklineError], None, None]:
        """Each picture with what was found in it, or why nothing could be: one bad picture does not stop the rest.

        In the pictures' order, `parallel` requests at a time, few pictures in memory. Where the server is too busy,
        this slows down: a picture is offered again whenever the server says, for up to `PATIENCE_S`.
        """
        policy = RetryPolicy(self._retries, patient=True, within_s=PATIENCE_S)
        stopped = threading.Event()

        def answer(picture: AnyPicture) -> Prediction | MasklineError:
            try:
                return self._send(picture, Tries(policy, options, self._timeout), stopped.wait)
            except MasklineError as error:
                return error

        return in_order(answer, pictures, parallel, stopped)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, picture: Picture, tries: Tries, pause: Callable[[float], bool | None]) -> Prediction:
        """`pause` waits for so many seconds; true says that nobody waits for the answer any more."""
        body = exchange.body(picture)
        while True:
            outcome = self._try(tries, body)
            delay_s = tries.delay_s(outcome)
            if delay_s is None or pause(delay_s):
                return exchange.prediction(outcome, self.url)

    def _try(self, tries: Tries, body: exchange.Body) -> Outcome:
        try:
            return self._http.post(f"{self.url}/predict", params=tries.query(), timeout=tries.timeout(), **body)
        except exchange.FAILURES as failure:
            return failure


class AsyncClient:
    """`Client` for asyncio: the same calls, awaited; `aclose` it or use `async with`."""

    def __init__(self, url: str, api_key: str | None = None, timeout: float = 60.0, retries: int = 2) -> None:
        self.url = url.rstrip("/")
        self._timeout, self._retries = timeout, retries
        self._http = httpx2.AsyncClient(headers=exchange.headers(api_key))

    async def predict(self, picture: Picture, **options: Unpack[Options]) -> Prediction:
        """See `Client.predict`."""
        return await self._send(picture, Tries(RetryPolicy(self._retries), options, self._timeout))

    def predict_many(
        self, pictures: Iterable[AnyPicture], parallel: int = 8, **options: Unpack[Options]
    ) -> AsyncGenerator[tuple[AnyPicture, Prediction | MasklineError], None]:
        """See `Client.predict_many`; for `async for`."""
        policy = RetryPolicy(self._retries, patient=True, within_s=PATIENCE_S)

        async def answer(picture: AnyPicture) -> Prediction | MasklineError:
            try:
                return await self._send(picture, Tries(policy, options, self._timeout))
            except MasklineError as error:
                return error

        return in_order_async(answer, pictures, parallel)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _send(self, picture: Picture, tries: Tries) -> Prediction:
        body = await asyncio.to_thread(exchange.body, picture)
        while True:
            outcome = await self._try(tries, body)
            delay_s = tries.delay_s(outcome)
            if delay_s is None:
                return exchange.prediction(outcome, self.url)
            await asyncio.sleep(delay_s)

    async def _try(self, tries: Tries, body: exchange.Body) -> Outcome:
        try:
            return await self._http.post(f"{self.url}/predict", params=tries.query(), timeout=tries.timeout(), **body)
        except exchange.FAILURES as failure:
            return failure
