"""Pillow's bilinear resize, which averages when it shrinks, without Pillow; the loops are `server.compiled.resize`."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]
Axis = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32]]
"""For each position of a resized side: the first source position, how many there are, and their weights."""


def resize_into(picture: Pixels, result: Pixels, box_xyxy: Box | None = None) -> None:
    """Fills `result` [h', w', 3] with the picture [h, w, 3], resized, or with a box of it whose corners may lie within
    pixels; both arrays may be views. The GIL is free meanwhile.

    Pillow's pixels to the bit, of a resize along x and one along y after it. That is its order up to version 12; from
    13 on it may take the other one for tall pictures, which moves some pixels by 1.
    """
    from server.compiled.resize import resize

    h, w = picture.shape[:2]
    if picture.shape == result.shape and box_xyxy is None:
        result[:] = picture
        return
    left, top, right, bottom = box_xyxy or (0.0, 0.0, w, h)
    resize(picture, result, *_axis(w, left, right, result.shape[1]), *_axis(h, top, bottom, result.shape[0]))


@lru_cache(maxsize=32)
def _axis(old: int, start: float, stop: float, new: int) -> Axis:
    """Pillow's weights, computed in its order of arithmetic, in fixed point."""
    from server.compiled.resize import PRECISION

    scale = (stop - start) / new
    support = max(scale, 1.0)
    centres = start + (np.arange(new) + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    taps = np.minimum((centres + support + 0.5).astype(np.int64), old) - first
    tap = np.arange(taps.max())
    weights = np.maximum(1 - np.abs((tap + first[:, None] - centres[:, None] + 0.5) * (1 / support)), 0)
    weights[tap >= taps[:, None]] = 0
    sums = np.cumsum(weights, axis=1)[:, -1:]
    return first, taps, (0.5 + weights / sums * (1 << PRECISION)).astype(np.int32)
