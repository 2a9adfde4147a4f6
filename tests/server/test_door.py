"""Connections and bodies as no decent client makes them, over real sockets."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from tests.server.running import ServerProcess, png, server_process

PICTURE = png()
MIB = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    arguments = ("--body-timeout-s", "1", "--header-timeout-s", "1", "--max-bodies-mib", "8", "--max-picture-mib", "4")
    with server_process(*arguments, "--max-connections", "60", "--keep-alive-s", "30") as server:
        yield server


@contextlib.contextmanager
def connected(server: ServerProcess, sent: bytes = b"") -> Iterator[socket.socket]:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(sent)
        yield connection


def head(length: int | None = None, *more: str, kind: str = "image/png", path: str = "/predict") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Type: {kind}", *more]
    lines += [f"Content-Length: {length}"] if length is not None else ["Transfer-Encoding: chunked"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Reply:
    """One answer read from a socket."""

    def __init__(self, connection: socket.socket) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            part = connection.recv(1 << 16)
            assert part, f"the connection ended after {received!r}"
            received += part
        start, _, body = received.partition(b"\r\n\r\n")
        self.head = start.decode()
        self.status = int(self.head.split()[1])
        length = int(re.search(r"content-length: (\d+)", self.head, re.IGNORECASE)[1])  # type: ignore[index]
        while len(body) < length:
            body += connection.recv(1 << 16)
        self.json = json.loads(body[:length])
        self.closes = "connection: close" in self.head.lower()


def ends(connection: socket.socket) -> bool:
    """Whether the server has ended the connection."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_a_refused_body_is_not_waited_for(server: ServerProcess) -> None:
    with connected(server, head(64 * MIB)) as connection:
        reply = Reply(connection)
        assert (reply.status, reply.closes) == (413, True)
        assert ends(connection)


def test_a_client_that_sends_before_it_reads_sees_the_refusal(server: ServerProcess) -> None:
    with connected(server, head(6 * MIB)) as connection:
        connection.sendall(bytes(6 * MIB))
        assert Reply(connection).status == 413


def test_a_small_refused_body_keeps_its_connection(server: ServerProcess) -> None:
    with connected(server) as connection:
        for _ in range(2):
            connection.sendall(head(1000, kind="text/plain") + bytes(1000))
            reply = Reply(connection)
            assert (reply.status, reply.closes) == (415, False)
        connection.sendall(head(len(PICTURE)) + PICTURE)
        assert Reply(connection).status == 200


def test_a_client_that_asks_first_sends_no_refused_body(server: ServerProcess) -> None:
    with connected(server, head(2000, "Expect: 100-continue", kind="text/plain")) as connection:
        reply = Reply(connection)
        assert (reply.status, reply.closes) == (415, True)
    with connected(server, head(len(PICTURE), "Expect: 100-continue")) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(PICTURE)
        assert Reply(connection).status == 200


def test_a_body_that_never_ends_is_cut(server: ServerProcess) -> None:
    part = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    with connected(server, head()) as connection:
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                connection.sendall(part)
        reply = Reply(connection)
        assert (reply.status, reply.closes) == (413, True)


def test_a_slow_body_is_given_up(server: ServerProcess) -> None:
    with connected(server, head(1000) + b"x") as connection:
        reply = Reply(connection)
        assert (reply.status, reply.closes) == (504, True)
        assert "come in" in reply.json["detail"]
        assert ends(connection)


def test_a_length_that_lies(server: ServerProcess) -> None:
    with connected(server, head(10_000) + PICTURE) as connection:
        connection.shutdown(socket.SHUT_WR)  # fewer than announced
        assert ends(connection)
    with connected(server, head(10) + PICTURE) as connection:  # more than announced: they are the next request
        assert Reply(connection).status == 400
    assert server.predict(PICTURE).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50), id="TLS"),
        pytest.param(
            b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", id="two lengths"
        ),
        pytest.param(b"GET /health/live HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 4 * MIB + b"\r\n\r\n", id="long header"),
        pytest.param(b"GET /" + b"y" * 4 * MIB + b" HTTP/1.1\r\nHost: a\r\n\r\n", id="long path"),
    ],
)
def test_no_http(server: ServerProcess, sent: bytes) -> None:
    with connected(server) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(sent)
        reply = Reply(connection)
        assert reply.status == 400
        assert "application/problem+json" in reply.head
        assert ends(connection)


@pytest.mark.parametrize("sent", [b"", b"GET /health/live HT"], ids=["nothing", "half a header"])
def test_a_header_that_does_not_come_is_not_waited_for(server: ServerProcess, sent: bytes) -> None:
    with connected(server, sent) as connection:
        assert ends(connection)


def test_an_idle_connection_is_kept_after_an_answer(server: ServerProcess) -> None:
    with connected(server, head(len(PICTURE)) + PICTURE) as connection:
        assert Reply(connection).status == 200
        time.sleep(2)  # beyond the time for a header
        connection.sendall(head(len(PICTURE)) + PICTURE)
        assert Reply(connection).status == 200


def test_idle_connections_leave_room_for_who_works(server: ServerProcess) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(connected(server))
        assert server.predict(PICTURE).status_code == 200


def test_the_memory_of_all_bodies_has_a_limit(server: ServerProcess) -> None:
    with contextlib.ExitStack() as stack:
        several = [stack.enter_context(connected(server, head(4 * MIB))) for _ in range(3)]
        for connection in several:
            with contextlib.suppress(ConnectionError):
                connection.sendall(bytes(3 * MIB))
        replies = [Reply(connection) for connection in several]
        assert sorted(reply.status for reply in replies) == [429, 504, 504]
        (refused,) = (reply for reply in replies if reply.status == 429)
        assert "retry-after: 1" in refused.head.lower()
    assert server.predict(PICTURE).status_code == 200


# Stopping


def test_a_body_that_was_coming_in_is_answered_and_idle_connections_delay_nothing() -> None:
    with server_process() as server, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connected(server)) for _ in range(20)]
        used = stack.enter_context(connected(server, head(len(PICTURE)) + PICTURE))
        assert Reply(used).status == 200
        slow = stack.enter_context(connected(server, head(len(PICTURE)) + PICTURE[:10]))
        server.wait_until("/metrics", "maskline_requests_in_flight 1.0\n")
        server.process.send_signal(signal.SIGTERM)
        while server.get("/health/ready").status_code == 200:
            pass
        time.sleep(0.3)
        slow.sendall(PICTURE[10:])
        reply = Reply(slow)
        assert (reply.status, reply.closes) == (200, True)
        started = time.monotonic()
        assert server.process.wait(30) == 0
        assert time.monotonic() - started < 10
        assert all(map(ends, idle))


def test_a_body_that_never_comes_does_not_stop_the_stop() -> None:
    arguments = ("--body-timeout-s", "1", "--drain-timeout-s", "20")
    with (
        server_process(*arguments) as server,
        connected(server, head(1000) + b"x") as slow,
        ThreadPoolExecutor(1) as pool,
    ):
        server.wait_until("/metrics", "maskline_requests_in_flight 1.0\n")
        reply = pool.submit(Reply, slow)
        server.process.send_signal(signal.SIGTERM)
        assert reply.result().status == 504
        assert server.process.wait(30) == 0
