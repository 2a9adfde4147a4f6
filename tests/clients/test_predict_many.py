"""Many pictures through one client: in order, several at a time, none stopped by another."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import clients
from clients import AsyncClient, Client
from tests.clients.conftest import Asked, FakeServer, Reply, answer, detections, problem

Many = Callable[..., list[tuple[Any, Any]]]


def waiting(url: str, pictures: Iterable[Any], **options: Any) -> list[tuple[Any, Any]]:
    with Client(url) as client:
        return list(client.predict_many(pictures, **options))


def awaited(url: str, pictures: Iterable[Any], **options: Any) -> list[tuple[Any, Any]]:
    async def run() -> list[tuple[Any, Any]]:
        async with AsyncClient(url) as client:
            return [pair async for pair in client.predict_many(pictures, **options)]

    return asyncio.run(run())


both = pytest.mark.parametrize("many", [waiting, awaited])


def by_number(asked: Asked) -> Reply:
    """Picture k, whose content is its number, has k detections."""
    return Reply(content=answer(1, [detections()[0]] * int(asked.body)))


@both
def test_answers_come_in_the_order_of_the_pictures(many: Many, server: FakeServer):
    def late_when_even(asked: Asked) -> Reply:
        time.sleep(0.05 if int(asked.body) % 2 == 0 else 0)
        return by_number(asked)

    server.script = late_when_even
    pictures = [str(k).encode() for k in range(12)]
    found = many(server.url, pictures, parallel=4, score_threshold=0.5)
    assert [picture for picture, _ in found] == pictures
    assert [len(prediction) for _, prediction in found] == list(range(12))
    assert {asked.query["score_threshold"] for asked in server.asked} == {"0.5"}


@both
def test_none_of_none(many: Many, server: FakeServer):
    assert many(server.url, []) == []
    assert server.asked == []


@both
def test_a_bad_picture_stops_no_other(many: Many, server: FakeServer, tmp_path: Path):
    missing = tmp_path / "missing.png"
    refusal = problem(400, "Bad Request", "Not a picture.")
    server.script = lambda asked: refusal if asked.body == b"text" else by_number(asked)
    found = [result for _, result in many(server.url, [b"1", b"text", missing, b"2"])]
    assert [len(found[0]), len(found[3])] == [1, 2]
    assert isinstance(found[1], clients.BadRequestError)
    assert isinstance(found[2], clients.InvalidPictureError)


class Gauge:
    """How many requests are at work at once, at most."""

    def __init__(self) -> None:
        self._lock, self._now, self.most = threading.Lock(), 0, 0

    def __call__(self, asked: Asked) -> Reply:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(0.03)
        with self._lock:
            self._now -= 1
        return by_number(asked)


@both
def test_as_many_at_once_as_asked_for(many: Many, server: FakeServer):
    server.script = gauge = Gauge()
    many(server.url, [b"1"] * 12, parallel=3)
    assert gauge.most == 3


@both
def test_few_pictures_are_read_ahead(many: Many, server: FakeServer):
    read: list[int] = []
    ahead: list[int] = []

    def pictures() -> Iterator[bytes]:
        for k in range(30):
            read.append(k)
            yield b"1"

    def script(asked: Asked) -> Reply:
        ahead.append(len(read) - len(server.asked))
        return by_number(asked)

    server.script = script
    many(server.url, pictures(), parallel=2)
    assert max(ahead) <= 4


@both
def test_a_busy_server_slows_down_and_refuses_none(many: Many, server: FakeServer):
    """Each picture is sent away four times: more often than one call alone would ask."""
    seen: dict[bytes, int] = {}

    def script(asked: Asked) -> Reply:
        seen[asked.body] = seen.get(asked.body, 0) + 1
        busy = problem(429, "Too Many Requests", "Later.", Retry_After="0.01")
        return busy if seen[asked.body] <= 4 else by_number(asked)

    server.script = script
    found = many(server.url, [b"1", b"2", b"3"], parallel=3)
    assert [len(prediction) for _, prediction in found] == [1, 2, 3]
    assert set(seen.values()) == {5}


@both
def test_a_deadline_is_for_each_try(many: Many, server: FakeServer):
    server.replies(problem(429, "Busy", "Later.", Retry_After="0.3"), Reply(content=answer()))
    [(_, prediction)] = many(server.url, [b"1"], timeout_ms=200)
    assert len(prediction) == 2
    assert [asked.query["timeout_ms"] for asked in server.asked] == ["200", "200"]


def test_who_stops_early_waits_for_no_retry(server: FakeServer):
    busy = problem(429, "Too Many Requests", "Later.", Retry_After="100")
    server.script = lambda asked: by_number(asked) if asked.body == b"1" else busy
    start = time.monotonic()
    with Client(server.url) as client:
        found = client.predict_many([b"1", b"2", b"3", b"4"], parallel=2)
        next(found)
        found.close()
    assert time.monotonic() - start < 20


def test_who_stops_early_in_asyncio_waits_for_no_retry(server: FakeServer):
    busy = problem(429, "Too Many Requests", "Later.", Retry_After="100")
    server.script = lambda asked: by_number(asked) if asked.body == b"1" else busy

    async def run() -> None:
        async with AsyncClient(server.url) as client:
            found = client.predict_many([b"1", b"2", b"3", b"4"], parallel=2)
            await anext(found)
            await found.aclose()

    asyncio.run(asyncio.wait_for(run(), 20))


@both
def test_what_the_pictures_raise_is_raised(many: Many, server: FakeServer):
    def pictures() -> Iterator[bytes]:
        yield b"1"
        raise RuntimeError("the camera is gone")

    with pytest.raises(RuntimeError, match="camera"):
        many(server.url, pictures())


@both
def test_none_at_once_is_no_number(many: Many, server: FakeServer):
    with pytest.raises(ValueError, match="at least 1"):
        many(server.url, [b"1"], parallel=0)
