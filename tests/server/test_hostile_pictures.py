"""Pictures that lie in their headers, and the memory that decoding may take."""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from server.contract.errors import PictureTooLarge, UndecodablePicture
from server.engines.fake import FAKE_CARD
from server.pictures.budget import DecodeBudget, NoRoom
from server.pictures.decode import PictureFile, decode_image
from server.preprocess import prepare, resize_image
from tests.server.odd_files import encoded, everything_odd, large_png, many_pieces, many_scans, noise
from tests.server.running import PNG_HEADERS, fake_server, server_process

MIB = 1 << 20
ODD = everything_odd()
MANY_PIECES = many_pieces()


@pytest.mark.parametrize("name", ODD)
async def test_a_file_that_lies_gets_an_answer(name: str) -> None:
    async with fake_server() as client:
        reply = await asyncio.wait_for(client.post("/predict", content=ODD[name], headers=PNG_HEADERS), 20)
    assert reply.status_code in (200, 400, 413, 415), reply.text
    assert reply.status_code == 200 or reply.json()["detail"]


def decode_within(size: int, data: bytes) -> None:
    file = PictureFile(data)
    with DecodeBudget(size).take(file.decode_bytes):
        file.decode()


@pytest.mark.parametrize(
    "name", ["thousands of scans", "lying tile", "zTXt bomb", "profile bomb", "huge GIF", "huge WebP"]
)
def test_bombs_are_refused(name: str) -> None:
    with pytest.raises((PictureTooLarge, UndecodablePicture)):
        decode_within(480 * MIB, ODD[name])


def test_a_progressive_picture_of_the_usual_kind_is_no_bomb() -> None:
    image = noise((300, 200))
    assert decode_image(encoded(image, "JPEG", progressive=True)).shape == (200, 300, 3)
    assert decode_image(many_scans(64, 100)).shape == (64, 64, 3)  # odd, and cheap


def test_a_thumbnail_makes_a_picture_no_dearer() -> None:
    image = noise((2000, 1500))
    thumbnail = b"Exif\0\0" + encoded(noise(), "JPEG")
    plain, with_thumbnail = encoded(image, "JPEG"), encoded(image, "JPEG", exif=thumbnail)
    assert PictureFile(with_thumbnail).decode_bytes == PictureFile(plain).decode_bytes


@pytest.mark.parametrize("name", MANY_PIECES)
def test_files_of_millions_of_pieces_are_refused_without_reading_them(name: str) -> None:
    with pytest.raises(UndecodablePicture, match="far too many"):
        decode_image(MANY_PIECES[name])


# Reading in strips


RULES = ("antialias", "linear", "linear_zero_border")


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("interpolation", RULES)
def test_strips_give_the_same_canvas_as_the_whole(interpolation: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = PictureFile(encoded(noise((1500, 1400)), "JPEG", exif=exif, quality=90))

    decoded = file.decode()
    whole = decode_image(encoded(noise((1500, 1400)), "JPEG", exif=exif, quality=90))

    np.testing.assert_array_equal(decoded.whole(), whole)
    rule = FAKE_CARD.input.model_copy(
        update={"resize": FAKE_CARD.input.resize.model_copy(update={"interpolation": interpolation})}
    )
    np.testing.assert_array_equal(prepare(decoded, rule).image, prepare(whole, rule).image)


@pytest.mark.parametrize("size_hw", [(333, 500), (1400, 200), (150, 1500), (2000, 1600)])
def test_strips_are_resized_as_pillow_resizes_the_whole(size_hw: tuple[int, int]) -> None:
    data = encoded(noise((1500, 1400)))

    resized = resize_image(PictureFile(data).decode(), size_hw, "antialias")

    theirs = noise((1500, 1400)).resize(size_hw[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resized, np.asarray(theirs))


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA", "CMYK", "I;16", "F"])
def test_strips_of_every_mode(mode: str) -> None:
    grey = np.random.default_rng(1).integers(0, 60_000, (1300, 1200), np.uint16)
    deep = {"I;16": Image.fromarray(grey), "F": Image.fromarray(grey.astype(np.float32))}
    image = deep[mode] if mode in deep else noise((1200, 1300)).convert("L" if mode == "LA" else "RGB").convert(mode)
    data = encoded(image, "TIFF" if mode in ("CMYK", "F") else "PNG")

    decoded = PictureFile(data).decode()

    np.testing.assert_array_equal(np.concatenate([decoded[:700], decoded[700:]]), decoded[:])


def test_strips_of_a_turned_picture_are_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    data = encoded(noise((1500, 1400)), exif=exif)
    upright = noise((1500, 1400)).rotate(90, expand=True)
    np.testing.assert_array_equal(decode_image(data), np.asarray(upright))


# The budget


def test_a_picture_that_never_fits_is_refused_at_once() -> None:
    with pytest.raises(PictureTooLarge, match="max_decode_mib"):
        DecodeBudget(MIB).take(2 * MIB)


async def test_who_waits_longest_is_next() -> None:
    budget = DecodeBudget(10)
    first = budget.take(6)
    with pytest.raises(NoRoom):
        budget.take(6)
    large, small = asyncio.ensure_future(budget.wait_for(9)), asyncio.ensure_future(budget.wait_for(1))
    await asyncio.sleep(0)
    with pytest.raises(NoRoom):  # it would fit, and overtake
        budget.take(1)
    await asyncio.to_thread(first.give_back)
    room = await large
    assert (await small) is not None
    room.give_back()
    room.give_back()  # once is enough
    budget.take(9)


async def test_who_leaves_while_waiting_holds_nothing() -> None:
    budget = DecodeBudget(10)
    first = budget.take(10)
    waiting = [asyncio.ensure_future(budget.wait_for(10)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    first.give_back()
    waiting[1].cancel()
    await asyncio.gather(*waiting[:2], return_exceptions=True)
    (await waiting[2]).give_back()
    budget.take(10)


async def test_room_is_kept_as_long_as_the_picture() -> None:
    budget, picture = DecodeBudget(10), np.zeros(3)
    with budget.take(10) as room:
        room.keep_while(picture)
    with pytest.raises(NoRoom):
        budget.take(1)
    del picture
    gc.collect()
    budget.take(10)


async def test_pictures_wait_for_memory_and_all_are_answered() -> None:
    data = large_png(2000, 2000)  # 39 MiB while it is decoded
    async with fake_server(max_decode_mib=50, picture_threads=4) as client:
        posts = [client.post("/predict", content=data, headers=PNG_HEADERS) for _ in range(6)]
        posts += [client.post("/predict", content=data, headers={**PNG_HEADERS, "Accept": "image/png"})]
        statuses = [reply.status_code for reply in await asyncio.gather(*posts)]
        assert statuses == [200] * 6 + [413]  # to draw on it takes a copy
        late = await client.post("/predict?timeout_ms=1", content=data, headers=PNG_HEADERS)
        assert late.status_code == 504


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_100_megapixels_beside_others_take_less_than_512_mib() -> None:
    large, small = large_png(10_000, 10_000), encoded(noise((640, 480)), "JPEG")
    with server_process("--picture-threads", "4") as server, ThreadPoolExecutor(4) as threads:
        server.predict(small)
        status = Path(f"/proc/{server.process.pid}/status")
        before = _kib(status, "VmRSS")
        for _ in range(2):  # what the first took must be there for the second
            replies = list(threads.map(server.predict, (large, small, large, small)))
            assert [reply.status_code for reply in replies] == [200] * 4
        assert (_kib(status, "VmHWM") - before) / 1024 < 512


def _kib(status: Path, field: str) -> int:
    return int(next(line for line in status.read_text().splitlines() if line.startswith(field)).split()[1])
