"""Answers in gzip or deflate, for those who want them."""

from __future__ import annotations

import re
import zlib

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.gzip import GZipMiddleware, GZipResponder
from starlette.types import Receive, Scope, Send

REFUSED = re.compile(r"(gzip|deflate)\s*;\s*q\s*=\s*0(\.0*)?\s*(,|$)", re.IGNORECASE)


class Compression(GZipMiddleware):
    """Starlette's, which takes `Accept-Encoding: gzip;q=0` for a wish, and knows no deflate."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        accepted = Headers(scope=scope).get("Accept-Encoding", "")
        if REFUSED.search(accepted):
            accepted = REFUSED.sub("", accepted)
            scope = {**scope, "headers": list(scope["headers"])}
            MutableHeaders(scope=scope)["Accept-Encoding"] = accepted
        if "deflate" in accepted and "gzip" not in accepted:
            await DeflateResponder(self.app, self.minimum_size, self.compresslevel)(scope, receive, send)
            return
        await super().__call__(scope, receive, send)


class DeflateResponder(GZipResponder):
    content_encoding = "deflate"

    @property
    def compressor(self) -> zlib._Compress:
        if self._compressor is None:
            self._compressor = zlib.compressobj(self.compresslevel)  # in zlib's frame, as HTTP means it
        return self._compressor
