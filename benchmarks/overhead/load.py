"""A closed loop of HTTP requests over kept-alive connections, as light as Python allows: it shares the machine."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class LoadError(Exception):
    """An answer that is not 200, or a connection that broke."""


@dataclass
class Load:
    """Latencies in seconds of the requests answered in a window, and the last answer."""

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
    loop, load = asyncio.get_running_loop(), Load()
    parts, turns, failed = urlsplit(url), itertools.cycle(requests), loop.create_future()
    host, port = str(parts.hostname), parts.port or 80
    clients = [_Connection(turns, load, failed) for _ in range(connections)]
    for client in clients:  # mypy cannot type a lambda whose default binds the loop's variable
        await loop.create_connection(lambda client=client: client, host, port)  # type: ignore[misc]
    try:
        await _sleep(warm_up_s, failed)
        load.latencies_s.clear()
        opened()
        await _sleep(window_s, failed)
        closed()
        return Load(load.latencies_s[:], load.last_answer)
    finally:
        for client in clients:
            client.stop()


async def _sleep(seconds: float, failed: asyncio.Future[None]) -> None:
    await asyncio.wait([failed], timeout=seconds)
    if failed.done():
        failed.result()


class _Connection(asyncio.Protocol):
    """Sends its next request as soon as the last one is answered."""

    def __init__(self, turns: itertools.cycle[bytes], load: Load, failed: asyncio.Future[None]) -> None:
        self._turns = turns
        self._load = load
        self._failed = failed
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
        self._received = b""
        self._sent = time.perf_counter()
        if not self._stopped:
            # asyncio types it as any transport; this one writes.
            self._transport.write(next(self._turns))  # type: ignore[attr-defined]

    def _fail(self, why: str) -> None:
        if not self._failed.done():
            self._failed.set_exception(LoadError(why))
