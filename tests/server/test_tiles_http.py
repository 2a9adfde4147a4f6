"""Pictures in tiles over HTTP: forms of the answer, other requests beside them, deadlines."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
from collections.abc import AsyncIterator

import httpx2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from pydantic import TypeAdapter

from server.contract import polygons, rle
from server.contract.wire import Mask, PngMask, PolygonMask, PredictOptions, PredictResponse, RleMask
from server.models import Models
from server.pipeline import Pipeline
from tests.server.blob_engine import BlobEngine, blobs, colours
from tests.server.faulty_engine import Faults
from tests.server.running import PNG_HEADERS, as_png, fake_server, noise, server_with, settings

TILES = "tile=64&overlap=16"
ACCEPT_PNG = {**PNG_HEADERS, "Accept": "image/png"}


def discs(seed: int, h: int, w: int) -> np.ndarray:
    """Some of them are where tiles meet."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (w, h))
    for x in range(15, w, 30):
        for y in range(15, h, 30):
            r, dx, dy = rng.integers(4, 12), *rng.integers(-2, 3, 2)
            ImageDraw.Draw(image).ellipse((x + dx - r, y + dy - r, x + dx + r, y + dy + r), fill=(255, 0, 0))
    return np.asarray(image)


PICTURE, OTHER = discs(0, 110, 160), discs(1, 100, 64)
FILE, SMALL = as_png(PICTURE), as_png(discs(2, 60, 60))


@contextlib.asynccontextmanager
async def serving(engine: BlobEngine, **values: object) -> AsyncIterator[httpx2.AsyncClient]:
    async with server_with(Models.of(settings(**values), [engine]), **values) as client:
        yield client


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with serving(BlobEngine()) as client:
        yield client


def checked(reply: httpx2.Response) -> PredictResponse:
    assert reply.status_code == 200, reply.text
    return TypeAdapter(PredictResponse).validate_json(reply.content)


async def post(client: httpx2.AsyncClient, query: str, file: bytes = FILE) -> httpx2.Response:
    return await client.post(f"/predict?{query}", content=file, headers=PNG_HEADERS)


def pixels(mask: Mask | None, size_hw: tuple[int, int]) -> np.ndarray:
    if isinstance(mask, PngMask):
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(mask.png))).convert("L")) > 0
    if isinstance(mask, PolygonMask):
        return rle.to_mask(polygons.to_counts(mask.coordinates, size_hw), size_hw)
    if isinstance(mask, RleMask):
        return rle.to_mask(rle.decompress(mask.counts, size_hw), size_hw)
    assert mask is not None
    return rle.to_mask(rle.check(mask.counts, size_hw), size_hw)


# The answer


@pytest.mark.parametrize("form", ["rle", "rle_uncompressed", "polygon", "png", "none"])
async def test_every_form_of_mask(client: httpx2.AsyncClient, form: str) -> None:
    (image,) = checked(await post(client, f"{TILES}&mask={form}")).images
    expected = [blob for _, mask in colours(PICTURE) for blob in blobs(mask)]
    assert (image.height, image.width, len(image.detections)) == (110, 160, len(expected))
    assert sorted(d.area for d in image.detections) == sorted(int(blob.sum()) for blob in expected)
    if form != "none":
        found = {np.ascontiguousarray(pixels(d.mask, (110, 160))).tobytes() for d in image.detections}
        assert found == {blob.tobytes() for blob in expected}


async def test_the_same_answer_as_in_process(client: httpx2.AsyncClient) -> None:
    for query in ({"tile": 64}, {"tile": 100, "overlap": 50, "max_detections": 5}, {"tile": 1000}):
        text = "&".join(f"{name}={value}" for name, value in query.items())
        (image,) = checked(await post(client, text)).images
        assert image == Pipeline(BlobEngine()).predict(FILE, PredictOptions(**query))


async def test_several_pictures(client: httpx2.AsyncClient) -> None:
    files = [FILE, as_png(OTHER), SMALL]
    alone = [checked(await post(client, TILES, file)).images[0] for file in files]
    parts = [("image", ("a.png", file, "image/png")) for file in files]
    together = checked(await client.post(f"/predict?{TILES}", files=parts))
    assert together.images == alone


async def test_tiles_of_all_requests_run_together() -> None:
    engine = BlobEngine()
    async with serving(engine, max_batch_size=4) as client:
        replies = [checked(reply) for reply in await asyncio.gather(*(post(client, TILES) for _ in range(3)))]
    assert [reply.batch_size for reply in replies] == [4, 4, 4]
    assert max(engine.batches) == 4
    assert len(engine.batches) < 12  # 3 * 6 tiles in batches of 4, and what runs alone at first
    assert replies[0].images == replies[1].images == replies[2].images


async def test_timings_are_of_the_slowest_tile(client: httpx2.AsyncClient) -> None:
    reply = await post(client, TILES)
    timings = checked(reply).timings_ms
    assert min(timings.decode, timings.inference, timings.postprocess) > 0
    assert timings.total >= max(timings.decode, timings.queue, timings.inference, timings.postprocess)
    assert "inference;dur=" in reply.headers["Server-Timing"]


async def test_annotated_picture(client: httpx2.AsyncClient) -> None:
    reply = await client.post(f"/predict?{TILES}&mask=polygon", content=FILE, headers=ACCEPT_PNG)
    assert (reply.status_code, reply.headers["Content-Type"]) == (200, "image/png")
    drawn = np.asarray(Image.open(io.BytesIO(reply.content)))
    assert drawn.shape == PICTURE.shape
    assert (drawn != PICTURE).any(axis=2)[PICTURE[..., 0] > 0].mean() > 0.95


# Errors


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("tile=63", "tile: input should be greater than or equal to 64."),
        ("tile=64&overlap=33", "overlap: it is more than half of tile; give at most 32."),
        ("tile=64&overlap=-1", "overlap: input should be greater than or equal to 0."),
        ("overlap=10", "overlap: there are no tiles; give tile as well."),
        ("tile=big", "tile: input should be a valid integer"),
    ],
)
async def test_tiles_that_cannot_be(client: httpx2.AsyncClient, query: str, sentence: str) -> None:
    reply = await post(client, query)
    assert reply.status_code == 400
    assert reply.json()["detail"].startswith(sentence)


async def test_far_too_many_tiles(client: httpx2.AsyncClient) -> None:
    reply = await post(client, "tile=64&overlap=32", as_png(np.zeros((2400, 2400, 3), np.uint8)))
    assert (reply.status_code, reply.json()["detail"][:23]) == (400, "tile: it makes 5476 til")


async def test_far_too_many_objects(client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.slides.MAX_INSTANCES", 10)
    reply = await post(client, TILES)
    assert (reply.status_code, "more than 10 objects" in reply.json()["detail"]) == (400, True)
    checked(await post(client, TILES, SMALL))


async def test_a_bad_picture_among_several_is_named(client: httpx2.AsyncClient) -> None:
    for bad in (b"nonsense", FILE[:400]):  # at its header, and in the middle
        parts = [("image", ("a.png", file, "image/png")) for file in (FILE, bad)]
        reply = await client.post(f"/predict?{TILES}", files=parts)
        assert (reply.status_code, reply.json()["detail"][:9]) == (422, "Picture 1")
        assert (await post(client, TILES, bad)).status_code == 400


# Other requests beside them: a slide of 36 tiles, 2 of which run in a batch


SLIDE = as_png(noise(0, (300, 300)))
SLIDE_TILES = 36
PLAIN = as_png(noise(1, (64, 64)))


@contextlib.asynccontextmanager
async def serving_slowly(faults: Faults, **values: object) -> AsyncIterator[httpx2.AsyncClient]:
    faults.seconds_per_image = 0.02
    values = {"max_batch_size": 2, **values}
    async with server_with(Models.of(settings(**values), [faults.make]), **values) as client:
        yield client


async def seen(faults: Faults, pictures: int, task: asyncio.Task[httpx2.Response]) -> int:
    """Waits until the engine has seen so many; how many it has seen then."""
    while faults.pictures < pictures and not task.done():
        await asyncio.sleep(0.005)
    return faults.pictures


async def test_a_slide_leaves_others_their_turn() -> None:
    faults = Faults()
    async with serving_slowly(faults, max_queue_size=8) as client:
        slide = asyncio.create_task(post(client, TILES, SLIDE))
        before = await seen(faults, 6, slide)
        checked(await post(client, "", PLAIN))
        assert faults.pictures - before < 20  # the four tiles that were on their way, and few more
        assert not slide.done()
        checked(await slide)
        assert faults.pictures == SLIDE_TILES + 1


@pytest.mark.parametrize("how", ["deadline", "client"])
async def test_nothing_runs_for_a_slide_that_nobody_waits_for(how: str) -> None:
    faults = Faults()
    async with serving_slowly(faults) as client:
        slide = asyncio.create_task(post(client, TILES + ("&timeout_ms=400" if how == "deadline" else ""), SLIDE))
        await seen(faults, 4, slide)
        if how == "deadline":
            assert (await slide).status_code == 504
        else:
            slide.cancel()
            await asyncio.gather(slide, return_exceptions=True)
        before = faults.pictures
        checked(await post(client, "", PLAIN))
        await asyncio.sleep(0.1)
        assert faults.pictures <= before + 3  # a batch that was running, and the last picture


async def test_a_slide_that_would_be_late_is_refused_where_others_wait() -> None:
    """Nobody has read its pixels then: its header tells how many tiles there are."""
    faults = Faults()
    async with serving_slowly(faults) as client:
        checked(await post(client, TILES, SLIDE))  # tells how long a tile takes
        other = asyncio.create_task(post(client, TILES, SLIDE))
        await seen(faults, SLIDE_TILES + 2, other)
        before = faults.pictures
        reply = await post(client, f"{TILES}&timeout_ms=500", SLIDE)
        assert (reply.status_code, "deadline" in reply.json()["detail"]) == (429, True)
        assert int(reply.headers["Retry-After"]) >= 1
        assert faults.pictures - before < 20
        checked(await other)


async def test_pictures_in_tiles_wait_for_memory_among_themselves() -> None:
    """There is room for the pixels of one slide; other pictures have room of their own."""
    slides = [as_png(noise(seed, (1000, 1000))) for seed in range(2)]
    async with fake_server(max_decode_mib=30, max_batch_size=1, fake_batch_ms=20) as client:
        tasks = [asyncio.create_task(post(client, "tile=256", file)) for file in slides]
        await asyncio.sleep(0.2)
        checked(await post(client, "", as_png(noise(3, (1000, 900)))))
        assert not all(task.done() for task in tasks)
        for task in tasks:
            checked(await task)
