from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from server.contract import card
from server.contract.errors import (
    BundleError,
    PictureError,
    PictureTooLarge,
    UndecodablePicture,
    UnsupportedFormat,
)
from server.pictures.decode import Limits, decode_image
from server.preprocess import Canvas, canvas_size, place, prepare, resize_image, resized_size


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def noise(h: int, w: int, *channels: int) -> np.ndarray:
    return np.random.default_rng(h * 1000 + w).integers(0, 256, (h, w, *channels), dtype=np.uint8)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a picture and holds a hundred bytes of it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


# Decoding


@pytest.mark.parametrize(
    ("form", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("GIF", {}), ("JPEG", {"subsampling": 0})],
)
def test_every_accepted_format(form: str, options: dict[str, Any]) -> None:
    flat = np.zeros((32, 48, 3), np.uint8)
    flat[:16], flat[16:] = (200, 40, 90), (10, 240, 30)

    picture = decode_image(encoded(Image.fromarray(flat), form, **options))

    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    assert np.abs(picture.astype(int) - flat).max() <= (3 if form == "JPEG" else 0)


@pytest.mark.parametrize("form", ["MPO", "GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_several(form: str) -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")

    data = encoded(red, form, save_all=True, append_images=[blue])

    np.testing.assert_allclose(decode_image(data)[4, 4], (255, 0, 0), atol=3)


def grey_ramp(mode: str) -> tuple[Image.Image, list[int]]:
    values: dict[str, tuple[np.ndarray, list[int]]] = {
        "1": (np.array([[False, True, False, True]]), [0, 255, 0, 255]),
        "L": (np.array([[0, 1, 128, 255]], np.uint8), [0, 1, 128, 255]),
        "I;16": (np.array([[0, 257, 128 * 257, 65535]], np.uint16), [0, 1, 128, 255]),
        "I": (np.array([[-1000, 0, 1000, 3000]], np.int32), [0, 64, 128, 255]),
        "F": (np.array([[np.nan, -0.5, 1.5, np.inf]], np.float32), [0, 0, 255, 255]),
    }
    array, expected = values[mode]
    return Image.fromarray(array), expected


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "I", "F"])
def test_grey_of_any_depth_is_scaled_and_not_clipped(mode: str) -> None:
    image, expected = grey_ramp(mode)
    assert image.mode == mode

    picture = decode_image(encoded(image, "TIFF"))

    assert picture[0, :, 0].tolist() == expected
    assert (picture == picture[:, :, :1]).all()


def test_sixteen_bit_png() -> None:
    picture = decode_image(encoded(Image.fromarray(np.array([[0, 300, 40_000, 65535]], np.uint16))))

    assert picture[0, :, 1].tolist() == [0, 1, 156, 255]


def test_a_flat_float_picture_is_black() -> None:
    assert decode_image(encoded(Image.new("F", (3, 2), 0.7), "TIFF")).max() == 0


def test_transparency_lies_over_black() -> None:
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 51]]], np.uint8)
    grey_alpha = Image.merge("LA", [Image.new("L", (1, 1), 200), Image.new("L", (1, 1), 0)])

    assert decode_image(encoded(Image.fromarray(rgba)))[0].tolist() == [[200, 100, 50], [0, 0, 0], [40, 20, 10]]
    assert decode_image(encoded(grey_alpha)).tolist() == [[[0, 0, 0]]]


def test_a_transparent_colour_lies_over_black() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    rgb = Image.fromarray(np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8))
    deep = Image.fromarray(np.array([[0, 65535]], np.uint16))

    assert decode_image(encoded(palette))[0].tolist() == [[10, 20, 30], [40, 50, 60]]
    assert decode_image(encoded(palette, transparency=1))[0].tolist() == [[10, 20, 30], [0, 0, 0]]
    assert decode_image(encoded(rgb, transparency=(40, 50, 60)))[0].tolist() == [[10, 20, 30], [0, 0, 0]]
    assert decode_image(encoded(deep, transparency=65535)).max() == 0


@pytest.mark.parametrize(("mode", "form"), [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF"), ("LAB", "TIFF")])
def test_other_colour_models_show_the_same_colours(mode: str, form: str) -> None:
    rgb = Image.new("RGB", (16, 16), (180, 60, 40))
    if mode == "LAB":
        image = Image.merge("LAB", [Image.new("L", (16, 16), v) for v in (112, 176, 165)])  # about (180, 60, 40)
    else:
        image = rgb.convert(mode)

    picture = decode_image(encoded(image, form))

    np.testing.assert_allclose(picture[8, 8], (180, 60, 40), atol=6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
def test_orientation_is_applied_as_pillow_applies_it(form: str, orientation: int) -> None:
    image = Image.fromarray(noise(24, 16, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, form, exif=exif)

    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))

    np.testing.assert_array_equal(decode_image(data), np.asarray(upright))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\x05"]
)
def test_broken_exif_does_not_spoil_the_picture(exif: bytes) -> None:
    data = encoded(Image.fromarray(noise(8, 9, 3)), "JPEG", exif=exif)

    assert decode_image(data).shape == (8, 9, 3)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        pytest.param(b"", UndecodablePicture, "empty", id="no bytes"),
        pytest.param(b"Python is not a picture.\n" * 9, UndecodablePicture, "not a picture", id="text"),
        pytest.param(b"\x89PNG\r\n\x1a\n", UndecodablePicture, "header is broken", id="a signature only"),
        pytest.param(encoded(Image.fromarray(noise(99, 99, 3)), "JPEG")[:2000], UndecodablePicture, "JPEG", id="cut"),
        pytest.param(png_header(64, 64), UndecodablePicture, "PNG", id="too little data"),
        pytest.param(encoded(Image.new("RGB", (4, 4)), "PPM"), UnsupportedFormat, "PPM", id="PPM"),
        pytest.param(encoded(Image.new("RGB", (4, 4)), "PCX"), UnsupportedFormat, "PCX", id="PCX"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n" + bytes(99), UnsupportedFormat, "EPS", id="EPS"),
        pytest.param(b"%PDF-1.7\n" + bytes(99), UnsupportedFormat, "PDF", id="PDF"),
        pytest.param(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", UnsupportedFormat, "HEIC", id="HEIC"),
        pytest.param(b'<svg xmlns="http://www.w3.org/2000/svg"/>', UnsupportedFormat, "SVG", id="SVG"),
        pytest.param(png_header(20_000, 10_000), PictureTooLarge, "pixels", id="200 megapixels"),
        pytest.param(png_header(11_000, 10_000), PictureTooLarge, "11000 x 10000", id="110 megapixels"),
    ],
)
def test_a_bad_picture_gets_its_own_error_and_a_sentence(data: bytes, error: type[PictureError], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        decode_image(data)
    assert str(caught.value).endswith(".")
    assert "<" not in str(caught.value)


def test_limits_are_the_operators() -> None:
    data = encoded(Image.new("RGB", (10, 10)))

    assert decode_image(data, Limits(max_bytes=len(data), max_pixels=100)).shape == (10, 10, 3)
    with pytest.raises(PictureTooLarge, match="10 x 10"):
        decode_image(data, Limits(max_pixels=99))
    with pytest.raises(PictureTooLarge, match="bytes"):
        decode_image(data, Limits(max_bytes=len(data) - 1))


# Resizing

TORCHVISION = {"rule": "shortest_edge", "rounding": "floor", "interpolation": "linear"}
DETECTRON2 = {"rule": "shortest_edge", "rounding": "half_up", "interpolation": "antialias"}
MATTERPORT = {"rule": "grow_shortest_edge", "rounding": "half_even", "interpolation": "linear_zero_border"}


def resize_rule(family: dict[str, str], min_size: int, max_size: int) -> card.Resize:
    return card.Resize.model_validate({**family, "min_size": min_size, "max_size": max_size})


@pytest.mark.parametrize(
    ("family", "sizes", "picture_hw", "expected_hw"),
    [
        pytest.param(TORCHVISION, (256, 400), (213, 320), (256, 384), id="torchvision rounds down"),
        pytest.param(TORCHVISION, (320, 480), (302, 201), (479, 319), id="torchvision just misses the longest side"),
        pytest.param(TORCHVISION, (800, 1333), (800, 800), (800, 800), id="torchvision, nothing to do"),
        pytest.param(DETECTRON2, (256, 400), (213, 320), (256, 385), id="detectron2 rounds"),
        pytest.param(DETECTRON2, (800, 1333), (400, 1000), (533, 1333), id="detectron2, longest side counts"),
        pytest.param(DETECTRON2, (800, 1333), (1000, 400), (1333, 533), id="detectron2, portrait"),
        pytest.param(DETECTRON2, (800, 1333), (1, 1), (800, 800), id="one pixel"),
        pytest.param(DETECTRON2, (800, 1333), (1, 100_000), (1, 1333), id="thin"),
        pytest.param(TORCHVISION, (800, 1333), (100_000, 1), (1333, 1), id="tall"),
        pytest.param(MATTERPORT, (800, 1024), (900, 1000), (900, 1000), id="Matterport never shrinks for the shortest"),
        pytest.param(MATTERPORT, (192, 256), (213, 320), (170, 256), id="Matterport shrinks for the longest"),
        pytest.param(MATTERPORT, (100, 1000), (40, 57), (100, 142), id="Matterport rounds 142.5 to even"),
    ],
)
def test_resized_size(
    family: dict[str, str], sizes: tuple[int, int], picture_hw: tuple[int, int], expected_hw: tuple[int, int]
) -> None:
    assert resized_size(*picture_hw, resize_rule(family, *sizes)) == expected_hw


@pytest.mark.parametrize("size_hw", [(31, 47), (9, 80), (5, 6), (13, 17), (1, 1)])
def test_linear_is_torch_interpolate(size_hw: tuple[int, int]) -> None:
    picture = noise(13, 17, 3)
    planes = torch.from_numpy(picture).permute(2, 0, 1)[None].float()

    expected = torch.nn.functional.interpolate(planes, size=size_hw, mode="bilinear", align_corners=False)

    resized = resize_image(picture, size_hw, "linear")
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected[0].permute(1, 2, 0).numpy(), atol=1e-4)


def test_antialias_averages_when_it_shrinks() -> None:
    stripes = np.zeros((8, 64, 3), np.uint8)
    stripes[:, ::2] = 255

    resized = resize_image(stripes, (1, 8), "antialias")

    assert resized.dtype == np.uint8
    assert np.abs(resized.astype(int) - 128).max() <= 16


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        # 0.75 of the only row, in columns at -0.25, 0.25, 0.75 and 1.25 with zeros outside.
        pytest.param([0, 200], [0, 37, 112, 112], id="0, 37.5, 112.5, 112.5"),
        pytest.param([100, 200], [100, 100, 131, 112], id="56.25, 93.75, 131.25, 112.5, but nothing below the least"),
    ],
)
def test_zero_border_fades_and_truncates(pixels: list[int], expected: list[int]) -> None:
    row = np.repeat(np.array([pixels], np.uint8)[:, :, None], 3, axis=2)

    resized = resize_image(row, (2, 4), "linear_zero_border")

    assert resized[:, :, 0].tolist() == [expected] * 2


def test_zero_border_leaves_a_picture_of_the_right_size_alone() -> None:
    picture = noise(5, 7, 3)

    np.testing.assert_array_equal(resize_image(picture, (5, 7), "linear_zero_border"), picture)


# Canvases


def settings(**changes: Any) -> card.Input:
    values = {
        "resize": resize_rule(DETECTRON2, 20, 30),
        "dtype": "uint8",
        "placement": "top_left",
        "padding": "zero",
        "size_divisor": 32,
        "canvases": "exact",
    }
    return card.Input.model_validate({**values, **changes})


LISTED = [(20, 20), (32, 64), (64, 32), (64, 64)]


@pytest.mark.parametrize(
    ("canvases", "resized_hw", "expected"),
    [
        pytest.param("exact", (33, 64), (64, 64), id="rounded up"),
        pytest.param("exact", (1, 32), (32, 32), id="a row"),
        pytest.param(LISTED, (20, 20), (20, 20), id="a perfect fit"),
        pytest.param(LISTED, (21, 60), (32, 64), id="landscape"),
        pytest.param(LISTED, (60, 21), (64, 32), id="portrait"),
        pytest.param(LISTED, (33, 33), (64, 64), id="only the largest"),
    ],
)
def test_canvas_size(canvases: Any, resized_hw: tuple[int, int], expected: tuple[int, int]) -> None:
    assert canvas_size(resized_hw, settings(canvases=canvases)) == expected


def test_a_picture_that_no_canvas_holds() -> None:
    with pytest.raises(BundleError, match="65 x 10"):
        canvas_size((65, 10), settings(canvases=LISTED))


def test_prepare_puts_the_picture_top_left_on_zeros() -> None:
    canvas = prepare(noise(40, 50, 3), settings())

    assert canvas.image.shape == (32, 32, 3)
    assert canvas.image.dtype == np.uint8
    assert canvas.window_xyxy == (0, 0, 25, 20)
    assert canvas.size_hw == (40, 50)
    assert canvas.resized_hw == (20, 25)
    assert canvas.image[20:].max() == 0
    assert canvas.image[:, 25:].max() == 0
    np.testing.assert_array_equal(canvas.image[:20, :25], resize_image(noise(40, 50, 3), (20, 25), "antialias"))


def test_centred_placement_gives_the_odd_row_to_the_bottom() -> None:
    picture = np.full((5, 8, 3), 255, np.uint8)

    canvas = place(picture, (5, 8), settings(placement="centre", canvases=[(8, 8)]))

    assert canvas.window_xyxy == (0, 1, 8, 6)
    assert canvas.image[:, 0, 0].tolist() == [0, 255, 255, 255, 255, 255, 0, 0]


def test_float_canvases_keep_fractions_and_uint8_rounds_them() -> None:
    resized = np.full((2, 2, 3), 99.6, np.float32)

    kept: Canvas = place(resized, (2, 2), settings(dtype="float32"))

    assert kept.image.dtype == np.float32
    assert kept.image[0, 0, 0] == np.float32(99.6)
    assert place(resized, (2, 2), settings()).image[0, 0, 0] == 100
