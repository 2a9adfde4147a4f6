"""One request and its answer on their way through the gateway: the headers that every answer has, and its end."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from server.lifecycle import Lifecycle
from server.record import Record

SECURITY_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Of every answer; a page has a policy of its own."""
SMALL_BODY: Final = 1 << 20
"""The rest of such a body is read for the sake of the connection, also where the answer did not need it."""


class Exchange:
    """What comes in and goes out, noted in the record."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, record: Record, lifecycle: Lifecycle) -> None:
        self._is_head = scope["method"] == "HEAD"
        self._headers = Headers(scope=scope)
        self._receive = receive
        self._send = send
        self._record = record
        self._lifecycle = lifecycle
        self._body_begun = self._body_ended = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._record.bytes_in += len(message.get("body", b""))
        self._body_begun = True
        self._body_ended = self._body_ended or not message.get("more_body")
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start(message)
            await self._send(message)
            return
        if self._is_head:
            message = {**message, "body": b""}
        self._record.bytes_out += len(message.get("body", b""))
        await self._send(message)

    def _start(self, message: Message) -> None:
        record = self._record
        record.status = message["status"]
        headers = [*message["headers"], (b"x-request-id", record.request_id.encode())]
        if record.trace_id:
            headers.append((b"x-trace-id", record.trace_id.encode()))
        if timing := record.server_timing:
            headers.append((b"server-timing", timing.encode()))
        if self._lifecycle.draining or self._has_much_left():
            headers.append((b"connection", b"close"))
        there = {name for name, _ in headers}
        message["headers"] = headers + [header for header in SECURITY_HEADERS if header[0] not in there]

    def _has_much_left(self) -> bool:
        """Whether so much of the body may still come, or so slowly, that the connection is not worth it."""
        if self._body_begun:
            return not self._body_ended
        length = self._headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self._headers or "Expect" in self._headers:
            return True
        return not length.isdecimal() or int(length) > SMALL_BODY
