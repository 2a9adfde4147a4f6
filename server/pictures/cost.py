"""What a picture costs to decode, told from its header: a few kilobytes may ask for gigabytes or for hours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from PIL import Image

from server.contract.errors import UndecodablePicture
from server.pictures.structure import jpeg_first_scan

USUAL_SCANS: Final = 20
MAX_SCAN_PIXELS: Final = 500_000_000
"""Each scan of a JPEG walks over all of its pixels, also one of ten bytes."""

STRIP_WORK: Final = 12 << 20
"""What converting and resizing strip by strip takes, for a picture of more than one strip."""

_JPEG_START_OF_SCAN = b"\xff\xda"
_TIFF_ORIENTATION, _TIFF_ROWS_PER_STRIP, _TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH = 274, 278, 322, 323
_TIFF_BITS, _TIFF_COMPRESSION, _TIFF_SAMPLES = 258, 259, 277


def decode_bytes(image: Image.Image, data: bytes) -> int:
    """Most memory in bytes that decoding takes, whatever is true of the pixels.

    Raises `UndecodablePicture` for a JPEG with so many scans that it would keep a thread busy for minutes.
    """
    w, h = image.size
    stored = w * h * _stored_bytes(image.mode)
    extra = _EXTRA[image.format](image, data, stored) if image.format in _EXTRA else 0
    resized = 3 * h * min(w, 2048)
    return stored + extra + resized + min(12 * w * h, STRIP_WORK)


def _stored_bytes(mode: str) -> int:
    """Of one pixel, as Pillow stores it."""
    if mode in ("1", "L", "P"):
        return 1
    return 2 if mode.startswith("I;16") else 4


def _jpeg(image: Any, data: bytes, _: int) -> int:
    """The coefficients of all scans where there are several: they are kept until the last one is read."""
    start = jpeg_first_scan(data)
    if not image.info.get("progressive") and data[start + 4 : start + 5] == bytes([len(image.layer)]):
        return 0
    w, h = image.size
    scans = data.count(_JPEG_START_OF_SCAN, start)
    if scans > USUAL_SCANS and scans * w * h > MAX_SCAN_PIXELS:
        raise UndecodablePicture(f"The JPEG picture has {scans} scans, too many for its size; save it anew.")
    sampling = [(across, down) for _, across, down, _ in image.layer]
    most_across, most_down = (max(max(factors), 1) for factors in zip(*sampling, strict=True))
    return sum(2 * w * h * across * down // (most_across * most_down) for across, down in sampling)


def _webp(image: Image.Image, _: bytes, __: int) -> int:
    """The decoder's own frame, the animation's canvas, and a copy of that as bytes, each of 4 bytes a pixel."""
    w, h = image.size
    return 12 * w * h


def _tiff(image: Any, data: bytes, stored: int) -> int:
    """A copy turned upright, and the largest piece that is decompressed at once."""
    tags = image.tag_v2
    turned: int = stored if tags.get(_TIFF_ORIENTATION, 1) != 1 else 0
    if tags.get(_TIFF_COMPRESSION, 1) == 1:
        return turned
    w, h = image.size
    rows = min(_whole(tags.get(_TIFF_ROWS_PER_STRIP, h), h), h)
    piece: int = _whole(tags.get(_TIFF_TILE_WIDTH), w) * _whole(tags.get(_TIFF_TILE_LENGTH), rows)
    bits: int = max(tags.get(_TIFF_BITS, (8,))) * _whole(tags.get(_TIFF_SAMPLES), 1)
    return turned + len(data) + piece * bits // 8


def _whole(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) else otherwise


_EXTRA: Final[dict[str, Callable[[Any, bytes, int], int]]] = {"JPEG": _jpeg, "MPO": _jpeg, "WEBP": _webp, "TIFF": _tiff}
