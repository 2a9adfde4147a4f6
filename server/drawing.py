"""The annotated picture: masks in translucent colours, boxes, class names and scores."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from server.contract import rle
from server.contract.wire import Detection, ImageResult, RleMask
from server.pictures.decode import Picture

Colour = tuple[int, int, int]

MASK_OPACITY = 0.45
GOLDEN_RATIO = 0.618034
"""Steps of this on the colour circle keep neighbours in the list apart."""


def draw_png(picture: Picture, result: ImageResult) -> bytes:
    """PNG of a picture [h, w, 3] with its detections; those whose mask is not COCO RLE get their box only."""
    painted = picture.copy()
    for index, detection in enumerate(result.detections):
        _paint_mask(painted, detection, _colour(index))
    image = Image.fromarray(painted)
    draw = ImageDraw.Draw(image)
    for index, detection in enumerate(result.detections):
        _draw_box(draw, detection, _colour(index))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _paint_mask(painted: Picture, detection: Detection, colour: Colour) -> None:
    if not isinstance(detection.mask, RleMask):
        return
    x, y = np.divmod(_set_pixels(rle.decompress(detection.mask.counts, detection.mask.size)), len(painted))
    covered = painted[y, x]
    painted[y, x] = np.rint(covered + (np.array(colour) - covered) * MASK_OPACITY).astype(np.uint8)


def _set_pixels(counts: rle.Counts) -> npt.NDArray[np.int64]:
    """Column-major positions of a mask's pixels: a picture may be large, and its objects small."""
    lengths = counts[1::2]
    starts = np.cumsum(counts)[::2][: len(lengths)]
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def _draw_box(draw: ImageDraw.ImageDraw, detection: Detection, colour: Colour) -> None:
    x1, y1, x2, y2 = detection.box
    draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour)
    draw.text((x1 + 2, y1 + 1), f"{detection.class_name} {detection.score:.2f}", fill=colour)


def _colour(index: int) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(index * GOLDEN_RATIO % 1, 0.8, 1)
    return round(red * 255), round(green * 255), round(blue * 255)
