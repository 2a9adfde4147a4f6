"""Bilinear resizes that do not average when they shrink, as two families have them; the loops are
`server.compiled.linear`. They read two rows of the picture for a row of the result."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Axis = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[Any], npt.NDArray[Any]]
"""For each position of a resized side: two source positions, and their weights."""


def replicate_into(rows: Pixels, result: npt.NDArray[np.float32], across: Axis, down: Axis) -> None:
    """Fills `result` [h', w', 3] in float32, 0 to 255, as torch's interpolate(align_corners=False) does.

    `rows` are those of the picture that `down` names. The GIL is free meanwhile.
    """
    from server.compiled.linear import replicate

    replicate(rows, result, *across, *down)


def fade_into(rows: Pixels, result: Pixels, across: Axis, down: Axis, darkest: int) -> None:
    """Fills `result` [h', w', 3] as scikit-image's resize(order=1, mode="constant") does, whose order of arithmetic
    decides what the truncation leaves. `darkest` is the least value of the picture, below which there is none in the
    result; above the greatest, rounding alone might lead, and truncation leads back. The GIL is free meanwhile."""
    from server.compiled.linear import fade

    fade(rows, result, *across, *down, darkest)


@lru_cache(maxsize=32)
def replicated_axis(old: int, new: int) -> Axis:
    """torch's interpolate(align_corners=False), in its float32."""
    scale = np.float32(old) / np.float32(new)
    source = np.maximum(np.float64(scale) * (np.arange(new) + 0.5) - 0.5, 0).astype(np.float32)  # fused in torch
    first = np.minimum(source.astype(np.int64), old - 1)
    weight = np.clip(source - first.astype(np.float32), 0, 1)
    return first, np.minimum(first + 1, old - 1), np.float32(1) - weight, weight


@lru_cache(maxsize=32)
def zero_border_axis(old: int, new: int) -> Axis:
    """scikit-image's resize(order=1, mode="constant"): zeros outside the picture, float64."""
    source = (np.arange(new) + 0.5) * (old / new) - 0.5
    first = np.floor(source).astype(np.int64)
    second, weight = first + 1, source - first
    weights = (1 - weight) * (first >= 0), weight * (second < old)
    return np.maximum(first, 0), np.minimum(second, old - 1), *weights
