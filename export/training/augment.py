"""From an annotated picture to what the network sees in training: resize, crop, flip, turn, colour, mini masks.

Every random choice comes from the generator passed in. Frames: *image* is the picture, *view* is the resized, cropped
picture, which a batch puts on a canvas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from export.model.config import InputConfig
from export.serving import serving_input
from export.training.config import AugmentConfig
from export.training.dataset import Picture, Rle
from server.preprocess import resized_size

Boxes = NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """H, W: the view's size; G objects, K crowds; boxes (x1, y1, x2, y2), x2/y2 exclusive, in pixels of the view."""

    image: NDArray[np.uint8]
    """[H, W, 3]"""
    masks: NDArray[np.uint8]
    """[G, H, W]"""
    boxes: Boxes
    """[G, 4]"""
    class_ids: NDArray[np.int64]
    crowd_boxes: Boxes
    """[K, 4]"""


@dataclass(frozen=True)
class _Region:
    """A rectangle of the resized picture. `scale` (y, x) leads from the image to the resized picture."""

    top: int
    left: int
    height: int
    width: int
    scale: tuple[float, float]

    def rows(self, image_height: int) -> NDArray[np.int64]:
        """The image row under the middle of each row of the region."""
        return _nearest(self.top, self.height, self.scale[0], image_height)

    def columns(self, image_width: int) -> NDArray[np.int64]:
        return _nearest(self.left, self.width, self.scale[1], image_width)


def training_view(picture: Picture, rule: InputConfig, augment: AugmentConfig, rng: np.random.Generator) -> View:
    """A random view of the picture."""
    region = _choose_region(picture, rule, augment, rng)
    image = _resize_region(picture.image, region)
    present = _objects_in(picture.rles, region, picture.image.shape[:2])
    masks = _masks_in([picture.rles[i] for i in present], region, picture.image.shape[:2])
    image, masks = _turn(image, masks, augment, rng)
    class_ids, crowd = picture.class_ids[present], picture.crowd[present]
    return _finish(_colour(image, augment, rng), masks, class_ids, crowd, augment.min_area)


def mask_boxes(masks: NDArray[np.uint8]) -> Boxes:
    """Tight boxes [G, 4] of masks [G, H, W]; zeros for an empty mask."""
    boxes = np.zeros((len(masks), 4), dtype=np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        columns = np.flatnonzero(np.bitwise_or.reduce(mask, axis=0))
        if len(columns):
            rows = np.flatnonzero(mask[:, columns[0] : columns[-1] + 1].any(axis=1))
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def _choose_region(picture: Picture, rule: InputConfig, augment: AugmentConfig, rng: np.random.Generator) -> _Region:
    height, width = picture.image.shape[:2]
    low, high = augment.scale_range
    factor = math.exp(rng.uniform(math.log(low), math.log(high)))
    base = resized_size(height, width, serving_input(rule).resize)
    full = (max(1, round(base[0] * factor)), max(1, round(base[1] * factor)))
    scale = (full[0] / height, full[1] / width)
    # What a square canvas has no room for is cut off.
    limit = augment.crop or rule.square or max(full)
    crop = (min(limit, full[0]), min(limit, full[1]))
    near = rng.random() < augment.crop_near_object
    centre = _object_centre(picture, rng) if near and picture.rles else None
    top = _choose_start(full[0], crop[0], None if centre is None else centre[0] * scale[0], rng)
    left = _choose_start(full[1], crop[1], None if centre is None else centre[1] * scale[1], rng)
    return _Region(top, left, *crop, scale)


def _object_centre(picture: Picture, rng: np.random.Generator) -> tuple[float, float]:
    """(y, x) in the image of the middle of one object's box."""
    x, y, w, h = coco_mask.toBbox(picture.rles[rng.integers(len(picture.rles))])
    return y + h / 2, x + w / 2


def _choose_start(length: int, crop: int, centre: float | None, rng: np.random.Generator) -> int:
    """Where the crop starts: anywhere, or anywhere such that it holds `centre`."""
    if centre is None:
        return int(rng.integers(0, length - crop + 1))
    low = min(max(math.ceil(centre - crop), 0), length - crop)
    high = max(min(math.floor(centre), length - crop), low)
    return int(rng.integers(low, high + 1))


def _nearest(start: int, count: int, scale: float, limit: int) -> NDArray[np.int64]:
    middles: NDArray[np.int64] = np.floor((np.arange(count) + start + 0.5) / scale).astype(np.int64)
    return np.minimum(middles, limit - 1, out=middles)


def _resize_region(image: NDArray[np.uint8], region: _Region) -> NDArray[np.uint8]:
    """The region of the resized picture, without making the rest of it: Pillow's bilinear for every family, whose own
    kernels differ by less than the scales drawn here."""
    height, width = image.shape[:2]
    left, top = region.left / region.scale[1], region.top / region.scale[0]
    right = min((region.left + region.width) / region.scale[1], width)
    bottom = min((region.top + region.height) / region.scale[0], height)
    size_wh = (region.width, region.height)
    resized = Image.fromarray(image).resize(size_wh, Image.Resampling.BILINEAR, box=(left, top, right, bottom))
    return np.array(resized)


def _objects_in(rles: tuple[Rle, ...], region: _Region, image_hw: tuple[int, ...]) -> NDArray[np.int64]:
    """Which objects have a box that reaches the region."""
    if not rles:
        return np.zeros(0, dtype=np.int64)
    rows, columns = region.rows(image_hw[0]), region.columns(image_hw[1])
    x, y, w, h = coco_mask.toBbox(list(rles)).T
    return np.flatnonzero((x <= columns[-1]) & (y <= rows[-1]) & (x + w > columns[0]) & (y + h > rows[0]))


def _masks_in(rles: list[Rle], region: _Region, image_hw: tuple[int, ...]) -> NDArray[np.uint8]:
    """Masks [G, H, W] in the region, by the nearest pixel."""
    masks = np.zeros((len(rles), region.height, region.width), dtype=np.uint8)
    rows, columns = region.rows(image_hw[0]), region.columns(image_hw[1])
    for mask, rle in zip(masks, rles, strict=True):
        # A decoded mask lies in memory column by column: columns are picked first.
        mask[:] = coco_mask.decode(rle).T[columns][:, rows].T
    return masks


def _turn(
    image: NDArray[np.uint8], masks: NDArray[np.uint8], augment: AugmentConfig, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    if rng.random() < augment.horizontal_flip:
        image, masks = image[:, ::-1], masks[:, :, ::-1]
    if rng.random() < augment.vertical_flip:
        image, masks = image[::-1], masks[:, ::-1]
    if augment.quarter_turns:
        turns = int(rng.integers(4))
        image, masks = np.rot90(image, turns), np.rot90(masks, turns, axes=(1, 2))
    return image, masks


def _colour(image: NDArray[np.uint8], augment: AugmentConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Values are spread and shifted as far as they fit into 0..255: a dim picture must not lose its objects."""
    inverted = rng.random() < augment.inverted_grey
    shift = 255 * rng.uniform(-augment.brightness, augment.brightness)
    gain = math.exp(rng.uniform(-augment.contrast, augment.contrast))
    if not inverted and not augment.brightness and not augment.contrast:
        return image
    values = image.astype(np.float32)
    if inverted:
        values = np.broadcast_to(255 - values.mean(2, keepdims=True), values.shape)
    low, span, middle = float(values.min()), float(np.ptp(values)), float(values.mean())
    gain = min(gain, 255 / max(span, 1))
    new_low = min(max((low - middle) * gain + middle + shift, 0), 255 - span * gain)
    coloured: NDArray[np.uint8] = ((values - low) * gain + new_low).clip(0, 255).astype(np.uint8)
    return coloured


def _finish(
    image: NDArray[np.uint8],
    masks: NDArray[np.uint8],
    class_ids: NDArray[np.int64],
    crowd: NDArray[np.bool_],
    min_area: int,
) -> View:
    """Sorts what is left of the objects: whole enough to learn, too small to judge (as crowd), or gone."""
    masks = np.ascontiguousarray(masks)
    areas = np.array([np.count_nonzero(mask) for mask in masks], dtype=np.int64)
    boxes = mask_boxes(masks)
    kept = (areas >= min_area) & ~crowd
    ignored = (areas > 0) & ~kept
    return View(np.ascontiguousarray(image), masks[kept], boxes[kept], class_ids[kept], boxes[ignored])
