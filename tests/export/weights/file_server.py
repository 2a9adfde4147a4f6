"""A server of one file on loopback that breaks off, refuses and changes its file when a test says so."""

from __future__ import annotations

import random
import re
import threading
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

NAME = "tiny-weights.pth"
CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(250_000)


class Asked(NamedTuple):
    path: str
    headers: Message


class FileServer:
    """Serves one file as RFC 9110 says: ranges, If-Range and 416."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.headers = {"ETag": '"one"'}
        self.ranges = True
        self.statuses: list[int] = []
        """For the next answers, in place of the file."""
        self.breaks: list[int] = []
        """Bytes after which the next answers end."""
        self.after_break: dict[str, str] | None = None
        """Headers from the first broken answer on; the file is then `OTHER`."""
        self.go_on = threading.Event()
        self.go_on.set()
        self.asked: list[Asked] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def ranges_asked(self) -> list[str | None]:
        return [asked.headers["Range"] for asked in self.asked]

    def close(self) -> None:
        self.go_on.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def start_of(self, asked: Asked) -> int | None:
        """The first byte of the part asked for, or None for the whole."""
        wanted = re.fullmatch(r"bytes=(\d+)-", asked.headers["Range"] or "")
        same = asked.headers["If-Range"] in (None, *self.headers.values())
        return int(wanted[1]) if wanted and self.ranges and same else None


def _handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = Asked(self.path, self.headers)
            server.asked.append(asked)
            server.go_on.wait(30)
            start = server.start_of(asked)
            if self.path == "/moved":
                self.answer(302, b"", {"Location": f"/models/{NAME}"})
            elif server.statuses:
                self.answer(server.statuses.pop(0), b"", {})
            elif start is None:
                self.answer(200, server.content, server.headers)
            elif start >= len(server.content):
                self.answer(416, b"", {"Content-Range": f"bytes */{len(server.content)}"})
            else:
                place = f"bytes {start}-{len(server.content) - 1}/{len(server.content)}"
                self.answer(206, server.content[start:], server.headers | {"Content-Range": place})

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if not server.breaks:
                self.wfile.write(body)
                return
            self.wfile.write(body[: server.breaks.pop(0)])
            if server.after_break is not None:
                server.content, server.headers = OTHER, server.after_break

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            """Tests need no access log."""

    return Handler
