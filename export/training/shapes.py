"""A set of pictures that needs no files: circles, squares and triangles on a plain background, made by the seed."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from export.training.dataset import Picture

CLASSES = ("background", "circle", "square", "triangle")


class ShapesSet:
    """`count` pictures of `size` pixels a side with one to four shapes; later shapes cover earlier ones.

    Picture i depends on (seed, i) alone. Shapes of which less than a quarter shows are left out of the annotations
    and of the picture.
    """

    classes = CLASSES

    def __init__(self, count: int, size: int = 128, seed: int = 0) -> None:
        self.count, self.size, self.seed = count, size, seed

    def __len__(self) -> int:
        return self.count

    def active(self, index: int) -> NDArray[np.bool_]:
        return np.ones(len(self.classes), dtype=np.bool_)

    def __getitem__(self, index: int) -> Picture:
        if not 0 <= index < self.count:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, index))
        shapes = [self._draw_one(rng) for _ in range(rng.integers(1, 5))]
        masks, class_ids = _uncovered([m for m, _ in shapes], [c for _, c in shapes])
        image = self._background(rng)
        for mask in masks:
            image[mask] = _distinct_colour(image[mask], rng)
        noise = rng.normal(0, 6, image.shape)
        return Picture(
            name=f"shapes-{self.seed}-{index}",
            image=np.clip(image + noise, 0, 255).astype(np.uint8),
            rles=tuple(coco_mask.encode(np.asfortranarray(m.astype(np.uint8))) for m in masks),
            class_ids=np.array(class_ids, dtype=np.int64),
            crowd=np.zeros(len(masks), dtype=np.bool_),
        )

    def _background(self, rng: np.random.Generator) -> NDArray[np.float64]:
        return np.broadcast_to(rng.uniform(0, 255, 3), (self.size, self.size, 3)).copy()

    def _draw_one(self, rng: np.random.Generator) -> tuple[NDArray[np.bool_], int]:
        class_id = int(rng.integers(1, len(CLASSES)))
        radius = rng.uniform(0.08, 0.22) * self.size
        x, y = rng.uniform(radius, self.size - radius, 2)
        canvas = Image.new("1", (self.size, self.size))
        draw = ImageDraw.Draw(canvas)
        if class_id == 1:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
        elif class_id == 2:
            draw.rectangle((x - radius, y - radius, x + radius, y + radius), fill=1)
        else:
            half_base = radius * math.sin(math.radians(60))
            draw.polygon((x, y - radius, x - half_base, y + radius / 2, x + half_base, y + radius / 2), fill=1)
        return np.asarray(canvas), class_id


def _uncovered(masks: list[NDArray[np.bool_]], class_ids: list[int]) -> tuple[list[NDArray[np.bool_]], list[int]]:
    """What shows of each shape when the later ones lie on top; shapes that hardly show are dropped."""
    visible: list[tuple[NDArray[np.bool_], int]] = []
    above = np.zeros_like(masks[0])
    for mask, class_id in zip(reversed(masks), reversed(class_ids), strict=True):
        shown = mask & ~above
        if shown.sum() >= mask.sum() / 4:
            visible.append((shown, class_id))
            above |= mask
    visible.reverse()
    return [m for m, _ in visible], [c for _, c in visible]


def _distinct_colour(under: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """A colour that differs from what it is painted on."""
    colour = rng.uniform(0, 255, 3)
    while np.abs(colour - under.mean(0)).max() < 60:
        colour = rng.uniform(0, 255, 3)
    return colour
