"""`POST /predict` with the fake engine: forms of the request, the query, forms of the answer."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator

import httpx2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pydantic import TypeAdapter

from server.contract.wire import PredictResponse
from tests.server.running import PNG_HEADERS, as_png, fake_server, noise, png

RED, GREEN = png((200, 30, 10)), png((20, 199, 90), (33, 77))


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with fake_server() as client:
        yield client


def checked(reply: httpx2.Response) -> PredictResponse:
    assert reply.status_code == 200, reply.text
    return TypeAdapter(PredictResponse).validate_json(reply.content)


async def answer(client: httpx2.AsyncClient, picture: bytes, query: str = "") -> PredictResponse:
    return checked(await client.post(f"/predict{query}", content=picture, headers=PNG_HEADERS))


# Forms of the request


@pytest.mark.parametrize("content_type", ["image/png", "image/jpeg", "application/octet-stream", "IMAGE/PNG; x=y"])
async def test_raw_body(client: httpx2.AsyncClient, content_type: str) -> None:
    found = checked(await client.post("/predict", content=RED, headers={"Content-Type": content_type}))
    assert [(image.width, image.height) for image in found.images] == [(60, 40)]


async def test_multipart_and_json_and_raw_agree(client: httpx2.AsyncClient) -> None:
    raw = [(await answer(client, picture)).images[0] for picture in (RED, GREEN)]
    parts = [("image", ("a.png", RED, "image/png")), ("image", ("b", GREEN, "image/png"))]
    form = checked(await client.post("/predict", files=parts)).images
    texts = [base64.b64encode(picture).decode() for picture in (RED, GREEN)]
    several = checked(await client.post("/predict", json={"images": texts})).images
    single = checked(await client.post("/predict", json={"image": texts[1]})).images
    assert form == several == raw
    assert single == raw[1:]
    assert raw[0] != raw[1]


async def test_large_multipart_part_is_whole(client: httpx2.AsyncClient) -> None:
    picture = noise(1, (900, 1200))
    file = as_png(picture)
    assert len(file) > 2_000_000
    found = checked(await client.post("/predict", files=[("image", ("a.png", file, "image/png"))]))
    assert (found.images[0].width, found.images[0].height) == (1200, 900)


# The query


async def test_answer_says_who_and_how_long(client: httpx2.AsyncClient) -> None:
    reply = await client.post("/predict", content=RED, headers=PNG_HEADERS)
    found = checked(reply)
    assert (found.model.name, found.model.version, found.batch_size) == ("fake", "1", 1)
    assert found.request_id == reply.headers["X-Request-ID"]
    timings = found.timings_ms
    assert timings.total >= max(timings.decode, timings.queue, timings.inference, timings.postprocess)
    stages = dict(part.split(";")[:2] for part in reply.headers["Server-Timing"].split(", "))
    assert list(stages) == ["decode", "queue", "inference", "postprocess", "total", "batch", "canvas"]
    assert float(stages["total"].removeprefix("dur=")) == pytest.approx(timings.total, abs=1e-3)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with NumPy 2
async def test_mask_reads_with_pycocotools_and_fills_its_box(client: httpx2.AsyncClient) -> None:
    (found,) = (await answer(client, RED)).images[0].detections
    assert found.mask is not None
    mask = coco_mask.decode({"size": list(found.mask.size), "counts": found.mask.counts})  # type: ignore[union-attr]
    ys, xs = np.nonzero(mask)
    x1, y1, x2, y2 = found.box
    assert mask.shape == (40, 60)
    assert mask.sum() == found.area
    assert x1 <= xs.min() + 1
    assert xs.max() <= x2
    assert y1 <= ys.min() + 1
    assert ys.max() <= y2


@pytest.mark.parametrize(
    ("query", "count"),
    [
        pytest.param("score_threshold=0.99", 0, id="threshold above"),
        pytest.param("score_threshold=0", 1, id="threshold below the model's is clamped"),
        pytest.param("max_detections=100000", 1, id="limit beyond the model's is clamped"),
        pytest.param("classes=something", 1, id="class by name"),
        pytest.param("classes=1,something%20else", 1, id="classes by id and name"),
        pytest.param("classes=2", 0, id="another class"),
        pytest.param("model=fake&version=1&timeout_ms=60000", 1, id="model, version, timeout"),
    ],
)
async def test_query(client: httpx2.AsyncClient, query: str, count: int) -> None:
    assert len((await answer(client, RED, f"?{query}")).images[0].detections) == count


async def test_picture_without_objects_is_an_empty_list(client: httpx2.AsyncClient) -> None:
    assert (await answer(client, png((0, 0, 0)))).images[0].detections == []


@pytest.mark.parametrize("mask", ["none", "rle_uncompressed", "png", "polygon"])
async def test_other_masks_have_the_same_boxes_and_areas(client: httpx2.AsyncClient, mask: str) -> None:
    (plain,) = (await answer(client, RED)).images[0].detections
    (found,) = (await answer(client, RED, f"?mask={mask}")).images[0].detections
    assert (found.box, found.area, found.score) == (plain.box, plain.area, plain.score)
    assert (found.mask is None) == (mask == "none")


async def test_exif_orientation_is_applied(client: httpx2.AsyncClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (60, 40), (90, 90, 90)).save(file, "JPEG", exif=exif)
    image = (await answer(client, file.getvalue())).images[0]
    assert (image.width, image.height) == (40, 60)


# Forms of the answer


@pytest.mark.parametrize("accept", ["image/png", "image/png, */*", "application/json;q=0.5, image/png"])
async def test_annotated_picture(client: httpx2.AsyncClient, accept: str) -> None:
    reply = await client.post("/predict", content=RED, headers={**PNG_HEADERS, "Accept": accept})
    assert (reply.status_code, reply.headers["Content-Type"]) == (200, "image/png")
    drawn = np.asarray(Image.open(io.BytesIO(reply.content)))
    (found,) = (await answer(client, RED)).images[0].detections
    assert drawn.shape == (40, 60, 3)
    assert tuple(drawn[0, 0]) == (200, 30, 10)
    changed = (drawn != (200, 30, 10)).any(axis=2)
    assert changed[20, 30]
    assert changed.sum() >= found.area


@pytest.mark.parametrize("mask", ["polygon", "png", "rle_uncompressed", "none"])
async def test_annotated_picture_has_its_masks_whatever_the_answer_would_have_had(
    client: httpx2.AsyncClient, mask: str
) -> None:
    headers = {**PNG_HEADERS, "Accept": "image/png"}
    plain = await client.post("/predict", content=RED, headers=headers)
    assert (await client.post(f"/predict?mask={mask}", content=RED, headers=headers)).content == plain.content


async def test_lines_of_an_annotated_picture_grow_with_it(client: httpx2.AsyncClient) -> None:
    """The first pixels of the box that are not the picture's own, from the left, in the middle of a side."""
    widths = []
    for side in (200, 3200):
        picture = png((200, 30, 10), (side, side))
        (found,) = (await answer(client, picture, "?mask=none")).images[0].detections
        reply = await client.post("/predict", content=picture, headers={**PNG_HEADERS, "Accept": "image/png"})
        row = np.asarray(Image.open(io.BytesIO(reply.content)))[int(found.box[1]) + side // 20].astype(int)
        edge = int(found.box[0])
        widths.append(int((row[edge : edge + 20] == row[edge]).all(axis=1).sum()))
    assert widths == [1, 4]


@pytest.mark.parametrize("accept", ["*/*", "application/json, image/png", "image/png;q=0, */*", "text/html", "image/*"])
async def test_json_unless_png_is_preferred(client: httpx2.AsyncClient, accept: str) -> None:
    reply = await client.post("/predict", content=RED, headers={**PNG_HEADERS, "Accept": accept})
    assert reply.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(("asked", "encoding"), [("gzip", "gzip"), ("identity", None)])
async def test_gzip_when_asked(client: httpx2.AsyncClient, asked: str, encoding: str | None) -> None:
    parts = [("image", ("a.png", RED, "image/png"))] * 4
    reply = await client.post("/predict", files=parts, headers={"Accept-Encoding": asked})
    assert reply.headers.get("Content-Encoding") == encoding
    assert len(checked(reply).images) == 4


@pytest.mark.parametrize(
    ("sent", "kept"), [("abc-1.2_X", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("", False)]
)
async def test_request_id(client: httpx2.AsyncClient, sent: str, kept: bool) -> None:
    for path in ("/predict?nonsense=1", "/models", "/nothing"):
        reply = await client.get(path, headers={"X-Request-ID": sent})
        assert (reply.headers["X-Request-ID"] == sent) is kept
        assert reply.headers["X-Request-ID"]


# Many at once


async def test_two_hundred_at_once_each_get_their_own_answer(client: httpx2.AsyncClient) -> None:
    sizes = [(20 + i % 7, 30 + i % 5) for i in range(200)]
    pictures = [png((i, (7 * i) % 256, 255 - i), size) for i, size in enumerate(sizes, start=1)]
    alone = [await answer(client, picture) for picture in pictures]
    together = await asyncio.gather(*(answer(client, picture) for picture in pictures))
    assert [found.images for found in together] == [found.images for found in alone]
    assert len({str(found.images) for found in alone}) == 200
    assert max(found.batch_size for found in together) > 1


async def test_cancelled_request_leaves_nothing_behind() -> None:
    async with fake_server(fake_batch_ms=50, max_batch_size=1) as client:
        tasks = [asyncio.create_task(answer(client, RED)) for _ in range(5)]
        await asyncio.sleep(0.02)
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert "maskline_requests_in_flight 0.0" in (await client.get("/metrics")).text
        assert checked(await client.post("/predict", content=RED, headers=PNG_HEADERS))
