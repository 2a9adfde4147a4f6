"""The forms a picture can be given in: to bytes for the wire, and to pixels for drawing."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from clients.errors import InvalidPictureError

if TYPE_CHECKING:
    from collections.abc import Callable

Picture = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]
"""A file, its bytes, a Pillow image, or uint8 pixels: RGB [h, w, 3], or grey [h, w]."""

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def encode(picture: Picture) -> bytes:
    """The bytes to send. Files and bytes go as they are; a Pillow image or an array becomes PNG (lossless).

    A Pillow image is taken as its pixels lie: an EXIF orientation it may carry is not sent, so that the boxes of the
    answer fit the image in hand. Raises `InvalidPictureError` for arrays of another shape or type, empty bytes, and
    files that cannot be read.
    """
    if isinstance(picture, bytes):
        content = picture
    elif isinstance(picture, str | os.PathLike):
        content = _read(Path(picture))
    else:
        return _to_png(_from_pixels(picture))
    if not content:
        raise InvalidPictureError("The picture is empty: 0 bytes.")
    return content


def load(picture: Picture) -> Image.Image:
    """The picture in RGB, in the frame of the answer's boxes: files and bytes with EXIF orientation applied."""
    if not isinstance(picture, str | os.PathLike | bytes):
        return _to_rgb(_from_pixels(picture))
    try:
        with Image.open(io.BytesIO(encode(picture))) as image:
            return _to_rgb(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidPictureError(f"The picture cannot be opened for drawing: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidPictureError(f"{path}: {error.strerror}") from error


def _from_pixels(picture: object) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    if not isinstance(picture, np.ndarray):
        raise InvalidPictureError(f"A picture is a path, bytes, a Pillow image or an array, not {type(picture)}.")
    grey_or_rgb = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)
    if picture.dtype != np.uint8 or not grey_or_rgb or not picture.size:
        raise InvalidPictureError(
            "An array must be RGB [h, w, 3] or grey [h, w], of uint8 from 0 to 255, "
            f"not {list(picture.shape)} {picture.dtype}."
        )
    return Image.fromarray(picture)


def _to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    if image.mode not in _PNG_MODES:
        image = _to_rgb(image)
    # Level 1: a fifth of the time of the default for a few percent more bytes.
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _to_rgb(image: Image.Image) -> Image.Image:
    """Deep grey (16-bit, float) is scaled to 0..255; Pillow's own conversion would clip it to white."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        scale: Callable[[Any], Any] = (lambda v: v / 257) if values.max(initial=0) > 255 else (lambda v: v)
        image = Image.fromarray(np.clip(scale(values), 0, 255).astype(np.uint8))
    return image.convert("RGB")
