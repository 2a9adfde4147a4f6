"""From a picture to a canvas for the network; pure functions on numpy arrays.

h, w: sides of the picture as a person sees it (*image* frame); H, W: sides of the padded input (*canvas* frame).
Pictures are uint8 [h, w, 3], RGB.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from server.antialiasing import resize_into
from server.contract import card
from server.contract.errors import BundleError
from server.linear import Axis, fade_into, replicate_into, replicated_axis, zero_border_axis
from server.pictures.decode import DecodedPicture, Picture, PictureFile, strips

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]

HALVED_PIXELS: Final = 1_000_000
"""Smaller pictures are sharper from pixel to pixel, and a millisecond is all that is to be saved."""
HALVED_RATIO: Final = 3.4
"""Of a picture's sides to the canvas' window: half of the picture is 1.7 times as large, so that the resize still has
more to average over than decoding has left out."""

_ROUNDINGS: Final[dict[str, Callable[[float], int]]] = {
    "floor": math.floor,
    "half_up": lambda side: math.floor(side + 0.5),
    "half_even": round,
}


@dataclass(frozen=True)
class Canvas:
    """A picture on its canvas."""

    image: Pixels
    """[H, W, 3], uint8 or float32 (0 to 255) as the model card asks; zero outside the window."""
    window_xyxy: tuple[int, int, int, int]
    """The picture's place in the canvas; x2/y2 exclusive."""
    size_hw: tuple[int, int]
    """The picture before it was resized."""

    @property
    def canvas_hw(self) -> tuple[int, int]:
        return (self.image.shape[0], self.image.shape[1])

    @property
    def window(self) -> Any:
        """The picture in the canvas, as a view."""
        x1, y1, x2, y2 = self.window_xyxy
        return self.image[y1:y2, x1:x2]

    @property
    def resized_hw(self) -> tuple[int, int]:
        x1, y1, x2, y2 = self.window_xyxy
        return y2 - y1, x2 - x1


def prepare_file(file: PictureFile, model: card.ModelCard) -> Canvas:
    """Decodes a picture file and prepares it, by way of half its size where `prepare_halved` does. Raises
    `UndecodablePicture`."""
    canvas = prepare_halved(file, model)
    return prepare(file.decode(), model.input) if canvas is None else canvas


def prepare_halved(file: PictureFile, model: card.ModelCard) -> Canvas | None:
    """Prepares a large JPEG, decoded at half its size. None: it is something else, or the model asks for all of it.

    How far colours of the canvas are from those of `prepare`, in the mean over a photograph: at the least ratio, 0.6
    levels in the median of ten photographs of 2 to 8 megapixels, 1.4 in the worst of them.
    """
    settings = model.input
    if not model.may_halve_jpegs or file.pixels < HALVED_PIXELS:
        return None
    sides = zip(file.size_hw, resized_size(*file.size_hw, settings.resize), strict=True)
    halved = file.halved() if all(old >= HALVED_RATIO * new for old, new in sides) else None
    if halved is None:
        return None
    size_hw = halved.shape[:2]
    canvas = _black(resized_size(*size_hw, settings.resize), size_hw, settings)
    resize_into(halved.pixels, canvas.window, halved.box_xyxy)
    return canvas


def prepare(picture: Picture | DecodedPicture, settings: card.Input) -> Canvas:
    """Resizes a picture and puts it on its canvas, as the model card says."""
    h, w = picture.shape[:2]
    size_hw = resized_size(h, w, settings.resize)
    interpolation = settings.resize.interpolation
    if settings.dtype != _pixel_type(interpolation):
        return place(resize_image(picture, size_hw, interpolation), (h, w), settings)
    canvas = _black(size_hw, (h, w), settings)
    _RESIZES[interpolation](picture, canvas.window)
    return canvas


def resized_size(h: int, w: int, resize: card.Resize) -> tuple[int, int]:
    """Sides of the picture in the canvas, each at least 1 px."""
    scaled = _shortest_edge(h, w, resize) if resize.rule == "shortest_edge" else _grown(h, w, resize)
    new_h, new_w = (max(1, _ROUNDINGS[resize.rounding](side)) for side in scaled)
    return new_h, new_w


def _shortest_edge(h: int, w: int, resize: card.Resize) -> tuple[float, float]:
    """Before rounding, in each family's own order of operations: 201 x 302 at 320/480 is 319 x 479 in torchvision."""
    if resize.rounding == "floor":
        scale = min(resize.min_size / min(h, w), resize.max_size / max(h, w))
        return h * scale, w * scale
    scale = resize.min_size / min(h, w)
    new_h, new_w = (resize.min_size, scale * w) if h < w else (scale * h, resize.min_size)
    shrink = min(1.0, resize.max_size / max(new_h, new_w))
    return new_h * shrink, new_w * shrink


def _grown(h: int, w: int, resize: card.Resize) -> tuple[float, float]:
    """Matterport's rule, before rounding."""
    scale = max(1.0, resize.min_size / min(h, w))
    if round(max(h, w) * scale) > resize.max_size:
        scale = resize.max_size / max(h, w)
    return h * scale, w * scale


def resize_image(picture: Picture | DecodedPicture, size_hw: tuple[int, int], interpolation: str) -> Pixels:
    """Bilinear, in one of the three families' ways (see `card.Resize`): uint8, or float32 0 to 255 for `linear`.

    Reads the picture strip by strip, so that a decoded file need not be there a second time as an array.
    """
    resized: Any = np.empty((*size_hw, 3), _pixel_type(interpolation))
    _RESIZES[interpolation](picture, resized)
    return resized  # type: ignore[no-any-return]  # of one of the two dtypes


def _pixel_type(interpolation: str) -> str:
    return "float32" if interpolation == "linear" else "uint8"


def _antialias_into(picture: Picture | DecodedPicture, resized: Picture) -> None:
    """Along x, then along y, so that it may be given the rows in parts for the first."""
    pixels = picture.pixels if isinstance(picture, DecodedPicture) else picture
    if pixels is not None:
        resize_into(pixels, resized)
        return
    if isinstance(picture, DecodedPicture) and picture.pillow is not None:
        resized[:] = _pillow_resize(picture.pillow, resized.shape)
        return
    across = np.empty((picture.shape[0], resized.shape[1], 3), np.uint8)
    for rows in strips(picture.shape):
        resize_into(picture[rows], across[rows])
    resize_into(across, resized)


def _pillow_resize(image: Image.Image, shape: tuple[int, ...]) -> Picture:
    """In two steps, or Pillow would choose which axis to take first."""
    across = image.resize((shape[1], image.height), Image.Resampling.BILINEAR)
    return np.asarray(across.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def _replicate_into(picture: Picture | DecodedPicture, resized: npt.NDArray[np.float32]) -> None:
    across = replicated_axis(picture.shape[1], resized.shape[1])
    rows, down = _needed(picture, replicated_axis(picture.shape[0], resized.shape[0]))
    replicate_into(rows, resized, across, down)


def _fade_into(picture: Picture | DecodedPicture, resized: Picture) -> None:
    if resized.shape == picture.shape:
        resized[:] = picture[:]
        return
    across = zero_border_axis(picture.shape[1], resized.shape[1])
    rows, down = _needed(picture, zero_border_axis(picture.shape[0], resized.shape[0]))
    fade_into(rows, resized, across, down, _darkest(picture))


def _needed(picture: Picture | DecodedPicture, down: Axis) -> tuple[Picture, Axis]:
    """The rows that are needed, and the axis that counts in them; all rows of a picture that is there as pixels."""
    pixels = picture.pixels if isinstance(picture, DecodedPicture) else picture
    if pixels is not None:
        return pixels, down
    upper, lower, upper_weight, lower_weight = down
    used, places = np.unique(np.concatenate((upper, lower)), return_inverse=True)
    rows = np.concatenate([picture[part][_within(used, part)] for part in strips(picture.shape)])
    return rows, (places[: len(upper)], places[len(upper) :], upper_weight, lower_weight)


def _darkest(picture: Picture | DecodedPicture) -> int:
    pixels = picture.pixels if isinstance(picture, DecodedPicture) else picture
    parts = (picture[part] for part in strips(picture.shape)) if pixels is None else (pixels,)
    return min(int(part.min()) for part in parts)


def _within(used: npt.NDArray[np.int64], part: slice) -> npt.NDArray[np.int64]:
    """Which of the rows with these rising numbers are in a strip, counted from its first."""
    within: npt.NDArray[np.int64] = used[(used >= part.start) & (used < part.stop)] - part.start
    return within


_RESIZES: Final[dict[str, Callable[[Picture | DecodedPicture, Any], None]]] = {
    "antialias": _antialias_into,
    "linear": _replicate_into,
    "linear_zero_border": _fade_into,
}


def canvas_size(resized_hw: tuple[int, int], settings: card.Input) -> tuple[int, int]:
    """The canvas for a resized picture: its own size rounded up, or the smallest of the model's list that holds it."""
    h, w = resized_hw
    if settings.canvases == "exact":
        step = settings.size_divisor
        return math.ceil(h / step) * step, math.ceil(w / step) * step
    holding = [canvas for canvas in settings.canvases if canvas[0] >= h and canvas[1] >= w]
    if not holding:
        raise BundleError(f"No canvas of the model holds a picture resized to {h} x {w}.")
    return min(holding, key=lambda canvas: canvas[0] * canvas[1])


def usual_bytes(settings: card.Input) -> int:
    """Of the largest usual canvas; pictures can be larger only where the resize rule sets no upper limit."""
    if settings.canvases == "exact":
        rule, divisor = settings.resize, settings.size_divisor
        pixels = (rule.min_size + divisor) * (rule.max_size + divisor)
    else:
        pixels = max(h * w for h, w in settings.canvases)
    return pixels * 3 * np.dtype(settings.dtype).itemsize


def place(resized: Pixels, size_hw: tuple[int, int], settings: card.Input) -> Canvas:
    """Puts a resized picture on its canvas, top left or centred, in the dtype of the model card."""
    h, w = resized.shape[:2]
    canvas = _black((h, w), size_hw, settings)
    if settings.dtype == "uint8" and resized.dtype != np.uint8:
        resized = np.clip(np.rint(resized), 0, 255).astype(np.uint8)
    canvas.window[:] = resized
    return canvas


def _black(resized_hw: tuple[int, int], size_hw: tuple[int, int], settings: card.Input) -> Canvas:
    """The canvas for a picture that is yet to be put there."""
    h, w = resized_hw
    canvas_h, canvas_w = canvas_size((h, w), settings)
    top, left = ((canvas_h - h) // 2, (canvas_w - w) // 2) if settings.placement == "centre" else (0, 0)
    image: Any = np.zeros((canvas_h, canvas_w, 3), settings.dtype)
    return Canvas(image, (left, top, left + w, top + h), size_hw)
