"""What a bundle's answers are worth where the pictures are annotated: average precision, beside PyTorch's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from export.average_precision import Kind, average_precision, of_images, read_truth
from export.pictures import PicturesError, annotation_file
from server.contract.errors import MasklineError
from server.contract.wire import ImageResult, RleMask

KINDS: dict[str, Kind] = {"box": "bbox", "mask": "segm"}

Answers = Iterable[tuple[int, ImageResult]]
"""Image ids and what was found."""


class Annotations:
    """The annotations of some pictures of COCO data."""

    def __init__(self, truth: COCO, image_ids: Sequence[int]) -> None:
        self._truth = of_images(truth, set(image_ids))
        self._categories = {category["name"]: category["id"] for category in truth.dataset["categories"]}

    def average_precision(self, answers: Answers, max_detections: int) -> dict[str, float]:
        """Of "box" and "mask", 0 to 1, of answers that name classes as the data names its categories."""
        results = list(coco_results(answers, self._categories))
        return {name: average_precision(self._truth, results, kind, max_detections).ap for name, kind in KINDS.items()}


def annotations_of(source: Path | None, image_ids: Sequence[int], classes: Sequence[str]) -> Annotations | None:
    """None: there are no annotations of these pictures and classes. Raises `PicturesError` for a broken file."""
    file = annotation_file(source) if source is not None else None
    if file is None:
        return None
    try:
        truth = read_truth(str(file))
        judged = {c["id"] for c in truth.dataset.get("categories", []) if c["name"] in classes}
        about = {a["image_id"] for a in truth.dataset.get("annotations", []) if a["category_id"] in judged}
    except (ValueError, KeyError, TypeError) as error:
        raise PicturesError(f"{file} is not a COCO file with annotations.") from error
    return Annotations(truth, image_ids) if about & set(image_ids) else None


def coco_results(answers: Answers, categories: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Detections in COCO's results format; without those of classes that the data does not have.

    Raises `MasklineError` for masks that are no compressed RLE, as a server of somebody else's may answer.
    """
    for image_id, answer in answers:
        for detection in answer.detections:
            if detection.class_name not in categories:
                continue
            x1, y1, x2, y2 = detection.box
            mask = detection.mask
            if not isinstance(mask, RleMask):
                raise MasklineError("The model's answers hold no compressed RLE masks.")
            yield {
                "image_id": image_id,
                "category_id": categories[detection.class_name],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": detection.score,
                "segmentation": {"size": mask.size, "counts": mask.counts},
            }
