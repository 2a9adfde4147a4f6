"""A picture with its detections on it: masks as tinted areas with an outline, boxes, labels."""

from __future__ import annotations

import colorsys
from collections import Counter

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from clients.errors import InvalidPictureError
from clients.masks import Mask, placed
from clients.picture import Picture, load
from clients.prediction import Detection, Prediction

FILL_OPACITY = 0.38
# Above so many detections a label is drawn only where it does not hide its neighbours.
CROWD = 25

Colour = tuple[int, int, int]


def draw(prediction: Prediction, picture: Picture) -> Image.Image:
    """RGB, of the picture's size. Raises `InvalidPictureError` when that is not the size of the answer."""
    image = load(picture)
    if image.size != (prediction.width, prediction.height):
        raise InvalidPictureError(
            f"This picture is {image.width} x {image.height} pixels, "
            f"the answer is for {prediction.width} x {prediction.height}."
        )
    colours = _colours(prediction)
    image = _with_masks(image, prediction, colours)
    canvas = ImageDraw.Draw(image)
    line_width = max(1, round(max(image.size) / 800))
    for detection, colour in zip(prediction, colours, strict=True):
        canvas.rectangle(_inclusive(detection.box), outline=colour, width=line_width)
    _label(canvas, prediction, colours)
    return image


def _colours(prediction: Prediction) -> list[Colour]:
    """By class where there are several; by object where there is one, so that touching objects stay apart."""
    several = len(Counter(prediction.labels)) > 1
    return [_colour(one.class_id if several else k) for k, one in enumerate(prediction)]


def _colour(index: int) -> Colour:
    """Far from its neighbours in hue: steps of the golden angle."""
    hue = (0.55 + index * 0.618034) % 1.0
    red, green, blue = colorsys.hls_to_rgb(hue, 0.56 if index % 2 else 0.48, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def _with_masks(image: Image.Image, prediction: Prediction, colours: list[Colour]) -> Image.Image:
    pixels = np.asarray(image).copy()
    reach = max(1, round(max(image.size) / 800))
    # Best last: it lies on top.
    for detection, colour in reversed(list(zip(prediction, colours, strict=True))):
        if detection.area and detection.encoded_mask is not None:
            _tint(pixels, detection, colour, reach)
    return Image.fromarray(pixels)


def _tint(pixels: npt.NDArray[np.uint8], detection: Detection, colour: Colour, reach: int) -> None:
    rows, columns, mask = placed(detection.encoded_mask, (pixels.shape[0], pixels.shape[1]))
    view = pixels[rows, columns]
    tint = np.array(colour, np.float32)
    view[mask] = (view[mask] * (1 - FILL_OPACITY) + tint * FILL_OPACITY).astype(np.uint8)
    view[mask & ~_eroded(mask, reach)] = colour


def _eroded(mask: Mask, reach: int) -> Mask:
    """Set where every pixel within `reach` in the four directions is; outside counts as not set."""
    padded = np.pad(mask, reach)
    h, w = mask.shape
    inside = mask.copy()
    for step in range(1, reach + 1):
        low, high = reach - step, reach + step
        inside &= padded[low : low + h, reach : reach + w] & padded[high : high + h, reach : reach + w]
        inside &= padded[reach : reach + h, low : low + w] & padded[reach : reach + h, high : high + w]
    return inside


def _label(canvas: ImageDraw.ImageDraw, prediction: Prediction, colours: list[Colour]) -> None:
    width, height = canvas.im.size
    font = ImageFont.load_default(size=max(11.0, max(width, height) / 60))
    for detection, colour in reversed(list(zip(prediction, colours, strict=True))):
        text = f"{detection.label} {detection.score:.2f}"
        x1, y1, x2, y2 = detection.box
        left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
        wide, high = right - left + 4, bottom - top + 4
        if len(prediction) > CROWD and wide > x2 - x1:
            continue
        x = min(max(0.0, x1), max(0.0, width - wide))
        y = y1 - high if y1 >= high else min(y2, height - high)
        canvas.rectangle((x, y, x + wide, y + high), fill=colour)
        ink = "black" if _luminance(colour) > 140 else "white"
        canvas.text((x + 2 - left, y + 2 - top), text, font=font, fill=ink)


def _luminance(colour: Colour) -> float:
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _inclusive(box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """First and last pixel, for Pillow, of a half-open box."""
    x1, y1 = int(box[0]), int(box[1])
    return x1, y1, max(x1, int(np.ceil(box[2])) - 1), max(y1, int(np.ceil(box[3])) - 1)
