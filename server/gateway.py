"""What happens to every request before its route: an id, the door while the server stops, the key, one log line.

Pure ASGI: a `BaseHTTPMiddleware` would hide from the routes that a client has gone.
"""

from __future__ import annotations

import base64
import hmac
import logging
import re
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import CLIENT_GONE, own_path, problem
from server.exchange import Exchange
from server.lifecycle import Lifecycle
from server.logs import AccessLog, values
from server.metrics import PREDICT, Metrics
from server.record import Record
from server.tracing import Tracing, trace_id_of

logger = logging.getLogger("server")

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
LONGEST_PATH = 256
"""Characters of a path that logs and traces keep."""
PROBES = ("/health/", "/v2/health/", "/metrics")
"""Answered while the server stops and without a key."""
PUBLIC = ("/", "/docs", "/openapi.json")
PUBLIC_FILES = "/static/"
"""What the pages are made of, which ask for the key."""


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
        self._api_keys = [key_bytes(key) for key in api_keys if key]

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
            return problem(503, "The server is stopping; it takes no new work.", request_id, path=own_path(scope))
        if self._api_keys and not _is_public(scope) and not self._has_key(scope):
            detail = "This server needs a key: send the header `Authorization: Bearer KEY`."
            return problem(401, detail, request_id, {"WWW-Authenticate": "Bearer"}, path=own_path(scope))
        return None

    def _has_key(self, scope: Scope) -> bool:
        sent = key_of(Headers(scope=scope))
        return sum(hmac.compare_digest(sent, key) for key in self._api_keys) > 0  # not any(): it would stop at a match

    async def _answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, record: Record) -> None:
        exchange = Exchange(scope, receive, send, record, self._lifecycle)
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        try:
            await app(scope, exchange.receive, exchange.send)
        except Exception:
            logger.exception("bug", extra=values(request_id=record.request_id, trace_id=record.trace_id))
            if not record.status:
                detail = "The server has a bug. Its log has the details under this request id."
                answer = problem(500, detail, record.request_id, path=own_path(scope))
                await answer(scope, exchange.receive, exchange.send)
        finally:
            self._record(scope, record)

    def _record(self, scope: Scope, record: Record) -> None:
        record.status = record.status or CLIENT_GONE
        record.route = _template(scope)
        self._metrics.done(record)
        self._access_log.write(record, is_probe=_is_probe(scope))
        if self._tracing is not None and record.span is not None:
            self._tracing.end(record)


def key_of(headers: Headers) -> bytes:
    """The key of `Authorization: Bearer KEY` or of `X-API-Key: KEY` as it was sent, else nothing. A password of Basic
    is one too: Label Studio knows no other way."""
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        return _password(key)
    found = key.strip() if scheme.lower() == "bearer" else headers.get("X-API-Key", "")
    return found.encode("latin-1")  # as starlette has decoded it


def _password(credentials: str) -> bytes:
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except ValueError:
        return b""


def key_bytes(key: str) -> bytes:
    """A key of the settings as a client sends it, also where it is not ASCII."""
    return key.encode("utf-8", "surrogateescape")


def _request_id(headers: Headers) -> str:
    sent = headers.get("X-Request-ID", "")
    return sent if REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex


def _template(scope: Scope) -> str:
    """The route's, or nothing: what a client makes up must not become a label. Refusals at the door are of no route."""
    if route := scope.get("route"):
        return str(route.path)
    return PREDICT if own_path(scope) == PREDICT else ""


def _is_probe(scope: Scope) -> bool:
    return own_path(scope).startswith(PROBES)


def _is_public(scope: Scope) -> bool:
    path = own_path(scope)
    return path in PUBLIC or path.startswith(PUBLIC_FILES)
