"""A server on loopback that answers what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as coco_mask

HEIGHT, WIDTH = 24, 32


@dataclass(frozen=True)
class Asked:
    path: str
    query: dict[str, str]
    headers: Message
    body: bytes


@dataclass(frozen=True)
class Reply:
    """`status` 0 closes the connection without an answer."""

    status: int = 200
    content: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


Script = Callable[[Asked], Reply]


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what some tests are about."""


class FakeServer:
    """Answers with `script`; `asked` holds the requests in their order."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.script: Script = lambda asked: Reply(content=answer(max(1, asked.body.count(b'name="image"'))))
        self._http = QuietServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def replies(self, *replies: Reply) -> None:
        """One after the other; the last one for good."""
        left = itertools.chain(replies, itertools.repeat(replies[-1]))
        one_at_a_time = threading.Lock()

        def script(asked: Asked) -> Reply:
            with one_at_a_time:
                return next(left)

        self.script = script

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def _handler(fake: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 5

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            address = urlsplit(self.path)
            asked = Asked(address.path, dict(parse_qsl(address.query)), self.headers, body)
            fake.asked.append(asked)
            reply = fake.script(asked)
            if reply.status == 0:
                self.close_connection = True
                return
            content = reply.content if isinstance(reply.content, bytes) else json.dumps(reply.content).encode()
            headers = {"Content-Type": reply.content_type, "Content-Length": str(len(content)), **reply.headers}
            self.send_response(reply.status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            """Tests need no access log."""

    return Handler


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.close()


def masks() -> npt.NDArray[np.bool_]:
    """Two masks [2, HEIGHT, WIDTH]: a rectangle with a hole, and the bottom right corner pixel."""
    drawn = np.zeros((2, HEIGHT, WIDTH), bool)
    drawn[0, 4:12, 6:20] = True
    drawn[0, 7:9, 10:14] = False
    drawn[1, -1, -1] = True
    return drawn


def detections() -> list[dict[str, Any]]:
    """Of `masks`, encoded by pycocotools."""
    boxes = [[6.0, 4.0, 20.0, 12.0], [31.0, 23.0, 32.0, 24.0]]
    records = []
    for k, (drawn, box) in enumerate(zip(masks(), boxes, strict=True)):
        encoded = coco_mask.encode(np.asfortranarray(drawn.astype(np.uint8)))
        mask = {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}
        names = {"class_id": k + 1, "class_name": ("nucleus", "speck")[k]}
        records.append({"box": box, **names, "score": 0.9 - 0.3 * k, "area": int(drawn.sum()), "mask": mask})
    return records


def answer(pictures: int = 1, found: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Of `POST /predict`; picture k of several lacks its first k detections."""
    records = detections() if found is None else found
    images = [{"width": WIDTH, "height": HEIGHT, "detections": records[k:]} for k in range(pictures)]
    timings_ms = {"decode": 1.0, "queue": 2.0, "inference": 3.0, "postprocess": 4.0, "total": 10.5}
    model = {"name": "demo", "version": "1"}
    return {"model": model, "request_id": "r-1", "images": images, "timings_ms": timings_ms, "batch_size": 1}


def problem(status: int, title: str, detail: str, **headers: str) -> Reply:
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail, "request_id": "r-9"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, content, named, "application/problem+json")
