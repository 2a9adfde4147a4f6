"""What happens to every request before its route: an id, the door while the server stops, the key, one log line.

Pure ASGI: a `BaseHTTPMiddleware` would hide from the routes that a client has gone.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import problem
from server.metrics import Metrics

logger = logging.getLogger("server.requests")

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
PROBES = ("/health/", "/metrics")
"""Answered while the server stops and without a key."""
PUBLIC = ("/", "/docs", "/openapi.json")


@dataclass
class Lifecycle:
    """Whether the server takes new work, and how many requests it still owes an answer."""

    draining: bool = False
    in_flight: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    async def drain(self, timeout_s: float) -> bool:
        """Takes no new work; waits for the accepted requests. False when they take longer than `timeout_s`."""
        self.draining = True
        self.idle.clear()
        if not self.in_flight:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self.idle.wait()
        except TimeoutError:
            return False
        return True


class Gateway:
    """The outermost application. `scope["state"]["request_id"]` is the id that answers, logs and errors carry."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        lifecycle: Lifecycle,
        metrics: Metrics,
        api_keys: Sequence[str] = (),
        root_path: str = "",
    ) -> None:
        self._app = app
        self._root_path = root_path.rstrip("/")
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._api_keys = [key.encode() for key in api_keys if key]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["root_path"] = self._root_path or scope.get("root_path", "")
        exchange = _Exchange(send, _request_id(scope), self._lifecycle)
        scope.setdefault("state", {})["request_id"] = exchange.request_id
        refusal = self._refusal(scope, exchange.request_id)
        if refusal is not None or _is_probe(scope):
            await self._answer(refusal or self._app, scope, receive, exchange)
            return
        self._lifecycle.in_flight += 1
        try:
            await self._answer(self._app, scope, receive, exchange)
        finally:
            self._lifecycle.in_flight -= 1
            if not self._lifecycle.in_flight:
                self._lifecycle.idle.set()

    def _refusal(self, scope: Scope, request_id: str) -> Response | None:
        if _is_probe(scope):
            return None
        if self._lifecycle.draining:
            return problem(503, "The server is stopping; it takes no new work.", request_id)
        if self._api_keys and not _is_public(scope) and not self._has_key(scope):
            detail = "This server needs a key: send the header `Authorization: Bearer KEY`."
            return problem(401, detail, request_id, {"WWW-Authenticate": "Bearer"})
        return None

    def _has_key(self, scope: Scope) -> bool:
        sent = key_of(Headers(scope=scope)).encode()
        return sum(hmac.compare_digest(sent, key) for key in self._api_keys) > 0  # not any(): it would stop at a match

    async def _answer(self, app: ASGIApp, scope: Scope, receive: Receive, exchange: _Exchange) -> None:
        try:
            await app(scope, receive, exchange.send)
        except Exception:
            logger.exception("bug id=%s", exchange.request_id)
            if not exchange.status:
                detail = "The server has a bug. Its log has the details under this request id."
                await problem(500, detail, exchange.request_id)(scope, receive, exchange.send)
        finally:
            self._record(scope, exchange)

    def _record(self, scope: Scope, exchange: _Exchange) -> None:
        seconds = time.monotonic() - exchange.started
        self._metrics.request_done(_route(scope), exchange.status, seconds)
        level = logging.DEBUG if _is_probe(scope) else logging.INFO
        line = (exchange.request_id, scope["method"], scope["path"], exchange.status, seconds * 1e3)
        logger.log(level, "id=%s method=%s path=%s status=%d ms=%.1f", *line)


class _Exchange:
    """One request's id, and what has been answered."""

    def __init__(self, send: Send, request_id: str, lifecycle: Lifecycle) -> None:
        self.request_id = request_id
        self.started = time.monotonic()
        self.status = 0
        self._send = send
        self._lifecycle = lifecycle

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.request_id
            if self._lifecycle.draining:
                headers["Connection"] = "close"
        await self._send(message)


def key_of(headers: Headers) -> str:
    """The key of `Authorization: Bearer KEY` or of `X-API-Key: KEY`, else nothing."""
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("X-API-Key", "")


def _request_id(scope: Scope) -> str:
    sent = Headers(scope=scope).get("X-Request-ID", "")
    return sent if REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex


def _route(scope: Scope) -> str:
    """The path without the part under which a proxy shows the service."""
    return str(scope["path"]).removeprefix(scope["root_path"])


def _is_probe(scope: Scope) -> bool:
    return _route(scope).startswith(PROBES)


def _is_public(scope: Scope) -> bool:
    return _route(scope) in PUBLIC
