"""What happens to every request before its route: an id, the door while the server stops, the key, one log line.

Pure ASGI: a `BaseHTTPMiddleware` would hide from the routes that a client has gone.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import CLIENT_GONE, problem
from server.logs import AccessLog, values
from server.metrics import PREDICT, Metrics
from server.record import Record
from server.tracing import Tracing, trace_id_of

logger = logging.getLogger("server")

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
LONGEST_PATH = 256
"""Characters of a path that logs and traces keep."""
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
    """The outermost application. `scope["state"]` gets the `record`, which the routes fill in, and the `request_id`
    that answers, logs and errors carry."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        lifecycle: Lifecycle,
        metrics: Metrics,
        api_keys: Sequence[str] = (),
        root_path: str = "",
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._tracing = tracing
        self._access_log = AccessLog()
        self._root_path = root_path.rstrip("/")
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._api_keys = [key.encode() for key in api_keys if key]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["root_path"] = self._root_path or scope.get("root_path", "")
        record = self._begin(scope)
        refusal = self._refusal(scope, record.request_id)
        if refusal is not None or _is_probe(scope):
            await self._answer(refusal or self._app, scope, receive, send, record)
            return
        self._lifecycle.in_flight += 1
        try:
            await self._answer(self._app, scope, receive, send, record)
        finally:
            self._lifecycle.in_flight -= 1
            if not self._lifecycle.in_flight:
                self._lifecycle.idle.set()

    def _begin(self, scope: Scope) -> Record:
        headers = Headers(scope=scope)
        path = scope["path"][:LONGEST_PATH]
        record = Record(_request_id(headers), scope["method"], path, trace_id=trace_id_of(headers))
        if self._tracing is not None and not _is_probe(scope):
            self._tracing.begin(record, headers)
        scope.setdefault("state", {}).update(record=record, request_id=record.request_id)
        return record

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

    async def _answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, record: Record) -> None:
        observed = _Observed(receive, send, record, self._lifecycle)
        try:
            await app(scope, observed.receive, observed.send)
        except Exception:
            logger.exception("bug", extra=values(request_id=record.request_id, trace_id=record.trace_id))
            if not record.status:
                detail = "The server has a bug. Its log has the details under this request id."
                await problem(500, detail, record.request_id)(scope, observed.receive, observed.send)
        finally:
            self._record(scope, record)

    def _record(self, scope: Scope, record: Record) -> None:
        record.status = record.status or CLIENT_GONE
        record.route = _template(scope)
        self._metrics.done(record)
        self._access_log.write(record, is_probe=_is_probe(scope))
        if self._tracing is not None and record.span is not None:
            self._tracing.end(record)


class _Observed:
    """What comes in and goes out, noted in the record, with the headers that every answer has."""

    def __init__(self, receive: Receive, send: Send, record: Record, lifecycle: Lifecycle) -> None:
        self._receive = receive
        self._send = send
        self._record = record
        self._lifecycle = lifecycle

    async def receive(self) -> Message:
        message = await self._receive()
        self._record.bytes_in += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._record.status = message["status"]
            self._add_headers(MutableHeaders(scope=message))
        else:
            self._record.bytes_out += len(message.get("body", b""))
        await self._send(message)

    def _add_headers(self, headers: MutableHeaders) -> None:
        record = self._record
        headers["X-Request-ID"] = record.request_id
        if record.trace_id:
            headers["X-Trace-ID"] = record.trace_id
        if timing := record.server_timing:
            headers["Server-Timing"] = timing
        if self._lifecycle.draining:
            headers["Connection"] = "close"


def key_of(headers: Headers) -> str:
    """The key of `Authorization: Bearer KEY` or of `X-API-Key: KEY`, else nothing."""
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("X-API-Key", "")


def _request_id(headers: Headers) -> str:
    sent = headers.get("X-Request-ID", "")
    return sent if REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex


def _template(scope: Scope) -> str:
    """The route's, or nothing: what a client makes up must not become a label. Refusals at the door are of no route."""
    if route := scope.get("route"):
        return str(route.path)
    return PREDICT if _route(scope) == PREDICT else ""


def _route(scope: Scope) -> str:
    """The path without the part under which a proxy shows the service."""
    return str(scope["path"]).removeprefix(scope["root_path"])


def _is_probe(scope: Scope) -> bool:
    return _route(scope).startswith(PROBES)


def _is_public(scope: Scope) -> bool:
    return _route(scope) in PUBLIC
