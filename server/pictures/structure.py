"""How many pieces a picture file has, counted before Pillow reads it: it spends microseconds of Python on each.

A file of 64 MiB may hold sixteen million segments of four bytes, and keep the interpreter from everything else for
minutes. What is not well formed here is left for Pillow to refuse.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from server.contract.errors import UndecodablePicture

MAX_JPEG_SEGMENTS: Final = 2_000
MAX_EXIF_SEGMENTS: Final = 16
"""Pillow joins them one by one, copying all of those before."""
MAX_JPEG_FILL: Final = 1 << 16
"""Bytes between segments."""
MAX_PNG_CHUNKS: Final = 50_000
MAX_GIF_BLOCKS: Final = 50_000
MAX_WEBP_CHUNKS: Final = 50_000
MAX_TIFF_VALUES: Final = 300_000
"""Of one tag: strips of one row each, of the tallest picture."""
MAX_TIFF_TAGS: Final = 5_000

_JPEG_MARKER = re.compile(rb"\xff([^\xff\x00])")
_NO_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
_START_OF_SCAN, _APP1 = 0xDA, 0xE1
_PLAIN_TIFF_TYPES = (1, 2, 7)
"""Bytes, text and undefined: kept as they are, however many."""


def check(data: bytes) -> None:
    """Raises `UndecodablePicture` for a file of far too many pieces."""
    if data.startswith(b"\xff\xd8"):
        jpeg_first_scan(data)
    elif data.startswith(b"\x89PNG"):
        _check_png(data)
    elif data.startswith(b"GIF8"):
        _check_gif(data)
    elif data[:2] in (b"II", b"MM"):
        _check_tiff(data)
    elif data.startswith(b"RIFF"):
        _check_webp(data)


def jpeg_first_scan(data: bytes) -> int:
    """Where the first start of scan of a JPEG is; its length where there is none."""
    position, segments, exif, skipped = 2, 0, 0, 0
    while found := _JPEG_MARKER.search(data, position):
        skipped += found.start() - position
        marker, position = found[1][0], found.end()
        if marker == _START_OF_SCAN:
            return position - 2
        exif += marker == _APP1 and data[position + 2 : position + 6] == b"Exif"
        segments += 1
        if segments > MAX_JPEG_SEGMENTS or exif > MAX_EXIF_SEGMENTS or skipped > MAX_JPEG_FILL:
            raise _too_many("JPEG", "segments before its pixels")
        position += 0 if marker in _NO_LENGTH else int.from_bytes(data[position : position + 2])
    if len(data) - position > MAX_JPEG_FILL:
        raise _too_many("JPEG", "bytes that are no segment")
    return len(data)


def _check_png(data: bytes) -> None:
    position = 8
    for _ in range(MAX_PNG_CHUNKS):
        if position >= len(data):
            return
        length = int.from_bytes(data[position : position + 4])
        if data[position + 4 : position + 8] == b"eXIf":
            _check_exif(data[position + 8 : position + 8 + length])
        position += 12 + length
    raise _too_many("PNG", "chunks")


def _check_gif(data: bytes) -> None:
    """The blocks before the first picture; what follows is never read."""
    colours = 3 << ((data[10] & 7) + 1) if data[10:11] and data[10] & 0x80 else 0
    position = 13 + colours
    for _ in range(MAX_GIF_BLOCKS):
        kind = data[position : position + 1]
        if kind != b"!":  # a picture, the end, or nothing that Pillow knows
            return
        position = _after_blocks(data, position + 2)
    raise _too_many("GIF", "blocks before its picture")


def _after_blocks(data: bytes, position: int) -> int:
    for _ in range(MAX_GIF_BLOCKS):
        if not (length := int.from_bytes(data[position : position + 1])):
            return position + 1
        position += 1 + length
    raise _too_many("GIF", "blocks before its picture")


def _check_webp(data: bytes) -> None:
    position = 12
    for _ in range(MAX_WEBP_CHUNKS):
        if position >= len(data):
            return
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        if data[position : position + 4] == b"EXIF":
            _check_exif(data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    raise _too_many("WebP", "chunks")


def _check_exif(block: bytes) -> None:
    _check_tiff(block.removeprefix(b"Exif\0\0"))


def _check_tiff(data: bytes) -> None:
    """The first directory, which is all that is read."""
    order = "<" if data[:1] == b"I" else ">"
    big = data[2:3] == b"+"  # as Pillow tells it, whatever the byte order
    entry = struct.Struct(order + ("HHQQ" if big else "HHII"))
    try:
        (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        (tags,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    except (struct.error, OverflowError):
        return
    if tags > MAX_TIFF_TAGS:
        raise _too_many("TIFF", "tags")
    table = data[start + (8 if big else 2) :][: tags * entry.size]
    for _, kind, count, _ in entry.iter_unpack(table[: len(table) // entry.size * entry.size]):
        if count > MAX_TIFF_VALUES and kind not in _PLAIN_TIFF_TYPES:
            raise _too_many("TIFF", "values of one tag")


def _too_many(form: str, pieces: str) -> UndecodablePicture:
    return UndecodablePicture(f"The {form} picture has far too many {pieces}; save it anew.")
