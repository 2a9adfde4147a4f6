"""A closed loop of HTTP requests over kept-alive connections, as light as Python allows: it shares the machine.

For as long as the caller says, or for as many requests as there are.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class LoadError(Exception):
    """An answer that is not 200, or a connection that broke."""


@dataclass
class Load:
    """Latencies in seconds of the requests that were answered and count, and the last answer."""

    latencies_s: list[float] = field(default_factory=list)
    last_answer: bytes = b""


def request(url: str, body: bytes, content_type: str) -> bytes:
    """The bytes of a POST."""
    parts = urlsplit(url)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {content_type}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def run(
    url: str,
    requests: Sequence[bytes],
    connections: int,
    warm_up_s: float,
    window_s: float,
    opened: Callable[[], None],
    closed: Callable[[], None],
) -> Load:
    """Sends the requests in turn on so many connections at once.

    `opened` and `closed` are called where the window begins and ends, while the load goes on. Raises `LoadError`.
    """
    load = Load()
    clients = await _connected(url, itertools.cycle(requests), connections, load)
    try:
        await _wait(clients, warm_up_s)
        load.latencies_s.clear()
        opened()
        await _wait(clients, window_s)
        closed()
        return Load(load.latencies_s[:], load.last_answer)
    finally:
        _stop(clients)


async def run_all(url: str, requests: Iterator[bytes], connections: int) -> Load:
    """Sends the requests in turn on so many connections at once, and waits for every answer. Raises `LoadError`."""
    load = Load()
    clients = await _connected(url, requests, connections, load)
    try:
        await _wait(clients, None)
        return load
    finally:
        _stop(clients)


async def _connected(url: str, requests: Iterator[bytes], connections: int, load: Load) -> list[_Connection]:
    loop, parts = asyncio.get_running_loop(), urlsplit(url)
    host, port = str(parts.hostname), parts.port or 80
    clients = [_Connection(requests, load, loop.create_future()) for _ in range(connections)]
    for client in clients:  # mypy cannot type a lambda whose default binds the loop's variable
        await loop.create_connection(lambda client=client: client, host, port)  # type: ignore[misc]
    return clients


async def _wait(clients: Sequence[_Connection], seconds: float | None) -> None:
    """Until all have ended or one has failed, but no longer than that."""
    ended = [client.ended for client in clients]
    done, _ = await asyncio.wait(ended, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for error in [one.exception() for one in done]:
        if error is not None:
            raise error


def _stop(clients: Sequence[_Connection]) -> None:
    for client in clients:
        client.stop()


class _Connection(asyncio.Protocol):
    """Sends its next request as soon as the last one is answered. `ended`: there is none, or one has failed."""

    def __init__(self, requests: Iterator[bytes], load: Load, ended: asyncio.Future[None]) -> None:
        self.ended = ended
        self._requests = requests
        self._load = load
        self._received = b""
        self._sent = 0.0
        self._stopped = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        length = CONTENT_LENGTH.search(self._received, 0, head_end)
        if length is None or not self._received.startswith(b"HTTP/1.1 200"):
            self._fail(f"Not an answer: {self._received[:300]!r}")
            return
        body = self._received[head_end + 4 :]
        if len(body) < int(length[1]):
            return
        self._load.latencies_s.append(time.perf_counter() - self._sent)
        self._load.last_answer = body
        self._send()

    def connection_lost(self, _: Exception | None) -> None:
        if not self._stopped:
            self._fail("The server closed a connection.")

    def stop(self) -> None:
        self._stopped = True
        self._transport.close()

    def _send(self) -> None:
        request = None if self._stopped else next(self._requests, None)
        if request is None:
            self._end(None)
            return
        self._received = b""
        self._sent = time.perf_counter()
        self._transport.write(request)  # type: ignore[attr-defined]  # asyncio types it as any transport; this one writes

    def _fail(self, why: str) -> None:
        self._end(LoadError(why))

    def _end(self, error: LoadError | None) -> None:
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error)
