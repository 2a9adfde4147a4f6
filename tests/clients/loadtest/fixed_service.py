"""A queue of one worker that takes a fixed time: `python -m tests.clients.loadtest.fixed_service MILLISECONDS`.

Prints its port. Speaks just enough HTTP, so that it is faster than any generator. GET /arrivals: when requests came.
The worker's clock is arithmetic: an answer that leaves late does not make the next one late.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
BODY = b'{"images": [{"width": 8, "height": 8, "detections": []}], "timings_ms": {}, "batch_size": 1}'


def response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class Worker:
    """When it is free again, and when requests arrived, in seconds on the clock."""

    def __init__(self, service_s: float) -> None:
        self.service_s = service_s
        self.free_s = 0.0
        self.arrivals_s: list[float] = []

    def done_s(self) -> float:
        now_s = time.monotonic()
        self.arrivals_s.append(now_s)
        self.free_s = max(now_s, self.free_s) + self.service_s
        return self.free_s


class Connection(asyncio.Protocol):
    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        length = LENGTH.search(self.received, 0, max(end, 0))
        if end < 0 or len(self.received) < end + 4 + (int(length[1]) if length else 0):
            return
        asked, self.received = self.received, b""
        if asked.startswith(b"GET /arrivals"):
            self.transport.write(response(json.dumps(self.worker.arrivals_s).encode()))
        elif asked.startswith(b"GET"):
            self.transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        elif self.worker.service_s:
            asyncio.get_running_loop().call_at(self.worker.done_s(), self.transport.write, response(BODY))
        else:
            self.transport.write(response(BODY))


async def main(service_s: float) -> None:
    worker = Worker(service_s)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(worker), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) / 1e3))
