"""A sheet of predictions for a person to look at: pictures with the outlines and boxes of what was found."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from export.model.mask_rcnn import MaskRCNN
from export.training.dataset import PictureSet
from export.training.evaluation import Found, predict

TILE = 320
"""Side of a picture on the sheet, in pixels."""


def save_sheet(
    model: MaskRCNN, pictures: PictureSet, indices: Sequence[int], path: Path, score_threshold: float = 0.5
) -> None:
    """Writes a PNG with one tile a picture, three in a row."""
    tiles = [
        _tile(pictures[i].image, predict(model, pictures[i].image), pictures.classes, score_threshold) for i in indices
    ]
    columns = min(3, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * TILE, rows * TILE), "white")
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % columns * TILE, place // columns * TILE))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _tile(image: NDArray[np.uint8], found: Found, classes: Sequence[str], score_threshold: float) -> Image.Image:
    painted = image.copy()
    shown = np.flatnonzero(found.scores >= score_threshold).tolist()
    for place in shown:
        mask = coco_mask.decode(found.rles[place]).astype(bool)
        painted[mask] = (0.55 * painted[mask] + 0.45 * _colour(place)).astype(np.uint8)
    scale = TILE / max(image.shape[:2])
    size_wh = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    tile = Image.fromarray(painted).resize(size_wh)
    draw = ImageDraw.Draw(tile)
    for place in shown:
        x1, y1, x2, y2 = found.boxes[place] * scale
        draw.rectangle((x1, y1, x2, y2), outline=tuple(int(c) for c in _colour(place)))
        if len(classes) > 2:
            draw.text((x1 + 2, y1 + 1), f"{classes[found.class_ids[place]]} {found.scores[place]:.2f}", fill="white")
    return tile


def _colour(place: int) -> NDArray[np.float64]:
    return 255 * np.array(colorsys.hsv_to_rgb(place * 0.381966 % 1.0, 0.8, 1.0))
