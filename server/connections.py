"""Connections that send nothing, or too slowly: uvicorn lets a new one wait for ever, and a half-sent header too."""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Callable
from typing import Any

import orjson
from uvicorn.protocols.http.auto import AutoHTTPProtocol

logger = logging.getLogger("server")

SPARE_FILES = 128
"""Open files that are left for everything but connections."""

LINGER_S = 2.0
LINGER_BYTES = 16 << 20
MAX_WAITING_BYTES = 2 << 20
"""Of a header, or of the rest of a body that was refused and that is read for the sake of the connection."""


class Connections:
    """How many connections there may be, and how long one may wait before a request is complete in its header."""

    def __init__(self, limit: int, header_timeout_s: float) -> None:
        self._limit = limit
        self._header_timeout_s = header_timeout_s
        self._next_log = 0.0

    def make_room(self, connections: set[Any]) -> bool:
        """Where a new one is one too many, closes those that have waited longest. False: all are busy."""
        if len(connections) <= self._limit:
            return True
        waiting = [connection for connection in connections if connection.is_waiting]
        self._log(len(waiting))
        some = 1 + self._limit // 32  # so that a flood does not have us look at all of them for each
        oldest = heapq.nsmallest(some, waiting, key=lambda connection: connection.waits_since)
        for connection in oldest:
            connection.transport.close()
        return bool(oldest)

    def close_late(self, connections: set[Any]) -> None:
        """Those whose header has begun or never began, and is late; who has been answered has uvicorn's own timer."""
        latest = time.monotonic() - self._header_timeout_s
        for connection in list(connections):
            if connection.is_waiting and connection.waits_since < latest and not connection.is_kept_alive:
                connection.transport.close()

    def _log(self, waiting: int) -> None:
        if (now := time.monotonic()) >= self._next_log:
            self._next_log = now + 60
            logger.warning(
                "%d connections, as many as there may be; %d of them wait for a request", self._limit, waiting
            )


class GuardedProtocol(AutoHTTPProtocol):  # type: ignore[misc,valid-type]  # httptools' where it is there, else h11's
    """uvicorn's HTTP/1.1 with these limits; the `Connections` come from the configuration's `connections`."""

    waits_since = 0.0
    """When it was last without a request, in seconds of `time.monotonic`."""
    _waiting_bytes = 0

    @property
    def is_waiting(self) -> bool:
        """For a request, or for the rest of its header."""
        return bool(self.cycle is None or self.cycle.response_complete)

    @property
    def is_kept_alive(self) -> bool:
        """Idle after an answer."""
        return self.timeout_keep_alive_task is not None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._ending = Ending(transport, self._has_more_body)
        super().connection_made(self._ending)
        self.waits_since = time.monotonic()
        if not self.config.connections.make_room(self.connections):
            self._refuse(503, "The server has as many connections as it can hold; try again in a second.")

    def data_received(self, data: bytes) -> None:
        if self._ending.has_begun:
            self._ending.discard(len(data))
            return
        super().data_received(data)
        self._waiting_bytes = self._waiting_bytes + len(data) if self.is_waiting else 0
        if self._waiting_bytes > MAX_WAITING_BYTES and not self.transport.is_closing():
            self._refuse(400, "The header is too long.")

    def on_response_complete(self) -> None:
        self.waits_since = time.monotonic()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "This is not a valid HTTP request.")

    def _refuse(self, status: int, detail: str) -> None:
        """Where no application can answer."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            title = {400: "Bad Request", 503: "Service Unavailable"}[status]
            problem = {"type": "about:blank", "title": title, "status": status, "detail": detail, "request_id": ""}
            body = orjson.dumps(problem)
            head = f"HTTP/1.1 {status} {title}\r\nContent-Type: application/problem+json\r\nConnection: close\r\n"
            self.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self._ending.linger()

    def _has_more_body(self) -> bool:
        return self.cycle is not None and bool(self.cycle.more_body)


class Ending:
    """A connection's transport, whose `close` first waits for a client that still sends: reset at once, it may never
    see its answer."""

    def __init__(self, transport: asyncio.Transport, still_sends: Callable[[], bool]) -> None:
        self.has_begun = False
        self._transport = transport
        self._still_sends = still_sends
        self._discarded = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self.has_begun or self._transport.is_closing()

    def close(self) -> None:
        if self.has_begun or not self._still_sends():
            self._transport.close()
        else:
            self.linger()

    def linger(self) -> None:
        """Sends no more, and reads for a while what nobody wants."""
        if self.is_closing():
            return
        self.has_begun = True
        self._transport.write_eof()  # the answer is complete; the client's end ends it all
        self._transport.resume_reading()
        asyncio.get_running_loop().call_later(LINGER_S, self._transport.close)

    def discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > LINGER_BYTES:
            self._transport.close()


def raise_file_limit() -> int:
    """Open files that this process may have, raised as far as the system lets it."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit on sockets
        return 1 << 16
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20
