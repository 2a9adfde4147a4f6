"""JPEG files that go past Pillow have its pixels; what is not flawless goes through it."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from server.contract.errors import UndecodablePicture
from server.pictures.decode import PictureFile, decode_image

PHOTO = np.clip(np.random.default_rng(2).normal(0, 30, (61, 83, 3)) + np.mgrid[0:244:4, 0:83][0][:, :, None], 0, 255)


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PHOTO.astype(np.uint8)).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def pillows(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_colour(subsampling: str, progressive: bool) -> None:
    data = jpeg(subsampling=subsampling, progressive=progressive, quality=85)

    decoded = PictureFile(data).decode()

    assert decoded.pixels is not None
    np.testing.assert_array_equal(decoded.whole(), pillows(data))
    np.testing.assert_array_equal(decoded[13:40], pillows(data)[13:40])


def test_grey_takes_a_third_of_the_memory() -> None:
    decoded = PictureFile(jpeg("L")).decode()

    assert decoded.pixels is not None
    assert decoded.pixels.strides[2] == 0
    np.testing.assert_array_equal(decoded.whole(), pillows(jpeg("L")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(exif=exif)

    decoded = PictureFile(data).decode()

    assert decoded.pixels is not None
    assert decoded.shape == pillows(data).shape
    np.testing.assert_array_equal(decoded.whole(), pillows(data))


def test_colour_that_is_not_coded_as_luminance() -> None:
    data = jpeg(keep_rgb=True)

    np.testing.assert_array_equal(decode_image(data), pillows(data))


def test_four_bands_are_left_to_pillow() -> None:
    decoded = PictureFile(jpeg("CMYK")).decode()

    assert decoded.pixels is None
    np.testing.assert_array_equal(decoded.whole(), pillows(jpeg("CMYK")))


def test_a_file_with_rubbish_inside_is_what_pillow_makes_of_it() -> None:
    """libjpeg warns and goes on; how it goes on is for one reader to decide."""
    data = bytearray(jpeg(quality=95))
    data[data.index(b"\xff\xda") + 150] = 0x55

    decoded = PictureFile(bytes(data)).decode()

    assert decoded.pixels is None
    np.testing.assert_array_equal(decoded.whole(), pillows(bytes(data)))


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_file_that_is_cut_off_is_refused(kept: float) -> None:
    data = jpeg(quality=95)

    with pytest.raises(UndecodablePicture, match="broken or cut off"):
        PictureFile(data[: int(len(data) * kept)]).decode()


def test_it_is_decoded_all_the_same_without_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = decode_image(jpeg())
    monkeypatch.setitem(sys.modules, "simplejpeg", None)

    decoded = PictureFile(jpeg()).decode()

    assert decoded.pixels is None
    np.testing.assert_array_equal(decoded.whole(), expected)
