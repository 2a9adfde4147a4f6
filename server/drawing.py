"""The annotated picture: masks as tinted areas with an outline, boxes, labels; lines and text grow with the picture."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from server.contract import rle
from server.contract.wire import Box, Detection, ImageResult, RleMask
from server.pictures.decode import Picture

Colour = tuple[int, int, int]
Mask = npt.NDArray[np.bool_]

MASK_OPACITY = 0.38
CROWD = 25
"""Of more detections than this only those are labelled whose box is as wide as the label."""
GOLDEN_RATIO = 0.618034
"""Steps of this on the colour circle keep neighbours in the list apart."""


def draw_png(picture: Picture, result: ImageResult) -> bytes:
    """PNG of a picture [h, w, 3] with its detections, the best on top; those without COCO RLE get their box only."""
    painted = picture.copy()
    line = max(1, round(max(painted.shape) / 800))
    coloured = list(zip(result.detections, _colours(result.detections), strict=True))[::-1]
    for detection, colour in coloured:
        _paint_mask(painted, detection, colour, line)
    image = Image.fromarray(painted)
    draw = ImageDraw.Draw(image)
    for detection, colour in coloured:
        draw.rectangle(_inclusive(detection.box), outline=colour, width=line)
    _draw_labels(draw, coloured[::-1], image.size)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _paint_mask(painted: Picture, detection: Detection, colour: Colour, line: int) -> None:
    if not isinstance(detection.mask, RleMask):
        return
    counts = rle.decompress(detection.mask.counts, detection.mask.size)
    x, y, w, h = rle.bbox(counts, detection.mask.size)
    mask = rle.crop(counts, detection.mask.size, (x, y, x + w, y + h))
    view = painted[y : y + h, x : x + w]
    view[mask] = np.rint(view[mask] * (1 - MASK_OPACITY) + np.array(colour) * MASK_OPACITY).astype(np.uint8)
    view[mask & ~_eroded(mask, line)] = colour


def _eroded(mask: Mask, reach: int) -> Mask:
    """Set where all pixels within `reach` to the left, right, above and below are; there are none beyond the mask."""
    h, w = mask.shape
    padded = np.pad(mask, reach)
    inside = mask.copy()
    for step in range(2 * reach + 1):
        inside &= padded[step : step + h, reach : reach + w] & padded[reach : reach + h, step : step + w]
    return inside


def _draw_labels(draw: ImageDraw.ImageDraw, coloured: list[tuple[Detection, Colour]], size_wh: tuple[int, int]) -> None:
    """The first of the list get theirs first; those that would hide one of these have none."""
    font = ImageFont.load_default(size=max(11.0, max(size_wh) / 60))
    placed: list[Box] = []
    for detection, colour in coloured:
        text = f"{detection.class_name} {detection.score:.2f}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        w, h = right - left + 4, bottom - top + 4
        x, y = _label_place(detection.box, (w, h), size_wh)
        label = (x, y, x + w, y + h)
        is_lost = len(coloured) > CROWD and w > detection.box[2] - detection.box[0]
        if is_lost or any(_overlap(label, other) for other in placed):
            continue
        placed.append(label)
        draw.rectangle(label, fill=colour)
        draw.text((x + 2 - left, y + 2 - top), text, font=font, fill=_ink(colour))


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _label_place(box: Box, label_wh: tuple[float, float], size_wh: tuple[int, int]) -> tuple[float, float]:
    """On top of the box, else below it, within the picture where it fits."""
    w, h = label_wh
    y = box[1] - h if box[1] >= h else min(box[3], size_wh[1] - h)
    return max(0.0, min(box[0], size_wh[0] - w)), max(0.0, y)


def _colours(detections: list[Detection]) -> list[Colour]:
    """By class where there are several, else by object, so that neighbours stay apart."""
    several = len({detection.class_id for detection in detections}) > 1
    return [_colour(detection.class_id if several else index) for index, detection in enumerate(detections)]


def _colour(index: int) -> Colour:
    red, green, blue = colorsys.hls_to_rgb((0.55 + index * GOLDEN_RATIO) % 1, 0.5, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def _ink(colour: Colour) -> str:
    red, green, blue = colour
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


def _inclusive(box: Box) -> tuple[int, int, int, int]:
    """First and last pixel, as Pillow wants them, of a half-open box."""
    x1, y1 = int(box[0]), int(box[1])
    return x1, y1, max(x1, int(np.ceil(box[2])) - 1), max(y1, int(np.ceil(box[3])) - 1)
