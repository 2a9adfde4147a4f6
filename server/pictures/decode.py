"""From the bytes of a picture file to RGB rows: what the header says first, then the pixels, never twice in memory.

h, w: sides of the picture as a person sees it (*image* frame). Pictures are uint8 [h, w, 3], RGB.
"""

from __future__ import annotations

import copy
import io
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from server.contract.errors import PictureError, PictureTooLarge, UndecodablePicture, UnsupportedFormat
from server.pictures import cost, jpeg, structure
from server.pictures.halved import HalvedPicture
from server.pictures.orientation import MIRRORED_X, MIRRORED_Y, TURNED, orientation_of, upright

Picture = npt.NDArray[np.uint8]

ACCEPTED_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""As Pillow names them; its JPEG reader opens MPO too."""

STRIP_PIXELS: Final = 1 << 20
"""Rows are converted in strips of about this size: the copies that it takes stay small and in the caches."""

_BITS_PER_SAMPLE_TAG = 258
_OTHER_FORMATS: Final = {
    "HEIC": (4, (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1")),
    "JPEG XL": (0, (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    "PDF": (0, (b"%PDF-",)),
    "SVG": (0, (b"<svg", b"<?xml")),
}
"""Start and magic bytes of formats that people send and Pillow does not know."""

PngImagePlugin.MAX_TEXT_MEMORY = 8 << 20  # a kilobyte of compressed text may hold a megabyte; Pillow allows 64 of them


@dataclass(frozen=True)
class Limits:
    """The largest picture file and picture that are decoded. Pillow itself refuses above 178 megapixels."""

    max_bytes: int = 64 * 2**20
    max_pixels: int = 100_000_000

    def check_size(self, w: int, h: int) -> None:
        """Raises `PictureTooLarge`."""
        if w * h > self.max_pixels:
            raise PictureTooLarge(f"The picture has {w} x {h} pixels; at most {self.max_pixels} in all are accepted.")


class PictureFile:
    """A picture file of which only the header has been read.

    Raises `PictureTooLarge`, `UnsupportedFormat` or `UndecodablePicture`.
    """

    def __init__(self, data: bytes, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        if len(data) > limits.max_bytes:
            raise PictureTooLarge(f"The picture has {len(data)} bytes; at most {limits.max_bytes} are accepted.")
        _silence_pillow()
        self._image, self._data = _open(data), data
        w, h = self._image.size
        limits.check_size(w, h)
        with _as_undecodable(self._image):
            self.decode_bytes = cost.decode_bytes(self._image, data)
        """Most memory that it takes to decode it and to read it in strips."""
        self.pixels = w * h
        self.size_hw = h, w
        """As it is stored, not upright."""
        self._is_for_pillow = False

    def halved(self) -> HalvedPicture | None:
        """A flawless JPEG at half its size, before it is decoded or in the place of that; None: it is something else.

        Takes no more memory than to decode it.
        """
        pixels = jpeg.decode(self._image, self._data, 2)
        self._is_for_pillow = pixels is None
        return None if pixels is None else HalvedPicture.of(pixels, self._image.size, orientation_of(self._image))

    def decode(self) -> DecodedPicture:
        """The first frame; to be called once. Raises `UndecodablePicture`."""
        image, data = self._image, self._data
        del self._image, self._data  # or its pixels would live as long as this
        with _as_undecodable(image), image:
            pixels = None if self._is_for_pillow else jpeg.decode(image, data)
            if pixels is None:
                image.load()
            return DecodedPicture(image, pixels)


class DecodedPicture:
    """The first frame of a picture file, orientation applied, as RGB over black; it is made row by row as it is read.

    1- to 16-bit grey is scaled from the depth of its format; 32-bit and float grey, which have no white of their own,
    are spread from their least to their greatest finite value.
    """

    def __init__(self, image: Image.Image, pixels: Picture | None = None) -> None:
        self._image = image
        self._orientation = orientation_of(image)
        self.pixels = None if pixels is None else upright(pixels, self._orientation)
        """All of it, as a view, where it is decoded to RGB already."""
        self._to_rgb = _converter(image)
        w, h = image.size
        self.shape = (w, h, 3) if self._orientation in TURNED else (h, w, 3)
        self._left = self._top = 0
        """Where it begins in the file's picture, upright."""

    def __getitem__(self, rows: slice) -> Picture:
        """Some rows [n, w, 3]. Raises `UndecodablePicture`."""
        if self.pixels is not None:
            return np.ascontiguousarray(self.pixels[rows])
        start, stop, _ = rows.indices(self.shape[0])
        with _as_undecodable(self._image):
            stored = _cropped(self._image, self._stored_box(start, stop))
            return np.ascontiguousarray(upright(self._to_rgb(stored), self._orientation))

    def part(self, x1: int, y1: int, x2: int, y2: int) -> DecodedPicture:
        """A part of it that is read from the same memory."""
        part = copy.copy(self)
        part._left, part._top = self._left + x1, self._top + y1
        part.shape = (y2 - y1, x2 - x1, 3)
        part.pixels = None if self.pixels is None else self.pixels[y1:y2, x1:x2]
        return part

    @property
    def pillow(self) -> Image.Image | None:
        """The picture as Pillow has it, where that is upright RGB already: reading its rows would copy them."""
        plain = self._image.mode == "RGB" and self._orientation == 1 and not self._image.has_transparency_data
        is_whole = self.pixels is None and self.shape[:2] == self._image.size[::-1]
        return self._image if plain and is_whole else None

    def whole(self) -> Picture:
        if self.pixels is not None:
            return self[:]
        picture = np.empty(self.shape, np.uint8)
        for strip in strips(self.shape):
            picture[strip] = self[strip]
        return picture

    def _stored_box(self, start: int, stop: int) -> tuple[int, int, int, int]:
        """Where the file has these upright rows: x1, y1, x2, y2."""
        left, right, top, bottom = self._left, self._left + self.shape[1], self._top + start, self._top + stop
        w, h = self._image.size[::-1] if self._orientation in TURNED else self._image.size
        if self._orientation in MIRRORED_X:
            left, right = w - right, w - left
        if self._orientation in MIRRORED_Y:
            top, bottom = h - bottom, h - top
        return (top, left, bottom, right) if self._orientation in TURNED else (left, top, right, bottom)


def decode_image(data: bytes, limits: Limits | None = None) -> Picture:
    """The first frame of a picture file as one array; see `DecodedPicture`.

    Raises `PictureTooLarge` (before anything is decoded), `UnsupportedFormat` or `UndecodablePicture`.
    """
    return PictureFile(data, limits).decode().whole()


def strips(shape: tuple[int, ...]) -> Iterator[slice]:
    """The rows of a picture [h, w, ...] in strips of about `STRIP_PIXELS`."""
    h, w = shape[:2]
    step = max(1, STRIP_PIXELS // w)
    return (slice(start, min(start + step, h)) for start in range(0, h, step))


class _as_undecodable:  # noqa: N801 - reads as a statement
    """Pillow's decoders raise a dozen kinds for broken files."""

    def __init__(self, image: Image.Image) -> None:
        self._format = image.format

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, PictureError):
            raise UndecodablePicture(f"The {self._format} picture is broken or cut off.") from error


def _silence_pillow() -> None:
    """Pillow warns of oddities that a caller cannot mend. Checked at every call: filters come and go with contexts."""
    if not any(f[0] == "ignore" and getattr(f[3], "pattern", None) == "PIL" for f in warnings.filters):
        warnings.filterwarnings("ignore", module="PIL")


def _open(data: bytes) -> Image.Image:
    """Reads the header only."""
    if not data:
        raise UndecodablePicture("The picture is empty: 0 bytes.")
    structure.check(data)
    Image.init()  # or `formats` may name only Pillow's commonest
    try:
        return Image.open(io.BytesIO(data), formats=ACCEPTED_FORMATS)
    except Image.DecompressionBombError as error:
        raise PictureTooLarge("The picture has far too many pixels; send a smaller one.") from error
    except Exception as error:  # Pillow's parsers raise a dozen kinds for broken headers
        if name := _other_format(data[:32]):
            accepted = ", ".join(ACCEPTED_FORMATS)
            raise UnsupportedFormat(f"{name} pictures are not accepted; send one of {accepted}.") from error
        raise UndecodablePicture("This is not a picture, or its header is broken.") from error


def _other_format(prefix: bytes) -> str | None:
    """The name of a format that is not accepted, by its magic bytes alone: its parser is never run."""
    for name, (start, magics) in _OTHER_FORMATS.items():
        if prefix[start:].startswith(magics):
            return name
    for name, (_, accept) in Image.OPEN.items():
        if name not in ACCEPTED_FORMATS and accept is not None and _accepts(name, accept, prefix[:16]):
            return name
    return None


def _accepts(name: str, accept: Callable[[bytes], Any], prefix: bytes) -> bool:
    if name == "PPM" and not prefix[2:3].isspace():  # Pillow takes any text that starts with "Py"
        return False
    try:
        return accept(prefix) is True
    except (IndexError, struct.error):  # a short prefix
        return False


def _cropped(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    return image if box == (0, 0, *image.size) else image.crop(box)


def _converter(image: Image.Image) -> Callable[[Image.Image], Picture]:
    """What makes RGB of any part of this picture."""
    if image.mode.startswith("I;16"):
        white = 2 ** getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE_TAG, (16,))[0] - 1  # a TIFF may hold 12 bits
        return lambda part: _grey_to_rgb(_scaled_16_bit(part, white))
    if image.mode in ("I", "F"):
        low, high = _finite_range(image)
        return lambda part: _grey_to_rgb(_spread(np.asarray(part), low, high))
    return _with_alpha_on_black if image.has_transparency_data else lambda part: np.asarray(part.convert("RGB"))


def _with_alpha_on_black(image: Image.Image) -> Picture:
    with_alpha = image.convert("RGBA")
    on_black = Image.new("RGB", image.size)
    on_black.paste(with_alpha, mask=with_alpha.getchannel("A"))
    return np.asarray(on_black)


def _grey_to_rgb(grey: Picture) -> Picture:
    return np.repeat(grey[:, :, None], 3, axis=2)


def _scaled_16_bit(image: Image.Image, white: int) -> Picture:
    values = np.asarray(image).astype(np.float32)
    grey: Picture = np.clip(np.rint(values * (255 / white)), 0, 255).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 0
    return grey


def _finite_range(image: Image.Image) -> tuple[float, float]:
    """The least and the greatest finite value; 0 and 1 where there is none."""
    w, h = image.size
    parts = (np.asarray(_cropped(image, (0, rows.start, w, rows.stop))) for rows in strips((h, w)))
    finite = (part[np.isfinite(part)] for part in parts)
    extremes = [(float(values.min()), float(values.max())) for values in finite if values.size]
    return (min(low for low, _ in extremes), max(high for _, high in extremes)) if extremes else (0.0, 1.0)


def _spread(values: npt.NDArray[np.generic], low: float, high: float) -> Picture:
    """`low` to 0, `high` to 255; NaN to 0, infinities to the end they lie at."""
    scaled = np.clip((values.astype(np.float64) - low) / (high - low or 1.0), 0, 1) * 255
    grey: Picture = np.rint(np.nan_to_num(scaled, nan=0)).astype(np.uint8)
    return grey
