"""Large JPEGs for models trained here are decoded at half their size: how far that moves a canvas, and for whom."""

from __future__ import annotations

import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
from PIL import Image

from server.contract.card import ModelCard
from server.contract.errors import UndecodablePicture
from server.engines.fake import FAKE_CARD, FakeEngine
from server.pictures.budget import DecodeBudget
from server.pictures.decode import Limits, PictureFile, decode_image
from server.pictures.reader import PictureReader
from server.pictures.threads import PictureThreads
from server.pipeline import Pipeline
from server.preprocess import prepare, prepare_file

SIDES = (1009, 1303)
"""Odd ones; the fake model's window is 128 x 165, an eighth."""
MEAN_LEVELS = 1.5


def scene(h: int, w: int) -> Image.Image:
    """Blots from the size of the picture down to that of a few pixels, the finest of them grey, and grain."""
    rng = np.random.default_rng(0)
    layers = [rng.integers(0, 256, (4 << i, 5 << i, 3), dtype=np.uint8) for i in range(8)]
    layers[5:] = [np.repeat(layer[:, :, :1], 3, axis=2) for layer in layers[5:]]
    spread = [np.asarray(Image.fromarray(layer).resize((w, h), Image.Resampling.BICUBIC)) for layer in layers]
    pixels = np.mean(spread, 0) * 1.6 - 76 + rng.normal(0, 4, (h, w, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


SCENE = scene(*SIDES)


def jpeg(image: Image.Image = SCENE, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


def model(family: str = "native", **resize: Any) -> ModelCard:
    card = FAKE_CARD.model_dump()
    card["provenance"]["family"] = family
    card["input"]["resize"] |= resize
    return ModelCard.model_validate(card)


def difference(data: bytes, card: ModelCard) -> float:
    """Mean levels between the canvas' window and that of the whole picture."""
    ours, exact = prepare_file(PictureFile(data), card), prepare(decode_image(data), card.input)
    assert ours.window_xyxy == exact.window_xyxy
    assert ours.size_hw == exact.size_hw
    assert ours.image.shape == exact.image.shape
    return float(np.abs(ours.window.astype(int) - exact.window).mean())


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("min_size", [100, 290])
def test_colours_stay_within_the_bound(subsampling: str, progressive: bool, min_size: int) -> None:
    data = jpeg(subsampling=subsampling, progressive=progressive)

    assert 0 < difference(data, model(min_size=min_size, max_size=400)) < MEAN_LEVELS


def test_grey() -> None:
    assert 0 < difference(jpeg(SCENE.convert("L")), model()) < MEAN_LEVELS


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_and_odd_sides(orientation: int) -> None:
    """A window that is off by half a pixel of the picture, or mirrored, would be further away."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    lines = Image.fromarray(np.repeat(np.uint8(np.indices(SIDES).sum(0) // 40 % 2 * 255)[:, :, None], 3, axis=2))

    assert 0 < difference(jpeg(exif=exif), model()) < 0.7
    assert difference(jpeg(lines, exif=exif), model()) < 0.7


@pytest.mark.parametrize(
    ("data", "card"),
    [
        pytest.param(jpeg(), model("torchvision", interpolation="linear"), id="torchvision"),
        pytest.param(jpeg(), model("detectron2"), id="detectron2, the same rule as ours"),
        pytest.param(jpeg(), model("matterport", interpolation="linear_zero_border"), id="Matterport"),
        pytest.param(jpeg(), model(interpolation="linear"), id="trained here from torchvision's weights"),
        pytest.param(jpeg(), model(min_size=300, max_size=400), id="a third of the picture's sides"),
        pytest.param(jpeg(SCENE.resize((1200, 800))), model(), id="a small picture"),
        pytest.param(jpeg(SCENE.convert("CMYK")), model(), id="four bands"),
    ],
)
def test_the_others_are_read_whole(data: bytes, card: ModelCard) -> None:
    assert difference(data, card) == 0


def test_a_file_with_rubbish_inside_is_read_as_a_whole_one_is() -> None:
    data = jpeg()
    middle = len(data) // 2
    data = data[:middle] + b"\xff\xd3" + data[middle + 2 :]

    assert PictureFile(data).halved() is None
    assert difference(data, model()) == 0


def test_a_file_that_is_cut_off_is_refused() -> None:
    with pytest.raises(UndecodablePicture, match="broken or cut off"):
        prepare_file(PictureFile(jpeg()[:100_000]), model())


async def test_a_canvas_is_the_same_for_every_way_to_ask() -> None:
    """Through `Pipeline`, as verification and evaluation do, and through the server, which may keep the picture."""
    data, threads = jpeg(), PictureThreads(1)
    reader = PictureReader(threads, DecodeBudget(1 << 30))
    expected = prepare_file(PictureFile(data), FAKE_CARD).image

    (dropped, canvas), _ = await reader.read(data, Limits(), FAKE_CARD, False)
    (kept, canvas_of_kept), _ = await reader.read(data, Limits(), FAKE_CARD, True)
    threads.close()

    assert dropped is None
    np.testing.assert_array_equal(kept, decode_image(data))
    for other in (canvas, canvas_of_kept, Pipeline(FakeEngine()).prepare(PictureFile(data))):
        np.testing.assert_array_equal(other.image, expected)
    assert np.any(expected != prepare(decode_image(data), FAKE_CARD.input).image)


def test_it_takes_no_more_memory_than_was_asked_for() -> None:
    prepare_file(PictureFile(jpeg()), FAKE_CARD)
    file = PictureFile(jpeg())
    tracemalloc.start()
    prepare_file(file, FAKE_CARD)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < SIDES[0] * SIDES[1] * 3 / 2 < file.decode_bytes
