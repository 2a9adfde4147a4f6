"""The forms a mask can have in an answer, to run lengths."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clients.errors import InvalidAnswerError, MaskFormatError
from server.contract import polygons, rle

Mask = npt.NDArray[np.bool_]
Size = tuple[int, int]


def to_counts(mask: Any) -> tuple[rle.Counts, Size]:
    """Run lengths and [h, w] of a detection's `mask`: RLE in either form, a 1-bit PNG, or polygons.

    Raises `MaskFormatError` when there is none, `InvalidAnswerError` when it is broken.
    """
    read = next((read for name, read in _READERS.items() if isinstance(mask, Mapping) and name in mask), None)
    if read is None:
        raise MaskFormatError("The answer holds no masks: it was asked for with mask='none'.")
    try:
        h, w = mask["size"]
        return read(mask, (h, w)), (h, w)
    except (rle.RleError, KeyError, TypeError, ValueError, OSError, SyntaxError) as error:
        raise InvalidAnswerError(f"A mask of the answer is broken: {error}") from error


def placed(mask: Any, size_hw: Size) -> tuple[slice, slice, Mask]:
    """The rows and columns that hold the set pixels of a detection's `mask`, and the mask within them.

    Raises `InvalidAnswerError` also for the mask of a picture of another size.
    """
    counts, found_hw = to_counts(mask)
    if found_hw != size_hw:
        raise InvalidAnswerError(f"A mask of the answer is {found_hw} pixels large, its picture {size_hw}.")
    x, y, w, h = rle.bbox(counts, size_hw)
    rows, columns = slice(y, y + h), slice(x, x + w)
    return rows, columns, crop(counts, size_hw, rows, columns)


def crop(counts: rle.Counts, size_hw: Size, rows: slice, columns: slice) -> Mask:
    """The mask within `rows` and `columns`; no more than those columns is ever decoded."""
    first, last = columns.start * size_hw[0], columns.stop * size_hw[0]
    edges = np.clip(np.concatenate(([0], np.cumsum(counts))), first, last)
    return rle.to_mask(np.diff(edges), (size_hw[0], columns.stop - columns.start))[rows]


def _from_rle(mask: Mapping[str, Any], size_hw: Size) -> rle.Counts:
    counts = mask["counts"]
    return rle.decompress(counts, size_hw) if isinstance(counts, str) else rle.check(counts, size_hw)


def _from_png(mask: Mapping[str, Any], size_hw: Size) -> rle.Counts:
    with Image.open(io.BytesIO(base64.b64decode(mask["png"], validate=True)), formats=["PNG"]) as image:
        if (image.height, image.width) != size_hw:
            raise ValueError(f"its PNG has {image.height} x {image.width} pixels, not {size_hw[0]} x {size_hw[1]}")
        return rle.from_mask(np.asarray(image))


def _from_polygons(mask: Mapping[str, Any], size_hw: Size) -> rle.Counts:
    return polygons.to_counts(mask["coordinates"], size_hw)


_READERS = {"counts": _from_rle, "png": _from_png, "coordinates": _from_polygons}
