"""What happens to every request before its route: an id, the door while the server stops, the key, one log line.

Pure ASGI: a `BaseHTTPMiddleware` would hide from the routes that a client has gone.
"""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from collections.abc import Sequence
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import problem
from server.exchange import Exchange
from server.lifecycle import Lifecycle
from server.metrics import Metrics

logger = logging.getLogger("server.requests")

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
PROBES = ("/health/", "/metrics")
"""Answered while the server stops and without a key."""
MAX_LOGGED = 200
"""Characters of a path that a log line shows."""
PUBLIC = ("/", "/docs", "/openapi.json")


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
        self._api_keys = [key_bytes(key) for key in api_keys if key]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["root_path"] = self._root_path or scope.get("root_path", "")
        exchange = Exchange(scope, receive, send, request_id=_request_id(scope), lifecycle=self._lifecycle)
        scope.setdefault("state", {})["request_id"] = exchange.request_id
        refusal = self._refusal(scope, exchange.request_id)
        if refusal is not None or _is_probe(scope):
            await self._answer(refusal or self._app, scope, exchange)
            return
        self._lifecycle.in_flight += 1
        try:
            await self._answer(self._app, scope, exchange)
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
        sent = key_of(Headers(scope=scope))
        return sum(hmac.compare_digest(sent, key) for key in self._api_keys) > 0  # not any(): it would stop at a match

    async def _answer(self, app: ASGIApp, scope: Scope, exchange: Exchange) -> None:
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        try:
            await app(scope, exchange.receive, exchange.send)
        except Exception:
            logger.exception("bug id=%s", exchange.request_id)
            if not exchange.status:
                detail = "The server has a bug. Its log has the details under this request id."
                await problem(500, detail, exchange.request_id)(scope, exchange.receive, exchange.send)
        finally:
            self._record(scope, exchange)

    def _record(self, scope: Scope, exchange: Exchange) -> None:
        seconds = time.monotonic() - exchange.started
        self._metrics.request_done(_route(scope), exchange.status, seconds)
        level = logging.DEBUG if _is_probe(scope) else logging.INFO
        path = quote(scope["path"][:MAX_LOGGED])  # it may hold a line break
        line = (exchange.request_id, scope["method"], path, exchange.status, seconds * 1e3)
        logger.log(level, "id=%s method=%s path=%s status=%d ms=%.1f", *line)


def key_of(headers: Headers) -> bytes:
    """The key of `Authorization: Bearer KEY` or of `X-API-Key: KEY` as it was sent, else nothing."""
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    found = key.strip() if scheme.lower() == "bearer" else headers.get("X-API-Key", "")
    return found.encode("latin-1")  # as starlette has decoded it


def key_bytes(key: str) -> bytes:
    """A key of the settings as a client sends it, also where it is not ASCII."""
    return key.encode("utf-8", "surrogateescape")


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
