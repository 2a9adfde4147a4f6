"""Every refusal: its status, its document and its sentence."""

from __future__ import annotations

import asyncio
import base64
import io
import struct
import zlib
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest
from PIL import Image

from server.app import create_app
from server.contract import errors
from server.contract.wire import Problem
from server.engines.fake import FakeEngine
from server.errors import STATUS_BY_ERROR, status_of
from server.models import Models
from tests.server.running import PNG_HEADERS, fake_server, png, running, server_with, settings

PICTURE = png()


def problem(reply: httpx2.Response, status: int, *words: str) -> Problem:
    assert reply.status_code == status, reply.text
    assert reply.headers["Content-Type"] == "application/problem+json"
    document = Problem(**reply.json())
    assert document.status == status
    assert document.request_id == reply.headers["X-Request-ID"]
    assert "Traceback" not in reply.text
    for word in words:
        assert word in document.detail
    return document


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with fake_server(max_picture_mib=1, max_body_mib=2, max_pictures=3, max_megapixels=1) as client:
        yield client


def cut_off_jpeg() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((200, 200), 50).convert("RGB").save(file, "JPEG")
    return file.getvalue()[:-2000]


def huge_png_header() -> bytes:
    """A PNG that says 20000 x 10000 and has no pixels."""
    header = struct.pack(">II5B", 20000, 10000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    framed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        pytest.param(b"", 400, "empty", id="empty"),
        pytest.param(b"hello", 400, "not a picture", id="text"),
        pytest.param(cut_off_jpeg(), 400, "JPEG", id="cut off JPEG"),
        pytest.param(huge_png_header(), 413, "pixels", id="200 megapixels"),
        pytest.param(b"\0" * (2**20 + 1), 413, "1048576", id="bytes"),
        pytest.param(b"%PDF-1.7 ...", 415, "PDF", id="format"),
    ],
)
async def test_bad_picture(client: httpx2.AsyncClient, body: bytes, status: int, word: str) -> None:
    problem(await client.post("/predict", content=body, headers=PNG_HEADERS), status, word)


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("colour=red", "colour"),
        ("score_threshold=high", "score_threshold"),
        ("score_threshold=1.5", "score_threshold"),
        ("score_threshold=nan", "score_threshold"),
        ("max_detections=0", "max_detections"),
        ("mask=gif", "mask"),
        ("classes=zebra", "zebra"),
        ("classes=0", "0"),
        ("timeout_ms=-1", "timeout_ms"),
        (f"timeout_ms={'9' * 400}", "timeout_ms"),
        ("mask=rle&mask=png", "mask"),
        ("tile=63", "tile"),
        ("overlap=10", "tile"),
    ],
)
async def test_bad_parameter(client: httpx2.AsyncClient, query: str, word: str) -> None:
    problem(await client.post(f"/predict?{query}", content=PICTURE, headers=PNG_HEADERS), 400, word)


@pytest.mark.parametrize(
    ("headers", "word"),
    [
        pytest.param({"Content-Type": "text/plain"}, "text/plain", id="text"),
        pytest.param({"Content-Type": "application/xml"}, "application/xml", id="xml"),
        pytest.param({}, "without Content-Type", id="none"),
        pytest.param({**PNG_HEADERS, "Content-Encoding": "gzip"}, "gzip", id="compressed"),
    ],
)
async def test_content_type(client: httpx2.AsyncClient, headers: dict[str, str], word: str) -> None:
    problem(await client.post("/predict", content=PICTURE, headers=headers), 415, word)


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"{", 400, "JSON"),
        (b"[]", 400, "JSON"),
        (b"{}", 400, "image"),
        (b'{"image": "%%%"}', 400, "base64"),
        (b'{"image": "aGVsbG8="}', 400, "not a picture"),
        (b'{"picture": ""}', 400, "picture"),
        (b'{"image": "", "images": [""]}', 400, "either"),
        (b'{"images": []}', 400, "images"),
        (b'{"images": ["", "", "", ""]}', 413, "at most 3"),
    ],
)
async def test_bad_json(client: httpx2.AsyncClient, body: bytes, status: int, word: str) -> None:
    problem(await client.post("/predict", content=body, headers={"Content-Type": "application/json"}), status, word)


FORM = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("content_type", "body", "word"),
    [
        pytest.param("multipart/form-data", b"--b--", "boundary", id="no boundary"),
        pytest.param(FORM, b"nonsense", "form", id="broken"),
        pytest.param(FORM, b"", "cut off", id="nothing"),
        pytest.param(FORM, b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nab', "cut off", id="cut off"),
        pytest.param(
            FORM, b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nab\r\n--b--\r\n', "'file'", id="name"
        ),
        pytest.param(FORM, b"--b\r\n\r\nab\r\n--b--\r\n", "''", id="no name"),
    ],
)
async def test_bad_form(client: httpx2.AsyncClient, content_type: str, body: bytes, word: str) -> None:
    problem(await client.post("/predict", content=body, headers={"Content-Type": content_type}), 400, word)


async def test_bad_picture_among_several_is_named(client: httpx2.AsyncClient) -> None:
    parts = [("image", ("a", PICTURE, "image/png")), ("image", ("b", b"no", "image/png"))]
    problem(await client.post("/predict", files=parts), 422, "Picture 1", "counting from 0", "not a picture")
    texts = [base64.b64encode(PICTURE).decode(), "%%%"]
    problem(await client.post("/predict", json={"images": texts}), 422, "Picture 1")


async def test_annotated_picture_is_made_of_one(client: httpx2.AsyncClient) -> None:
    parts = [("image", ("a", PICTURE, "image/png"))] * 2
    problem(await client.post("/predict", files=parts, headers={"Accept": "image/png"}), 400, "one picture")


async def test_body_without_length_is_cut_at_the_limit(client: httpx2.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100 * 2**20:
            sent += 2**16
            yield b"\0" * 2**16

    problem(await client.post("/predict", content=endless(), headers=PNG_HEADERS), 413)
    form = {"Content-Type": FORM}
    problem(await client.post("/predict", content=b"\0" * (2**21 + 1), headers=form), 413, "2097152")


async def test_unknown_model_path_and_method(client: httpx2.AsyncClient) -> None:
    for query in ("model=other", "version=2"):
        problem(await client.post(f"/predict?{query}", content=PICTURE, headers=PNG_HEADERS), 404, "fake")
    problem(await client.get("/models/other"), 404, "other")
    problem(await client.get("/nothing"), 404, "/nothing")
    reply = await client.get("/predict")
    problem(reply, 405, "GET")
    assert reply.headers["Allow"] == "POST"


async def test_deadline() -> None:
    async with fake_server(fake_batch_ms=300, max_batch_size=1) as client:
        slow = asyncio.create_task(client.post("/predict", content=PICTURE, headers=PNG_HEADERS))
        reply = await client.post("/predict?timeout_ms=1", content=PICTURE, headers=PNG_HEADERS)
        problem(reply, 504, "deadline")
        assert (await slow).status_code == 200


async def test_full_queue() -> None:
    async with fake_server(fake_batch_ms=300, max_queue_size=1) as client:
        replies = await asyncio.gather(
            *(client.post("/predict", content=PICTURE, headers=PNG_HEADERS) for _ in range(3))
        )
        statuses = sorted(reply.status_code for reply in replies)
        assert statuses == [200, 429, 429]
        for reply in replies:
            if reply.status_code == 429:
                problem(reply, 429, "full")
                assert int(reply.headers["Retry-After"]) >= 1


async def test_not_ready_while_warming_up() -> None:
    models = Models.of(settings(), [FakeEngine()])
    async with server_with(models) as client:
        (model,) = models
        model.ready = False
        problem(await client.get("/health/ready"), 503, "warming up")
        problem(await client.post("/predict", content=PICTURE, headers=PNG_HEADERS), 503, "warming up")
        assert (await client.get("/health/live")).status_code == 200


class BrokenEngine(FakeEngine):
    """Warms up, and then fails with `error`."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.runs = 0

    def infer(self, images: object, windows: object) -> object:  # type: ignore[override]
        self.runs += 1
        if self.runs > 5:
            raise self.error
        return super().infer(images, windows)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "word"),
    [
        pytest.param(errors.EngineFailed("CUDA is out of memory."), "CUDA", id="engine"),
        pytest.param(ZeroDivisionError("secret"), "bug", id="bug"),
    ],
)
async def test_failure_inside_shows_no_trace(error: Exception, word: str) -> None:
    async with server_with(Models.of(settings(), [BrokenEngine(error)])) as client:
        reply = await client.post("/predict", content=PICTURE, headers=PNG_HEADERS)
        problem(reply, 500, word)
        assert "secret" not in reply.text


async def test_model_that_cannot_warm_up_fails_liveness() -> None:
    engine = BrokenEngine(errors.EngineFailed("No device."))
    engine.runs = 5
    models = Models.of(settings(), [engine])
    async with running(create_app(settings(), models), wait=False) as client:
        while models.failure is None:
            await asyncio.sleep(0.005)
        problem(await client.get("/health/live"), 503, "No device.")
        problem(await client.get("/health/ready"), 503, "No device.")


def every_error() -> Iterator[type[errors.MasklineError]]:
    pending = [errors.MasklineError]
    while pending:
        pending += (found := pending.pop()).__subclasses__()
        yield found


def test_every_error_has_a_status() -> None:
    bases = {errors.MasklineError}
    served = {error for error in every_error() if error.__module__ == errors.__name__}  # the client has its own
    for error in served - bases:
        assert any(base in STATUS_BY_ERROR for base in error.__mro__), error
    assert status_of(errors.Draining("x")) == 503
    assert status_of(errors.EngineUnavailable("x")) == 503
