"""COCO average precision of a model in training, by the pictures' own pixels.

Resize and paste are those of serving, so that the numbers are those a bundle would get.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from export.model.mask_rcnn import MaskRCNN
from export.training.dataset import PictureSet, Rle, ground_truth
from export.training.resize import resized_size

MAX_DETECTIONS = (1, 100, 500)
"""Average precision is at the last; dense pictures hold more than COCO's 100 objects."""


@dataclass(frozen=True)
class Found:
    """Detections of one picture in the image frame, by falling score."""

    boxes: NDArray[np.float32]
    """[D, 4] x1, y1, x2, y2"""
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    rles: list[Rle]


def predict(model: MaskRCNN, image: NDArray[np.uint8]) -> Found:
    """What the model finds in one picture [h, w, 3]."""
    images, windows, scale = _on_canvas(model, image)
    device = next(model.parameters()).device
    with torch.inference_mode():
        detections, masks = (t.cpu() for t in model(images.to(device), windows.to(device)))
    real = detections[:, 5] > 0
    detections, masks = detections[real], masks[real]
    boxes = detections[:, 1:5] / torch.tensor([scale[1], scale[0], scale[1], scale[0]])
    height, width = image.shape[:2]
    boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height]))
    rles = [_paste(m, b, (height, width)) for m, b in zip(masks, boxes, strict=True)]
    return Found(boxes.numpy(), detections[:, 5].numpy(), detections[:, 6].long().numpy(), rles)


def evaluate(
    model: MaskRCNN,
    pictures: PictureSet,
    indices: Sequence[int],
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Mean box and mask AP, AP50 and AP75 over the given pictures; None if `stopped` says so on the way."""
    results: list[dict[str, Any]] = []
    for index in indices:
        if stopped():
            return None
        results += _coco_results(predict(model, pictures[index].image), index)
    truth = ground_truth(pictures, indices)
    return _precision(truth, results, "bbox", "box") | _precision(truth, results, "segm", "mask")


def _on_canvas(model: MaskRCNN, image: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor, tuple[float, float]]:
    rule = model.config.input
    height, width = image.shape[:2]
    new_h, new_w = resized_size((height, width), rule)
    resized = np.asarray(Image.fromarray(image).resize((new_w, new_h), Image.Resampling.BILINEAR))
    canvas_h, canvas_w = (-(-side // rule.size_divisor) * rule.size_divisor for side in (new_h, new_w))
    canvas = torch.zeros(1, canvas_h, canvas_w, 3, dtype=torch.uint8)
    canvas[0, :new_h, :new_w] = torch.from_numpy(resized.copy())
    return canvas, torch.tensor([[0.0, 0.0, new_w, new_h]]), (new_h / height, new_w / width)


def _paste(mask: torch.Tensor, box: torch.Tensor, size_hw: tuple[int, int]) -> Rle:
    x1, y1, x2, y2 = box.tolist()
    left, top = max(0, int(x1)), max(0, int(y1))
    right, bottom = min(size_hw[1], int(np.ceil(x2))), min(size_hw[0], int(np.ceil(y2)))
    full = np.zeros(size_hw, dtype=np.uint8, order="F")
    if right > left and bottom > top:
        x = (torch.arange(left, right) + 0.5 - x1) / max(x2 - x1, 1e-6) * 2 - 1
        y = (torch.arange(top, bottom) + 0.5 - y1) / max(y2 - y1, 1e-6) * 2 - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
        full[top:bottom, left:right] = F.grid_sample(mask[None, None], grid, align_corners=False)[0, 0].numpy() >= 0.5
    return dict(coco_mask.encode(full))


def _coco_results(found: Found, image_id: int) -> Iterator[dict[str, Any]]:
    for (x1, y1, x2, y2), score, class_id, rle in zip(
        found.boxes.tolist(), found.scores.tolist(), found.class_ids.tolist(), found.rles, strict=True
    ):
        yield {
            "image_id": image_id,
            "category_id": class_id,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
            "segmentation": rle,
        }


def _precision(truth: dict[str, Any], results: list[dict[str, Any]], kind: str, name: str) -> dict[str, float]:
    if not results:
        return {f"{name}_ap": 0.0, f"{name}_ap50": 0.0, f"{name}_ap75": 0.0}
    if kind == "bbox":
        results = [{k: v for k, v in r.items() if k != "segmentation"} for r in results]
    with contextlib.redirect_stdout(io.StringIO()):
        expected = COCO()
        expected.dataset = truth
        expected.createIndex()
        evaluation = COCOeval(expected, expected.loadRes(results), kind)
        evaluation.params.maxDets = list(MAX_DETECTIONS)
        evaluation.evaluate()
        evaluation.accumulate()
    # [IoU threshold, recall, class, area range, detections]; -1 where a class has no objects
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    by_threshold = {"ap": precision, "ap50": precision[:1], "ap75": precision[5:6]}
    return {f"{name}_{k}": float(p[p > -1].mean()) if (p > -1).any() else 0.0 for k, p in by_threshold.items()}
