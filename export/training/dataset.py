"""Annotated pictures, wherever they come from, and sets of them united by class name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from export.training.config import TrainingError

Rle = dict[str, Any]
"""COCO's compressed run lengths: `size` [h, w] and `counts` bytes. Masks stay in this form until a view needs them."""


class DatasetError(TrainingError):
    """The data cannot be used; the message names the file, the annotation and what is wrong with it."""


@dataclass(frozen=True)
class Picture:
    """One picture with its objects, in the image frame (as a person sees it)."""

    name: str
    image: NDArray[np.uint8]
    """[h, w, 3] RGB"""
    rles: tuple[Rle, ...]
    class_ids: NDArray[np.int64]
    """[G], 1 and up: places in the data set's `classes`"""
    crowd: NDArray[np.bool_]
    """[G]"""


class PictureSet(Protocol):
    """`classes[0]` is the background. `active(i)` [C] says which classes picture i's annotators looked for."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Picture: ...

    def active(self, index: int) -> NDArray[np.bool_]: ...


class UnitedSet:
    """Several sets as one; classes with the same name are the same class."""

    def __init__(self, parts: Sequence[PictureSet]) -> None:
        self.parts = tuple(parts)
        names = dict.fromkeys(name for part in parts for name in part.classes)
        self.classes = tuple(names)
        self._ends = np.cumsum([len(part) for part in parts])
        self._class_map = [np.array([self.classes.index(n) for n in part.classes]) for part in parts]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Picture:
        part, inside = self._locate(index)
        found = self.parts[part][inside]
        return Picture(found.name, found.image, found.rles, self._class_map[part][found.class_ids], found.crowd)

    def active(self, index: int) -> NDArray[np.bool_]:
        part, inside = self._locate(index)
        active = np.zeros(len(self.classes), dtype=np.bool_)
        active[self._class_map[part][self.parts[part].active(inside)]] = True
        return active

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = int(np.searchsorted(self._ends, index, side="right"))
        return part, index - (int(self._ends[part - 1]) if part else 0)


def ground_truth(pictures: PictureSet, indices: Sequence[int]) -> dict[str, Any]:
    """COCO's annotation document of some of the pictures, image ids = indices, category ids = class ids."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in indices:
        picture = pictures[index]
        height, width = picture.image.shape[:2]
        images.append({"id": index, "height": height, "width": width, "file_name": picture.name})
        for rle, class_id, crowd in zip(picture.rles, picture.class_ids, picture.crowd, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": int(class_id),
                    "segmentation": rle,
                    "area": float(coco_mask.area(rle)),
                    "bbox": [float(v) for v in coco_mask.toBbox(rle)],
                    "iscrowd": int(crowd),
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(pictures.classes) if i]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}
