"""Both clients against recorded answers: every test that is about more than awaiting runs on each."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import clients
from clients import AsyncClient, Client
from clients.exchange import Options
from tests.clients.conftest import HEIGHT, WIDTH, FakeServer, Reply, answer, problem


class Sync:
    """One face for both clients."""

    def __init__(self, url: str, **settings: Any) -> None:
        self._url, self._settings = url, settings

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        with Client(self._url, **self._settings) as client:
            return getattr(client, name)(*arguments, **options)


class Async(Sync):
    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        async def run() -> Any:
            async with AsyncClient(self._url, **self._settings) as client:
                return await getattr(client, name)(*arguments, **options)

        return asyncio.run(run())


both = pytest.mark.parametrize("kind", [Sync, Async])


def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png() -> bytes:
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    return buffer.getvalue()


@both
def test_files_and_bytes_are_sent_as_they_are(kind: type[Sync], server: FakeServer, tmp_path: Path):
    path = tmp_path / "picture.png"
    path.write_bytes(png())
    for given in (str(path), path, png()):
        prediction = kind(server.url).call("predict", given)
        assert prediction.labels == ["nucleus", "speck"]
    assert [asked.body for asked in server.asked] == [png()] * 3
    assert {asked.path for asked in server.asked} == {"/predict"}
    assert {asked.headers["Content-Type"] for asked in server.asked} == {"application/octet-stream"}


def pixels_of(kind: str) -> np.ndarray[Any, Any]:
    """The picture as people have arrays: a crop or a flip of a larger one is not contiguous in memory."""
    rgb = np.asarray(picture())
    return {"array": rgb, "grey array": rgb[..., 1], "flipped array": rgb[::-1, ::-1, ::-1]}[kind]


@pytest.mark.parametrize(
    "mode",
    ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "I;16", "I", "F", "array", "grey array", "flipped array"],
)
def test_images_and_arrays_arrive_with_the_same_pixels(mode: str, server: FakeServer):
    if mode in ("I;16", "I", "F"):
        given: Any = Image.fromarray(np.full((HEIGHT, WIDTH), 90, np.uint16)).convert(mode)
    else:
        given = pixels_of(mode) if "array" in mode else picture().convert(mode)
    Sync(server.url).call("predict", given)
    with Image.open(io.BytesIO(server.asked[0].body)) as sent:
        assert sent.format == "PNG"
        assert sent.size == (WIDTH, HEIGHT)
        if mode in ("RGB", "L", "1", "RGBA") or "array" in mode:
            np.testing.assert_array_equal(np.asarray(sent), np.asarray(given))


@both
def test_every_option_and_the_key_reach_the_server(kind: type[Sync], server: FakeServer):
    options: dict[str, Any] = {"score_threshold": 0.25, "max_detections": 7, "mask": "none", "model": "m"}
    options |= {"version": "2", "timeout_ms": 500, "priority": "low", "tile": 1024, "overlap": 128}
    assert {*options, "classes"} == set(Options.__annotations__)
    kind(server.url + "/", api_key="secret").call("predict", png(), classes=["a", 2], **options)
    asked = server.asked[0]
    assert asked.query == {name: str(value) for name, value in options.items()} | {"classes": "a,2"}
    assert asked.headers["Authorization"] == "Bearer secret"


def test_options_that_are_none_are_left_to_the_server(server: FakeServer):
    Sync(server.url).call("predict", png(), model=None, classes="a,b")
    assert server.asked[0].query == {"classes": "a,b"}
    assert server.asked[0].headers["Authorization"] is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        pytest.param(b"", "0 bytes", id="empty"),
        pytest.param("no/such/file.png", "No such file", id="missing"),
        pytest.param(np.zeros((4, 4, 3), np.float32), "from 0 to 255, not .* float32", id="float array"),
        pytest.param(np.zeros((4, 4), bool), "bool", id="array of a mask"),
        pytest.param(np.zeros((4, 4, 4), np.uint8), r"\[4, 4, 4\]", id="array with alpha"),
        pytest.param(np.zeros((3, 4, 5), np.uint8), r"\[3, 4, 5\]", id="array with channels first"),
        pytest.param(np.zeros(4, np.uint8), r"\[4\]", id="flat array"),
        pytest.param(np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]", id="array of nothing"),
        pytest.param(7, "int", id="number"),
    ],
)
def test_what_is_no_picture_is_refused_before_it_is_sent(given: Any, says: str, server: FakeServer):
    with pytest.raises(clients.InvalidPictureError, match=says):
        Sync(server.url).call("predict", given)
    assert server.asked == []


@both
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, clients.BadRequestError),
        (401, clients.AuthenticationError),
        (403, clients.AuthenticationError),
        (404, clients.ModelNotFoundError),
        (405, clients.BadRequestError),
        (413, clients.TooLargeError),
        (415, clients.UnsupportedFormatError),
        (422, clients.UnprocessableError),
        (429, clients.OverloadedError),
        (500, clients.ServerError),
        (503, clients.UnavailableError),
        (504, clients.DeadlineError),
        (418, clients.ServerError),
    ],
)
def test_each_refusal_has_its_error(kind: type[Sync], status: int, error: type[clients.APIError], server: FakeServer):
    server.replies(problem(status, "Title", "What is wrong."))
    with pytest.raises(error) as caught:
        kind(server.url, retries=0).call("predict", png())
    assert type(caught.value) is error
    assert (caught.value.status, caught.value.title, caught.value.detail) == (status, "Title", "What is wrong.")
    assert caught.value.request_id == "r-9"
    assert str(caught.value) == f"{status} Title: What is wrong."


def test_a_refusal_that_is_not_json_keeps_its_text(server: FakeServer):
    server.replies(Reply(502, b"<h1>Bad gateway</h1>", content_type="text/html"))
    with pytest.raises(clients.ServerError, match="502 Bad Gateway: <h1>Bad gateway</h1>"):
        Sync(server.url).call("predict", png())


@pytest.mark.parametrize("content", [b"hello", b"[]", b'{"images": []}', b"null"])
def test_another_program_behind_the_address_is_recognised(content: bytes, server: FakeServer):
    server.replies(Reply(200, content))
    with pytest.raises(clients.InvalidAnswerError, match="Maskline"):
        Sync(server.url).call("predict", png())


def test_an_answer_for_more_pictures_is_refused(server: FakeServer):
    server.replies(Reply(content=answer(2)))
    with pytest.raises(clients.InvalidAnswerError, match="1 picture was sent, 2 answered"):
        Sync(server.url).call("predict", png())


@both
@pytest.mark.parametrize("status", [429, 502, 503])
def test_overload_is_tried_again(kind: type[Sync], status: int, server: FakeServer):
    refusal = problem(status, "Busy", "Later.", Retry_After="0")
    server.replies(refusal, refusal, Reply(content=answer()))
    assert len(kind(server.url).call("predict", png())) == 2
    assert [asked.body for asked in server.asked] == [png()] * 3


@both
def test_retry_after_is_waited_for(kind: type[Sync], server: FakeServer):
    server.replies(problem(429, "Busy", "Later.", Retry_After="0.4"), Reply(content=answer()))
    start = time.monotonic()
    kind(server.url).call("predict", png())
    assert time.monotonic() - start >= 0.4


@both
def test_a_retry_after_beyond_reason_ends_the_tries(kind: type[Sync], server: FakeServer):
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=3600), usegmt=True)
    for told in ("3600", when):
        server.asked.clear()
        server.replies(problem(503, "Draining", "Later.", Retry_After=told))
        with pytest.raises(clients.UnavailableError) as caught:
            kind(server.url, retries=5).call("predict", png())
        assert caught.value.retry_after == pytest.approx(3600, abs=30)
        assert len(server.asked) == 1


def test_the_tries_are_counted(server: FakeServer):
    server.replies(problem(429, "Busy", "Later.", Retry_After="0"))
    with pytest.raises(clients.OverloadedError):
        Sync(server.url, retries=3).call("predict", png())
    assert len(server.asked) == 4


@pytest.mark.parametrize("status", [400, 404, 500, 504])
def test_other_refusals_are_final(status: int, server: FakeServer):
    server.replies(problem(status, "No", "No.", Retry_After="0"))
    with pytest.raises(clients.APIError):
        Sync(server.url).call("predict", png())
    assert len(server.asked) == 1


@both
def test_a_broken_connection_is_tried_again(kind: type[Sync], server: FakeServer):
    server.replies(Reply(status=0), Reply(content=answer()))
    assert len(kind(server.url).call("predict", png())) == 2


@both
def test_no_server_is_unreachable(kind: type[Sync]):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(clients.UnreachableError, match=url):
            kind(url, retries=0).call("predict", png())


@both
@pytest.mark.parametrize("url", ["127.0.0.1:8000", "http://127.0.0.1:port"])
def test_an_address_that_is_none_is_unreachable(kind: type[Sync], url: str):
    with pytest.raises(clients.UnreachableError):
        kind(url).call("predict", png())


def test_a_server_that_hangs_is_given_up_without_another_try(server: FakeServer):
    def hang(_: Any) -> Reply:
        time.sleep(0.5)
        return Reply(content=answer())

    server.script = hang
    with pytest.raises(clients.TimedOutError, match="in time"):
        Sync(server.url, timeout=0.1).call("predict", png())
    assert len(server.asked) == 1


@both
def test_an_answer_is_waited_for_as_long_as_the_deadline_of_the_call(kind: type[Sync], server: FakeServer):
    def slow(_: Any) -> Reply:
        time.sleep(0.4)
        return Reply(content=answer())

    server.script = slow
    assert len(kind(server.url, timeout=0.1).call("predict", png(), timeout_ms=20_000)) == 2


@both
def test_the_deadline_holds_for_all_tries_together(kind: type[Sync], server: FakeServer):
    server.replies(problem(429, "Busy", "Later.", Retry_After="0.5"), Reply(content=answer()))
    kind(server.url).call("predict", png(), timeout_ms=20_000)
    first, second = (int(asked.query["timeout_ms"]) for asked in server.asked)
    assert first == 20_000
    assert 10_000 < second <= 19_500


@both
def test_what_would_come_after_the_deadline_is_not_tried(kind: type[Sync], server: FakeServer):
    server.replies(problem(429, "Busy", "Later.", Retry_After="5"))
    start = time.monotonic()
    with pytest.raises(clients.OverloadedError):
        kind(server.url).call("predict", png(), timeout_ms=2000)
    assert len(server.asked) == 1
    assert time.monotonic() - start < 2


def test_a_refusal_before_a_large_body_is_read_is_heard():
    """The server answers and closes while the client is still sending."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_refuse_at_the_headers, args=(listening,))
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(clients.TooLargeError, match="Too much"):
            Sync(url).call("predict", b"\0" * 30_000_000)
        thread.join()


def _refuse_at_the_headers(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(4096)
        body = b'{"title": "Content Too Large", "detail": "Too much."}'
        head = f"HTTP/1.1 413 Content Too Large\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + body)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(10)
        while connection.recv(2**20):
            pass
