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
from server.protocols import label_config
from server.protocols.body import inflate_steps, multipart_pictures
from server.protocols.native import options_of
from server.protocols.open_inference.request import parse
from server.protocols.open_inference.tensors import OUTPUTS

CONTENT_TYPE = "multipart/form-data; boundary=b"
MAX_PARTS = 4
MAX_INFLATED = 1 << 20
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


def read_inference(data: bytes) -> None:
    """The first byte says whether the body is compressed and whether some of it is JSON, of which the next two are the
    length."""
    form, length, body = data[:1], int.from_bytes(data[1:3], "big"), data[3:]
    with contextlib.suppress(RequestError):
        if form == b"z":
            body = _inflated(body)
        asked = parse(body, str(length) if form == b"b" else None, "fake", None, MAX_PARTS)
        assert 0 < len(asked.pictures) <= MAX_PARTS
        assert asked.outputs.keys() <= OUTPUTS.keys()
        for picture in asked.pictures:
            assert isinstance(picture, bytes) or (picture.dtype == np.uint8 and picture.shape[2:] == (3,))
        select(asked.options, FAKE_CARD)


def read_labels(data: bytes) -> None:
    """Label Studio's configuration."""
    with contextlib.suppress(RequestError):
        config = label_config.read(data.decode("utf-8", "replace"))
        assert config.controls
        assert len({control.to_name for control in config.controls}) == 1
        assert config.score_threshold is None or 0 <= config.score_threshold <= 1
        config.match(FAKE_CARD.classes[1:])
        assert any(control.label_of(name) for control in config.controls for name in FAKE_CARD.classes)


def _inflated(body: bytes) -> bytes:
    inflated = b""
    for chunk in inflate_steps(body, "gzip"):
        inflated += chunk
        if len(inflated) > MAX_INFLATED:
            break
    return inflated


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
    "v2": read_inference,
    "labels": read_labels,
}
