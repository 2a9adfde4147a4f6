"""What is fuzzed: each target takes any bytes, and raises only where the service has a bug."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

import numpy as np
from starlette.datastructures import QueryParams

from server.contract import rle
from server.contract.errors import PictureError, RequestError
from server.contract.wire import PredictBody
from server.engines.fake import FAKE_CARD
from server.pictures.budget import DecodeBudget
from server.pictures.decode import Limits, PictureFile
from server.postprocess import select
from server.preprocess import prepare
from server.protocols.body import multipart_pictures
from server.protocols.native import options_of

CONTENT_TYPE = "multipart/form-data; boundary=b"
MAX_PARTS = 4
PICTURE_LIMITS = Limits(max_bytes=1 << 20, max_pixels=1 << 20)


def decode_rle(data: bytes) -> None:
    """The first two bytes are the mask's sides."""
    h, w, text = *data[:2].ljust(2, b"\0"), data[2:]
    try:
        counts = rle.decompress(text, (h, w))
    except rle.RleError:
        return
    mask = rle.to_mask(counts, (h, w))
    assert mask.shape == (h, w)
    assert rle.area(counts) == mask.sum()
    again = rle.from_mask(mask)
    np.testing.assert_array_equal(rle.decompress(rle.compress(again), (h, w)), again)
    assert rle.bbox(counts, (h, w)) == rle.bbox(again, (h, w))


def read_form(data: bytes) -> None:
    with contextlib.suppress(RequestError):
        pictures = multipart_pictures(data, CONTENT_TYPE, MAX_PARTS)
        assert 0 < len(pictures) <= MAX_PARTS
        assert all(picture in data for picture in pictures)


def read_json(data: bytes) -> None:
    with contextlib.suppress(RequestError):
        assert PredictBody.from_json(data).pictures()


def read_query(data: bytes) -> None:
    with contextlib.suppress(RequestError):
        options = options_of(QueryParams(data.decode("latin-1")))
        select(options, FAKE_CARD)


def decode_picture(data: bytes) -> None:
    with contextlib.suppress(PictureError):
        file = PictureFile(data, PICTURE_LIMITS)
        with DecodeBudget(64 << 20).take(file.decode_bytes):
            decoded = file.decode()
            canvas = prepare(decoded, FAKE_CARD.input)
        assert canvas.size_hw == decoded.shape[:2]


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "rle": decode_rle,
    "form": read_form,
    "json": read_json,
    "query": read_query,
    "picture": decode_picture,
}
