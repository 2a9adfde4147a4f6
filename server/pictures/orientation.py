"""EXIF orientation, 1 to 8: how a stored picture is turned and mirrored before a person sees it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

TURNED: Final = (5, 6, 7, 8)
"""Rows and columns change places; mirroring comes after that."""
MIRRORED_X: Final = (2, 3, 6, 7)
MIRRORED_Y: Final = (3, 4, 7, 8)

_TAG = 0x0112


def orientation_of(image: Any) -> int:
    """To be read after loading: PNG may hold it last, TIFF has applied it by then."""
    try:
        orientation = int(image.getexif().get(_TAG, 1))
    except Exception:  # noqa: BLE001 - a broken EXIF block does not spoil the picture
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def upright(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """A view of the stored pixels [h, w, ...] as a person sees them."""
    if orientation in TURNED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in MIRRORED_X:
        pixels = pixels[:, ::-1]
    if orientation in MIRRORED_Y:
        pixels = pixels[::-1]
    return pixels
