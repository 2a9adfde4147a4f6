"""Pillow's bilinear resize, which averages when it shrinks, without Pillow; the loops are `server.compiled.resize`."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Axis = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32]]
"""For each position of a resized side: the first source position, how many there are, and their weights."""


def resize_into(picture: Pixels, result: Pixels) -> None:
    """Fills `result` [h', w', 3] with the picture [h, w, 3], resized; both may be views. The GIL is free meanwhile.

    Pillow's pixels to the bit, of a resize along x and one along y after it. That is its order up to version 12; from
    13 on it may take the other one for tall pictures, which moves some pixels by 1.
    """
    from server.compiled.resize import resize

    if picture.shape == result.shape:
        result[:] = picture
    else:
        resize(picture, result, *_axis(picture.shape[1], result.shape[1]), *_axis(picture.shape[0], result.shape[0]))


@lru_cache(maxsize=32)
def _axis(old: int, new: int) -> Axis:
    """Pillow's weights, computed in its order of arithmetic, in fixed point."""
    from server.compiled.resize import PRECISION

    scale = old / new
    support = max(scale, 1.0)
    centres = (np.arange(new) + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    taps = np.minimum((centres + support + 0.5).astype(np.int64), old) - first
    tap = np.arange(taps.max())
    weights = np.maximum(1 - np.abs((tap + first[:, None] - centres[:, None] + 0.5) * (1 / support)), 0)
    weights[tap >= taps[:, None]] = 0
    sums = np.cumsum(weights, axis=1)[:, -1:]
    return first, taps, (0.5 + weights / sums * (1 << PRECISION)).astype(np.int32)
