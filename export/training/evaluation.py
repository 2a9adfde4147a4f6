"""COCO average precision of a model in training, by the pictures' own pixels.

Resize and paste are the service's own functions, so that the numbers are those a bundle would get.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO

from export.average_precision import average_precision
from export.model.mask_rcnn import MaskRCNN
from export.serving import serving_input
from export.training.dataset import PictureSet, Rle, ground_truth
from export.training.distributed import gather_to_first_process
from server.pasting import compress, paste
from server.postprocess import boxes_to_image
from server.preprocess import prepare

MAX_DETECTIONS = 500
"""Dense pictures hold more than COCO's 100 objects."""

_SHOWN = ("ap", "ap50", "ap75")

_Part = tuple[dict[str, Any], list[dict[str, Any]]]
"""Of some pictures: COCO's annotation document and the results."""


@dataclass(frozen=True)
class Found:
    """Detections of one picture in the image frame, by falling score."""

    boxes: NDArray[np.float32]
    """[D, 4] x1, y1, x2, y2"""
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    rles: list[Rle]


def predict(model: MaskRCNN, image: NDArray[np.uint8]) -> Found:
    """What the model, in eval mode, finds in one picture [h, w, 3]."""
    canvas = prepare(image, serving_input(model.config.input))
    images = torch.from_numpy(canvas.image)[None].to(model.mean.device)
    windows = torch.tensor([canvas.window_xyxy], dtype=torch.float32, device=images.device)
    with torch.inference_mode():
        detections, masks = (t.cpu().numpy() for t in model(images, windows))
    real = detections[:, 5] > 0
    detections, masks = detections[real], masks[real]
    rule = model.config.mask_paste
    boxes = boxes_to_image(detections[:, 1:5], canvas, rule)
    texts = compress(paste(masks, boxes, canvas.size_hw, rule))
    rles = [{"size": list(canvas.size_hw), "counts": text.encode("ascii")} for text in texts]
    return Found(boxes, detections[:, 5], detections[:, 6].astype(np.int64), rles)


def evaluate(
    model: MaskRCNN,
    pictures: PictureSet,
    indices: Sequence[int],
    stopped: Callable[[], bool] = lambda: False,
    rank: int = 0,
    world_size: int = 1,
) -> dict[str, float] | None:
    """Mean box and mask AP, AP50 and AP75 over the given pictures; None if `stopped` says so on the way.

    Each process looks at its share, and the first makes the figures of all that was found; elsewhere they are empty.
    Where a process was stopped, it and the first return None.
    """
    part = _evaluate_part(model, pictures, indices[rank::world_size], stopped)
    parts = gather_to_first_process(part)
    if part is None or None in parts:
        return None
    if rank:
        return {}
    document, results = _united([p for p in parts if p is not None])
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = document
        truth.createIndex()
    return _figures(truth, results, "bbox", "box") | _figures(truth, results, "segm", "mask")


def _evaluate_part(
    model: MaskRCNN, pictures: PictureSet, indices: Sequence[int], stopped: Callable[[], bool]
) -> _Part | None:
    results: list[dict[str, Any]] = []
    for index in indices:
        if stopped():
            return None
        results += _coco_results(predict(model, pictures[index].image), index)
    return ground_truth(pictures, indices), results


def _united(parts: Sequence[_Part]) -> _Part:
    """In the order of the pictures, as one process would have it: equal scores are ranked by it."""
    images = sorted((i for truth, _ in parts for i in truth["images"]), key=lambda i: i["id"])
    annotations = sorted((a for truth, _ in parts for a in truth["annotations"]), key=lambda a: a["image_id"])
    results = sorted((r for _, found in parts for r in found), key=lambda r: r["image_id"])
    numbered = [a | {"id": i} for i, a in enumerate(annotations, start=1)]
    return {**parts[0][0], "images": images, "annotations": numbered}, results


def _coco_results(found: Found, image_id: int) -> Iterator[dict[str, Any]]:
    for (x1, y1, x2, y2), score, class_id, mask in zip(
        found.boxes.tolist(), found.scores.tolist(), found.class_ids.tolist(), found.rles, strict=True
    ):
        yield {
            "image_id": image_id,
            "category_id": class_id,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
            "segmentation": mask,
        }


def _figures(truth: COCO, results: list[dict[str, Any]], kind: Literal["bbox", "segm"], name: str) -> dict[str, float]:
    """Zero instead of NaN where nothing is annotated."""
    figures = asdict(average_precision(truth, results, kind, MAX_DETECTIONS))
    return {f"{name}_{key}": float(np.nan_to_num(figures[key])) for key in _SHOWN}
