"""Connections that send nothing, or too slowly: uvicorn lets a new one wait for ever, and a half-sent header too."""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from typing import Any

import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol

logger = logging.getLogger("server")

SPARE_FILES = 128
"""Open files that are left for everything but connections."""


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


class GuardedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with these limits; the `Connections` come from the configuration's `connections`."""

    waits_since = 0.0
    """When it was last without a request, in seconds of `time.monotonic`."""

    @property
    def is_waiting(self) -> bool:
        """For a request, or for the rest of its header."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def is_kept_alive(self) -> bool:
        """Idle after an answer."""
        return self.timeout_keep_alive_task is not None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.waits_since = time.monotonic()
        if not self.config.connections.make_room(self.connections):  # type: ignore[attr-defined]
            self._refuse(503, "The server has as many connections as it can hold; try again in a second.")

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
        self.transport.close()


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
