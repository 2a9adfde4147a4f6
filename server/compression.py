"""Answers in gzip or deflate, for those who want them."""

from __future__ import annotations

import re
import zlib

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware, GZipResponder
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import PROBLEM, own_path

REFUSED = re.compile(r"(gzip|deflate)\s*;\s*q\s*=\s*0(\.0*)?\s*(,|$)", re.IGNORECASE)


class Compression(GZipMiddleware):
    """Starlette's, which takes `Accept-Encoding: gzip;q=0` for a wish, and knows no deflate. Errors are not worth it.

    Under `/v2` only what was inferred is compressed: Triton's asyncio client accepts gzip always, and undoes it there.
    """

    def __init__(self, app: ASGIApp, compresslevel: int) -> None:
        super().__init__(
            app, compresslevel=compresslevel, exclude_content_types=(*DEFAULT_EXCLUDED_CONTENT_TYPES, PROBLEM)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_left_alone(own_path(scope)):
            await self.app(scope, receive, send)
            return
        accepted = Headers(scope=scope).get("Accept-Encoding", "")
        if REFUSED.search(accepted):
            accepted = REFUSED.sub("", accepted)
            scope = {**scope, "headers": list(scope["headers"])}
            MutableHeaders(scope=scope)["Accept-Encoding"] = accepted
        if "deflate" in accepted and "gzip" not in accepted:
            responder = DeflateResponder(
                self.app, self.minimum_size, self.compresslevel, exclude_content_types=self.exclude_content_types
            )
            await responder(scope, receive, send)
            return
        await super().__call__(scope, receive, send)


def _is_left_alone(path: str) -> bool:
    return f"{path}/".startswith("/v2/") and not path.endswith("/infer")


class DeflateResponder(GZipResponder):
    content_encoding = "deflate"

    @property
    def compressor(self) -> zlib._Compress:
        if self._compressor is None:
            self._compressor = zlib.compressobj(self.compresslevel)  # in zlib's frame, as HTTP means it
        return self._compressor
