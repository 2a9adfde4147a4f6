"""Where fuzzing starts: a few valid and nearly valid inputs of each target, made by code."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Callable
from typing import Final

import numpy as np
from PIL import Image

from server.contract import rle
from tests.server.odd_files import encoded, many_pieces, noise, tiff, tiff_entries
from tests.server.protocols import triton


def _rles() -> list[bytes]:
    random = np.random.default_rng(0)
    masks = [random.random((h, w)) < share for h, w, share in ((5, 7, 0.5), (200, 100, 0.01), (1, 1, 1), (40, 90, 0.9))]
    return [bytes(mask.shape) + rle.compress(rle.from_mask(mask)).encode() for mask in masks]


def _forms() -> list[bytes]:
    part = (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\nContent-Type: image/png\r\n\r\nabc\r\n'
    )
    star = b"--b\r\nContent-Disposition: form-data; name*=utf-8''im%61ge\r\n\r\nabc\r\n"
    end = b"--b--\r\n"
    return [
        part + end,
        part * 3 + end,
        star + end,
        part[:-4] + b"\r\n--",
        b"--b\r\n\r\n\r\n" + end,
        b"preamble\r\n" + part + end,
    ]


def _documents() -> list[bytes]:
    text = base64.b64encode(b"abc")
    return [
        b'{"image": "' + text + b'"}',
        b'{"images": ["' + text + b'", "YQ=="]}',
        b'{"images": [1, null, {}], "image": null}',
        b'{"\\u00e9": "\\ud83d\\ude00"}',
    ]


def _queries() -> list[bytes]:
    return [
        b"model=fake&version=1&score_threshold=0.5&max_detections=10&classes=something,1&mask=polygon&timeout_ms=100",
        b"score_threshold=1e400&max_detections=-1&mask=&classes=,,&timeout_ms=0x10",
        b"tile=64&overlap=32",
        b"tile=1e3&overlap=-0",
        b"a=1;b=2&%00=%ff&=&&",
    ]


def _inferences() -> list[bytes]:
    bodies = [triton.with_binary(text, b"abc", b"") for text in (triton.TWO_PICTURES, triton.WITH_OUTPUTS)]
    binary = [b"b" + int(next(iter(headers.values()))).to_bytes(2, "big") + body for body, headers in bodies]
    texts = [triton.PIXELS_AS_JSON, triton.PICTURE_AS_JSON.replace("BASE64", "YWJj").encode(), triton.SHARED_MEMORY]
    as_json = [b"j\0\0" + text for text in texts]
    return [*binary, *as_json, b"z\0\0" + gzip.compress(triton.PIXELS_AS_JSON), b"b\0\0abc"]


def _label_configs() -> list[bytes]:
    image, label = '<Image name="i" value="$image"/>', '<Label value="a" predicted_values="something, b"/>'
    kinds = ("BrushLabels", "PolygonLabels", "RectangleLabels")
    controls = [f'<{kind} name="{kind}" toName="i" model_score_threshold="0.5">{label}</{kind}>' for kind in kinds]
    return [
        f"<View>{image}{''.join(controls)}</View>".encode(),
        f'<?xml version="1.0" encoding="utf-8"?><View><!-- c -->{controls[0]}{image}</View>'.encode(),
        f'<View>{image}<BrushLabels toName="i" model_skip="true"><View>{label}</View></BrushLabels></View>'.encode(),
        b'<!DOCTYPE a [<!ENTITY b "c">]><View>&b;<![CDATA[d]]></View>',
    ]


def _pictures() -> list[bytes]:
    small, exif = noise((24, 16)), Image.Exif()
    exif[0x0112] = 6
    return [
        encoded(small, "JPEG", exif=exif),
        encoded(small, "JPEG", progressive=True),
        encoded(small.convert("CMYK"), "JPEG"),
        encoded(small, "PNG", exif=exif),
        encoded(small.convert("P"), "PNG", transparency=1),
        encoded(small, "WEBP", lossless=True, exif=exif),
        encoded(small, "BMP"),
        encoded(small.convert("P"), "GIF", save_all=True, append_images=[small.convert("P")]),
        encoded(small, "TIFF", compression="tiff_lzw", exif=exif),
        encoded(small, "MPO", save_all=True, append_images=[small]),
        encoded(Image.fromarray(np.arange(384, dtype=np.float32).reshape(16, 24)), "TIFF"),
        encoded(Image.fromarray(np.arange(384, dtype=np.uint16).reshape(16, 24)), "PNG"),
        tiff(tiff_entries(8, 8), bytes(64)),
        many_pieces()["GIF comments"][:400],
    ]


SEEDS: Final[dict[str, Callable[[], list[bytes]]]] = {
    "rle": _rles,
    "form": _forms,
    "json": _documents,
    "query": _queries,
    "picture": _pictures,
    "v2": _inferences,
    "labels": _label_configs,
}
