"""COCO-format data: `DIR/annotations/instances_SPLIT.json` with pictures in `DIR/SPLIT/`.

Polygons, compressed and uncompressed run lengths, crowds, pictures without objects and gaps in the category ids are
read as they are. What is wrong is found when the set is opened, before a long run starts, and said in a
`DatasetError`; masks are made when a picture is first used.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from export.training.dataset import DatasetError, Picture, Rle
from server.contract import rle
from server.contract.errors import PictureError
from server.pictures.decode import decode_image

Record = dict[str, Any]


class CocoSet:
    """One split of a COCO-format folder. Classes are the categories by rising id, after the background."""

    def __init__(self, root: Path, split: str, cache_mb: int = 1024) -> None:
        self.annotation_file = root / "annotations" / f"instances_{split}.json"
        self.picture_folder = root / split
        document = _read_document(self.annotation_file)
        categories = sorted(document["categories"], key=lambda c: c["id"])
        self.classes = ("background", *(str(c["name"]) for c in categories))
        self._class_ids = {c["id"]: i for i, c in enumerate(categories, start=1)}
        self._images: list[Record] = sorted(document["images"], key=lambda i: i["id"])
        self._annotations: dict[Any, list[Record]] = {i["id"]: [] for i in self._images}
        self._check_pictures()
        self._sort_annotations(document["annotations"])
        self._cache: OrderedDict[int, Picture] = OrderedDict()
        self._cache_room = cache_mb * 2**20

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Picture:
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        picture = self._load(index)
        self._cache[index] = picture
        self._cache_room -= picture.image.nbytes
        while self._cache_room < 0 and len(self._cache) > 1:
            self._cache_room += self._cache.popitem(last=False)[1].image.nbytes
        return picture

    def active(self, index: int) -> NDArray[np.bool_]:
        return np.ones(len(self.classes), dtype=np.bool_)

    def _load(self, index: int) -> Picture:
        record = self._images[index]
        image = _read_picture(self.picture_folder / record["file_name"])
        size_hw = (record["height"], record["width"])
        if image.shape[:2] != size_hw:
            raise DatasetError(
                f"{self.picture_folder / record['file_name']}: the picture is {image.shape[1]}x{image.shape[0]}, "
                f"but {self.annotation_file} says {size_hw[1]}x{size_hw[0]}"
            )
        annotations = self._annotations[record["id"]]
        return Picture(
            name=record["file_name"],
            image=image,
            rles=tuple(_to_rle(a["segmentation"], size_hw) for a in annotations),
            class_ids=np.array([self._class_ids[a["category_id"]] for a in annotations], dtype=np.int64),
            crowd=np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=np.bool_),
        )

    def _check_pictures(self) -> None:
        present = {p.name for p in self.picture_folder.iterdir()} if self.picture_folder.is_dir() else set()
        if not self._images:
            raise DatasetError(f"{self.annotation_file}: no pictures are listed")
        for record in self._images:
            name = record["file_name"]
            if name not in present and not (self.picture_folder / name).is_file():
                raise DatasetError(f"{self.annotation_file}: picture {name} is not in {self.picture_folder}")

    def _sort_annotations(self, annotations: list[Record]) -> None:
        sizes = {i["id"]: (i["height"], i["width"]) for i in self._images}
        for annotation in annotations:
            problem = self._problem(annotation, sizes)
            if problem:
                raise DatasetError(f"{self.annotation_file}: annotation {annotation.get('id')!r}: {problem}")
            self._annotations[annotation["image_id"]].append(annotation)

    def _problem(self, annotation: Record, sizes: dict[Any, tuple[int, int]]) -> str | None:
        for key in ("image_id", "category_id", "segmentation"):
            if key not in annotation:
                return f"has no {key}"
        if annotation["image_id"] not in sizes:
            return f"image_id {annotation['image_id']!r} is not among the images"
        if annotation["category_id"] not in self._class_ids:
            return f"category_id {annotation['category_id']!r} is not among the categories"
        return segmentation_problem(annotation["segmentation"], sizes[annotation["image_id"]])


def segmentation_problem(segmentation: object, size_hw: tuple[int, int]) -> str | None:
    """What is wrong with a COCO segmentation of a picture of this size, in a sentence; None if it is sound."""
    if isinstance(segmentation, list):
        if not segmentation:
            return "the list of polygons is empty"
        problems = (_polygon_problem(i, p) for i, p in enumerate(segmentation))
        return next((p for p in problems if p), None)
    if isinstance(segmentation, dict):
        return _rle_problem(segmentation, size_hw)
    return f"segmentation is neither a list of polygons nor run lengths but {type(segmentation).__name__}"


def _polygon_problem(index: int, polygon: object) -> str | None:
    if not isinstance(polygon, list):
        return f"polygon {index} is not a list of numbers"
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in polygon):
        return f"polygon {index} holds something that is not a finite number"
    if len(polygon) % 2:
        return f"polygon {index} has an odd number of coordinates ({len(polygon)})"
    if len(polygon) < 6:
        return f"polygon {index} has {len(polygon) // 2} points; at least 3 make an area"
    return None


def _rle_problem(segmentation: Record, size_hw: tuple[int, int]) -> str | None:
    if list(segmentation.get("size") or ()) != list(size_hw):
        return f"run lengths are for size {segmentation.get('size')!r}, the picture is {list(size_hw)} (height, width)"
    counts = segmentation.get("counts")
    try:
        if isinstance(counts, str):
            rle.decompress(counts, size_hw)
        elif isinstance(counts, list) and all(isinstance(run, int) for run in counts):
            rle.check(counts, size_hw)
        else:
            return "counts are neither a string nor a list of whole numbers"
    except rle.RleError as error:
        return str(error)
    return None


def _to_rle(segmentation: Any, size_hw: tuple[int, int]) -> Rle:
    if isinstance(segmentation, list):
        return dict(coco_mask.merge(coco_mask.frPyObjects(segmentation, *size_hw)))
    if isinstance(segmentation["counts"], list):
        return dict(coco_mask.frPyObjects(segmentation, *size_hw))
    return {"size": list(size_hw), "counts": segmentation["counts"].encode("ascii")}


def _read_document(path: Path) -> Record:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file (expected DIR/annotations/instances_SPLIT.json)") from error
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read as JSON: {error}") from error
    for key, needed in (("images", ("id", "file_name", "height", "width")), ("categories", ("id", "name"))):
        _check_records(path, document, key, needed)
    _check_records(path, document, "annotations", ())
    return dict(document)


def _check_records(path: Path, document: object, key: str, needed: tuple[str, ...]) -> None:
    records = document.get(key) if isinstance(document, dict) else None
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise DatasetError(f"{path}: has no list of {key}")
    for record in records:
        missing = [k for k in needed if k not in record]
        if missing:
            raise DatasetError(f"{path}: an entry of {key} has no {missing[0]}: {record}")


def _read_picture(path: Path) -> NDArray[np.uint8]:
    try:
        return decode_image(path.read_bytes())
    except (OSError, PictureError) as error:
        raise DatasetError(f"{path}: {error}") from error
