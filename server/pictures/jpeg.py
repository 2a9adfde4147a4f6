"""JPEG files through libjpeg-turbo directly: the pixels that Pillow gives, without the copies that it makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def decode(image: Any, data: bytes, reduction: int = 1) -> npt.NDArray[np.uint8] | None:
    """Pixels [h, w, 3] of an RGB or grey JPEG whose header Pillow has read; with a reduction of 2, 4 or 8 the sides are
    that many times smaller, rounded up, and the pixels are made of the lowest frequencies alone.

    None: it is something else, or not flawless, or simplejpeg is not installed; Pillow knows what to do or to say then.
    """
    bands = {"RGB": 3, "L": 1}.get(image.mode)
    if image.format not in ("JPEG", "MPO") or bands is None:
        return None
    try:
        import simplejpeg
    except ImportError:
        return None
    w, h = (-(-side // reduction) for side in image.size)
    pixels = np.empty((h, w, bands), np.uint8)
    try:
        colours = "RGB" if bands == 3 else "GRAY"
        found = simplejpeg.decode_jpeg(data, colours, min_height=h, min_width=w, buffer=pixels)
    except (ValueError, RuntimeError):  # also where it is larger than Pillow's header says
        return None
    return np.broadcast_to(pixels, (h, w, 3)) if found.shape == pixels.shape else None
