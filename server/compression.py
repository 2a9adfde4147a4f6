"""Answers in gzip, for those who want them."""

from __future__ import annotations

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import Receive, Scope, Send

REFUSED = re.compile(r"gzip\s*;\s*q\s*=\s*0(\.0*)?\s*(,|$)", re.IGNORECASE)


class Compression(GZipMiddleware):
    """Starlette's, which takes `Accept-Encoding: gzip;q=0` for a wish."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and REFUSED.search(Headers(scope=scope).get("Accept-Encoding", "")):
            scope = {**scope, "headers": list(scope["headers"])}
            MutableHeaders(scope=scope)["Accept-Encoding"] = "identity"
        await super().__call__(scope, receive, send)
