"""JPEG files through libjpeg-turbo directly: the pixels that Pillow gives, without the copies that it makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def decode(image: Any, data: bytes) -> npt.NDArray[np.uint8] | None:
    """Pixels [h, w, 3] of an RGB or grey JPEG whose header Pillow has read.

    None: it is something else, or not flawless, or simplejpeg is not installed; Pillow knows what to do or to say then.
    """
    bands = {"RGB": 3, "L": 1}.get(image.mode)
    if image.format not in ("JPEG", "MPO") or bands is None:
        return None
    try:
        import simplejpeg
    except ImportError:
        return None
    w, h = image.size
    pixels = np.empty((h, w, bands), np.uint8)
    try:
        found = simplejpeg.decode_jpeg(data, "RGB" if bands == 3 else "GRAY", buffer=pixels)
    except (ValueError, RuntimeError):  # also where it is larger than Pillow's header says
        return None
    return np.broadcast_to(pixels, (h, w, 3)) if found.shape == pixels.shape else None
