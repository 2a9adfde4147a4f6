"""The objects of an answer as labelling tools take them: those that have pixels, one crop and one outline each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from server.contract import polygons, rle
from server.contract.wire import Detection, ImageResult, UncompressedRleMask

Box = tuple[int, int, int, int]
"""x, y, width, height in whole pixels of the picture."""


def with_pixels(image: ImageResult) -> Iterator[Detection]:
    """Those whose mask has pixels; tools have no form for others, and some drop all masks because of one."""
    return (found for found in image.detections if found.area)


def counts_of(found: Detection) -> rle.Counts:
    """Of an answer that was asked for as `rle_uncompressed`."""
    assert isinstance(found.mask, UncompressedRleMask)
    return np.array(found.mask.counts, np.int64)


def crop(counts: rle.Counts, size_hw: tuple[int, int]) -> tuple[Box, npt.NDArray[np.bool_]]:
    """The smallest box around a mask that has pixels, and the mask within it [height, width]."""
    x, y, w, h = rle.bbox(counts, size_hw)
    ends = np.clip(np.cumsum(counts) - x * size_hw[0], 0, w * size_hw[0])
    columns = rle.to_mask(np.diff(ends, prepend=0), (size_hw[0], w))
    return (x, y, w, h), columns[y : y + h]


def outline(counts: rle.Counts, size_hw: tuple[int, int]) -> polygons.Ring:
    """The exterior ring [k, 2] of the largest part of a mask that has pixels, along the edges of its pixels."""
    exteriors = [polygon[0] for polygon in polygons.from_counts(counts, size_hw)]
    return max(exteriors, key=_ring_area)


def through_pixels(ring: polygons.Ring) -> polygons.Ring:
    """An exterior ring moved inwards onto the pixels along it, as OpenCV draws contours: `fillPoly` paints the pixels
    of the part, with its holes filled. Points of a part that is one pixel wide coincide."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    down = (
        np.maximum(before[:, 1], 0) + np.maximum(after[:, 1], 0) > 0
    )  # the vertical edge here has the part at its left
    left = np.minimum(before[:, 0], 0) + np.minimum(after[:, 0], 0) < 0  # the horizontal one has the part above it
    moved: polygons.Ring = ring - np.stack((down, left), axis=1)
    return moved


def _ring_area(ring: polygons.Ring) -> int:
    """Twice the area."""
    x, y = ring.T
    return int(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))
