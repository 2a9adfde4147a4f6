"""The internet as the tests see it: a server on this machine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from tests.server.running import png

PICTURE = png()
LOOPBACK = "127.0.0.1"


class Internet:
    """Hosts by name, all of them at one local server; `asked` are the request heads that came."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[str] = []
        self.resolved: list[str] = []
        self.names: dict[str, Sequence[str]] = {"pictures.example": [LOOPBACK]}
        self.answer: bytes | Callable[[str], bytes] = response(PICTURE)
        self.holds = False

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.resolved.append(host)
        return self.names.get(host) or [host]

    def url(self, path: str = "/a.png", host: str = "pictures.example") -> str:
        return f"http://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head)
        with contextlib.suppress(ConnectionError):
            writer.write(self.answer(head) if callable(self.answer) else self.answer)
            await writer.drain()
            if self.holds:
                await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def response(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def redirect(location: str) -> bytes:
    return response(b"", "302 Found", f"Location: {location}")


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[Internet]:
    internet = Internet()
    async with await asyncio.start_server(internet.serve, LOOPBACK, 0) as server:
        internet.port = server.sockets[0].getsockname()[1]
        yield internet
