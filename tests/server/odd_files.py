"""Picture files that lie, made by code: each is small and asks for much."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

PNG_START = b"\x89PNG\r\n\x1a\n"


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def noise(size: tuple[int, int] = (64, 48), mode: str = "RGB") -> Image.Image:
    w, h = size
    return Image.fromarray(np.random.default_rng(w).integers(0, 256, (h, w, 3), np.uint8)).convert(mode)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(w: int, h: int, colour: int = 2) -> bytes:
    return PNG_START + chunk(b"IHDR", struct.pack(">II5B", w, h, 8, colour, 0, 0, 0))


def large_png(w: int, h: int) -> bytes:
    """A black RGB picture of any size, made without holding it."""
    packer, row = zlib.compressobj(1), bytes(1 + 3 * w)
    data = b"".join(packer.compress(row) for _ in range(h)) + packer.flush()
    return png_header(w, h) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def with_chunks(*chunks: bytes) -> bytes:
    """A small PNG with more between its header and its pixels."""
    png = encoded(noise())
    return png[:33] + b"".join(chunks) + png[33:]


def text_bomb(kind: bytes = b"zTXt", times: int = 200) -> bytes:
    """Texts that are a thousand times as long as the file."""
    packed = zlib.compress(bytes(1_000_000), 9)
    head = b"\0\0" if kind == b"zTXt" else b"\0\1\0\0\0"
    return with_chunks(*(chunk(kind, b"k%d" % i + head + packed) for i in range(times)))


def profile_bomb() -> bytes:
    return with_chunks(chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(20_000_000), 9)))


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan, of a few bytes, comes again and again."""
    jpeg = encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = jpeg[jpeg.rfind(b"\xff\xda") : -2]
    return jpeg[:-2] + last * scans + b"\xff\xd9"


def tiff(entries: dict[int, tuple[int, int, int]], data: bytes = b"", *, declared: int | None = None) -> bytes:
    """A TIFF of one directory: tag -> (type, count, value or offset), then `data` at offset 8."""
    body = struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data
    body += struct.pack("<H", declared or len(entries))
    for tag, (kind, count, value) in sorted(entries.items()):
        body += struct.pack("<HHII", tag, kind, count, value)
    return body + bytes(4)


SHORT, LONG = 3, 4


def tiff_entries(w: int, h: int, **more: tuple[int, int, int]) -> dict[int, tuple[int, int, int]]:
    """Of an 8-bit grey picture in one strip at offset 8; `more` as t259=(...)."""
    entries = {
        256: (LONG, 1, w),
        257: (LONG, 1, h),
        258: (SHORT, 1, 8),
        259: (SHORT, 1, 1),
        262: (SHORT, 1, 1),
        273: (LONG, 1, 8),
        277: (SHORT, 1, 1),
        278: (LONG, 1, h),
        279: (LONG, 1, w * h),
    }
    return entries | {int(tag[1:]): entry for tag, entry in more.items()}


def lying_tile() -> bytes:
    """A 64 x 64 picture in one deflated tile of 65520 x 65520."""
    entries = tiff_entries(64, 64, t259=(SHORT, 1, 8), t322=(LONG, 1, 65520), t323=(LONG, 1, 65520))
    entries |= {324: (LONG, 1, 8), 325: (LONG, 1, 64)}
    for tag in (273, 278, 279):
        del entries[tag]
    return tiff(entries, zlib.compress(bytes(64 * 64)).ljust(64, b"\0"))


def overlapping_tags() -> bytes:
    """A thousand tags that all claim the same megabyte."""
    data = bytes(1 << 20)
    private = {50000 + i: (1, len(data), 8) for i in range(1000)}
    return tiff(tiff_entries(64, 64) | private, data)


def gif_of(w: int, h: int) -> bytes:
    """A GIF whose screen is of another size than its picture of 4 x 4."""
    gif = encoded(Image.new("P", (4, 4)), "GIF")
    return gif[:6] + struct.pack("<HH", w, h) + gif[10:]


def webp_of(w: int, h: int) -> bytes:
    """An extended WebP whose canvas is of another size than its picture."""
    webp = encoded(noise(), "WEBP", lossless=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")
    at = webp.index(b"VP8X") + 12
    return webp[:at] + (w - 1).to_bytes(3, "little") + (h - 1).to_bytes(3, "little") + webp[at + 6 :]


def many_pieces() -> dict[str, bytes]:
    """Files of a few megabytes with more pieces than a parser in Python should look at."""
    jpeg, png, gif = encoded(noise(), "JPEG"), encoded(noise()), encoded(Image.new("P", (4, 4)), "GIF")
    exif = b"\xff\xe1" + struct.pack(">H", 65535) + b"Exif\0\0" + bytes(65527)
    comment = b"!\xfe" + b"\1c" * 500_000 + b"\0"
    colours = 13 + (3 << ((gif[10] & 7) + 1))
    no_strips = {tag: entry for tag, entry in tiff_entries(64, 64).items() if tag not in (273, 279)}
    values = {273: (LONG, 500_000, 8), 279: (LONG, 500_000, 8)}
    return {
        "JPEG comments": jpeg[:2] + b"\xff\xfe\0\2" * 500_000 + jpeg[2:],
        "EXIF in many parts": jpeg[:2] + exif * 100 + jpeg[2:],
        "PNG chunks": png[:33] + chunk(b"teSt", b"") * 100_000 + png[33:],
        "PNG chunks after the pixels": png[:-12] + chunk(b"teSt", b"") * 100_000 + png[-12:],
        "GIF comments": gif[:colours] + comment + gif[colours:],
        "JPEG fill": b"\xff\xd8" + b"\xff" * (1 << 20) + jpeg[2:],
        "JPEG zeros": b"\xff\xd8" + b"\xff\0" * (1 << 20) + jpeg[2:],
        "TIFF strips": tiff(no_strips | values, bytes(2_000_000)),
        "TIFF strips, and no end": tiff(no_strips | values, bytes(2_000_000))[:-8],
        "EXIF tags": with_chunks(chunk(b"eXIf", tiff(dict.fromkeys(range(300, 60000), (1, 1, 0))))),
        "TIFF tags": tiff(dict.fromkeys(range(300, 60000), (1, 1, 0))),
    }


def everything_odd() -> dict[str, bytes]:
    """By name; each must be answered with 200 or 4xx, soon, and without much memory."""
    jpeg, png = encoded(noise(), "JPEG"), encoded(noise())
    exif = b"Exif\0\0" + tiff({40000 + i: (1, 60_000, 8) for i in range(400)}, bytes(60_000))
    return {
        "zTXt bomb": text_bomb(),
        "iTXt bomb": text_bomb(b"iTXt"),
        "profile bomb": profile_bomb(),
        "a profile in many parts": jpeg[:2]
        + b"".join(
            b"\xff\xe2" + struct.pack(">H", 65535) + b"ICC_PROFILE\0" + bytes([i, 255]) + bytes(65519)
            for i in range(1, 256)
        )
        + jpeg[2:],
        "EXIF in PNG": with_chunks(chunk(b"eXIf", exif[6:])),
        "EXIF in JPEG": jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:],
        "thousands of scans": many_scans(2000, 20_000),
        "scans of a small picture": many_scans(16, 20_000),
        "lying tile": lying_tile(),
        "overlapping tags": overlapping_tags(),
        "strip beyond the file": tiff(tiff_entries(64, 64, t273=(LONG, 1, 1 << 31))),
        "65535 samples": tiff(tiff_entries(64, 64, t277=(SHORT, 1, 65535), t259=(SHORT, 1, 5)), bytes(4096)),
        "no bits": tiff(tiff_entries(64, 64, t258=(SHORT, 0, 0)), bytes(4096)),
        "bits as text": tiff(tiff_entries(64, 64, t258=(2, 4, 0x31313131)), bytes(4096)),
        "directory that says more": tiff(tiff_entries(64, 64), bytes(4096), declared=65535),
        "wide GIF": gif_of(65535, 1000),
        "huge GIF": gif_of(65535, 65535),
        "huge WebP": webp_of(1 << 24, 1 << 24),
        "WebP of another size": webp_of(9000, 9000),
        "huge PNG": png_header(2**31 - 1, 2**31 - 1),
        "PNG of no pixels": png_header(0, 0),
        "PNG that ends early": large_png(2000, 2000)[:-200],
        "PNG chunk beyond the file": png_header(64, 48) + struct.pack(">I", 2**31 - 1) + b"IDAT",
        "BMP of negative height": b"BM"
        + struct.pack("<IIIIiiHHIIiiII", 100, 0, 54, 40, 9000, -(2**31), 1, 24, *[0] * 6),
        "JPEG of no component": jpeg[: jpeg.index(b"\xff\xc0") + 9] + b"\0" + jpeg[jpeg.index(b"\xff\xc0") + 10 :],
        "a directory beyond all files": b"II+\0\x08\0\0\0" + b"\xff" * 8 + bytes(40),
        "a JPEG's first bytes": jpeg[:20],
        "a PNG's first bytes": png[:40],
        "fill bytes": b"\xff\xd8" + b"\xff" * (1 << 20),
    }
