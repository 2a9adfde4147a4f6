"""One request and its answer on their way through the gateway: the headers that every answer has, and its end."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from server.lifecycle import Lifecycle

SECURITY_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Of every answer; a page has a policy of its own."""
SMALL_BODY: Final = 1 << 20
"""The rest of such a body is read for the sake of the connection, also where the answer did not need it."""
LINGER_S: Final = 2.0
LINGER_BYTES: Final = 16 << 20
"""A connection that is closed while its client still sends is reset, and the client may never see the answer."""


class Exchange:
    """`request_id` is the one that answers, logs and errors carry; `status` is 0 until the answer has begun."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, request_id: str, lifecycle: Lifecycle) -> None:
        self.request_id = request_id
        self.started = time.monotonic()
        self.status = 0
        self._is_head = scope["method"] == "HEAD"
        self._headers = Headers(scope=scope)
        self._receive = receive
        self._send = send
        self._lifecycle = lifecycle
        self._body_begun = self._body_ended = False
        self._lingers = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._body_begun = True
        self._body_ended = self._body_ended or not message.get("more_body")
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start(message)
        elif self._is_head:
            message = {**message, "body": b""}
        if not self._lingers or message["type"] == "http.response.start" or message.get("more_body"):
            await self._send(message)
            return
        await self._send({**message, "more_body": True})  # all of the answer, before its end closes the connection
        await self._discard_body()
        await self._send({"type": "http.response.body", "body": b""})

    def _start(self, message: Message) -> None:
        self.status = message["status"]
        self._lingers = self._has_much_left()
        headers = [*message["headers"], (b"x-request-id", self.request_id.encode())]
        there = {name for name, _ in headers}
        headers += [header for header in SECURITY_HEADERS if header[0] not in there]
        if self._lingers or self._lifecycle.draining:
            headers.append((b"connection", b"close"))
        message["headers"] = headers

    def _has_much_left(self) -> bool:
        """Whether so much of the body may still come, or so slowly, that the connection is not worth it."""
        if self._body_begun:
            return not self._body_ended
        length = self._headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self._headers or "Expect" in self._headers:
            return True
        return not length.isdecimal() or int(length) > SMALL_BODY

    async def _discard_body(self) -> None:
        discarded = 0
        try:
            async with asyncio.timeout(LINGER_S):
                while not self._body_ended and discarded < LINGER_BYTES:
                    discarded += len((await self.receive()).get("body", b""))
        except TimeoutError:
            pass
