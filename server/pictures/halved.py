"""A JPEG at half its size, made of the lower half of its frequencies: that saves most of decoding and resizing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from server.pictures.orientation import MIRRORED_X, MIRRORED_Y, TURNED, upright


@dataclass(frozen=True)
class HalvedPicture:
    """A picture [h, w, 3] of which there are `pixels` [h / 2, w / 2, 3], both sides rounded up; upright, RGB."""

    shape: tuple[int, int, int]
    pixels: npt.NDArray[np.uint8]
    box_xyxy: tuple[float, float, float, float]
    """Where the picture is in `pixels`: where a side is odd, their last column or row is half outside of it."""

    @classmethod
    def of(cls, stored: npt.NDArray[np.uint8], size_wh: tuple[int, int], orientation: int) -> HalvedPicture:
        """From the pixels as they are stored, and the sides of the stored picture."""
        pixels = upright(stored, orientation)
        w, h = size_wh[::-1] if orientation in TURNED else size_wh
        left = pixels.shape[1] - w / 2 if orientation in MIRRORED_X else 0.0
        top = pixels.shape[0] - h / 2 if orientation in MIRRORED_Y else 0.0
        return cls((h, w, 3), pixels, (left, top, left + w / 2, top + h / 2))
