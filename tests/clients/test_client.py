"""Both clients against recorded answers: every test that is about more than awaiting runs on each."""

from __future__ import annotations

import asyncio
import io
import socket
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


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "I;16", "I", "F", "array"])
def test_images_and_arrays_arrive_with_the_same_pixels(mode: str, server: FakeServer):
    if mode in ("I;16", "I", "F"):
        given: Any = Image.fromarray(np.full((HEIGHT, WIDTH), 90, np.uint16)).convert(mode)
    else:
        given = np.asarray(picture()) if mode == "array" else picture().convert(mode)
    Sync(server.url).call("predict", given)
    with Image.open(io.BytesIO(server.asked[0].body)) as sent:
        assert sent.format == "PNG"
        assert sent.size == (WIDTH, HEIGHT)
        if mode in ("RGB", "L", "1", "RGBA", "array"):
            np.testing.assert_array_equal(np.asarray(sent), np.asarray(given))


@both
def test_many_go_a_few_a_request_and_keep_their_order(kind: type[Sync], server: FakeServer):
    predictions = kind(server.url).call("predict_many", [png()] * 9, score_threshold=0.5)
    assert [asked.body.count(b'name="image"') for asked in server.asked] == [8, 0]  # the last one goes alone
    assert server.asked[0].query == {"score_threshold": "0.5"}
    assert [len(one) for one in predictions] == [2, 1, 0, 0, 0, 0, 0, 0, 2]


def test_many_of_none_asks_nothing(server: FakeServer):
    assert Sync(server.url).call("predict_many", []) == []
    assert server.asked == []


@both
def test_every_option_and_the_key_reach_the_server(kind: type[Sync], server: FakeServer):
    options = {"score_threshold": 0.25, "max_detections": 7, "mask": "none", "model": "m", "version": "2"}
    kind(server.url + "/", api_key="secret").call("predict", png(), classes=["a", 2], timeout_ms=500, **options)
    asked = server.asked[0]
    expected = {name: str(value) for name, value in options.items()}
    assert asked.query == {**expected, "classes": "a,2", "timeout_ms": "500"}
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
        pytest.param(np.zeros((4, 4), np.uint8), r"\[4, 4\] uint8", id="grey array"),
        pytest.param(np.zeros((4, 4, 3), np.float32), "float32", id="float array"),
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


def test_a_bad_picture_of_many_is_counted_from_the_first_of_its_request(server: FakeServer):
    server.replies(Reply(content=answer(8)), problem(422, "Unprocessable Content", "Picture 0: broken."))
    with pytest.raises(clients.UnprocessableError) as caught:
        Sync(server.url).call("predict_many", [png()] * 10)
    assert "picture 8 of this call" in caught.value.__notes__[0]


def test_a_refusal_that_is_not_json_keeps_its_text(server: FakeServer):
    server.replies(Reply(502, b"<h1>Bad gateway</h1>", content_type="text/html"))
    with pytest.raises(clients.ServerError, match="502 Bad Gateway: <h1>Bad gateway</h1>"):
        Sync(server.url).call("predict", png())


@pytest.mark.parametrize("content", [b"hello", b"[]", b'{"images": []}', b"null"])
def test_another_program_behind_the_address_is_recognised(content: bytes, server: FakeServer):
    server.replies(Reply(200, content))
    with pytest.raises(clients.InvalidAnswerError, match="Maskline"):
        Sync(server.url).call("predict", png())


def test_an_answer_for_fewer_pictures_is_refused(server: FakeServer):
    server.replies(Reply(content=answer(1)))
    with pytest.raises(clients.InvalidAnswerError, match="2 pictures were sent, 1 answered"):
        Sync(server.url).call("predict_many", [png(), png()])


@both
@pytest.mark.parametrize("status", [429, 503])
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
    with pytest.raises(clients.UnreachableError, match="in time"):
        Sync(server.url, timeout=0.1).call("predict", png())
    assert len(server.asked) == 1
