"""COCO's average precision at any number of detections a picture.

pycocotools' own summary looks for 100 detections by name; dense pictures, such as nuclei, hold more.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Kind = Literal["bbox", "segm"]


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's figures, 0 to 1, as means over classes; NaN where nothing is annotated (of that size)."""

    ap: float
    """Mean over the IoU thresholds 0.50, 0.55 ... 0.95."""
    ap50: float
    ap75: float
    ap_small: float
    """Annotations below 32 x 32 pixels."""
    ap_medium: float
    ap_large: float
    """Annotations above 96 x 96 pixels."""
    recall: float
    """Average recall with all detections."""


def read_truth(path: str) -> COCO:
    """An annotation file as pycocotools holds it, without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(path)


def of_images(truth: COCO, image_ids: Set[int]) -> COCO:
    """The part of the annotations that is about these images."""
    part = COCO()
    part.dataset = dict(truth.dataset)
    part.dataset["images"] = [image for image in truth.dataset["images"] if image["id"] in image_ids]
    part.dataset["annotations"] = [a for a in truth.dataset["annotations"] if a["image_id"] in image_ids]
    with contextlib.redirect_stdout(io.StringIO()):
        part.createIndex()
    return part


def average_precision(
    truth: COCO, results: Sequence[dict[str, Any]], kind: Kind, max_detections: int
) -> AveragePrecision:
    """Judges COCO `results` (with `bbox` and `segmentation`) by their boxes or by their masks."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, _found(truth, results, kind), kind)
        evaluation.params.maxDets = [1, 100, max_detections] if max_detections > 100 else [1, 10, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]  # [IoU threshold, recall, class, area range]
    recall = evaluation.eval["recall"][..., -1]  # [IoU threshold, class, area range]
    return AveragePrecision(
        ap=_mean(precision[..., 0]),
        ap50=_mean(precision[0, ..., 0]),
        ap75=_mean(precision[5, ..., 0]),
        ap_small=_mean(precision[..., 1]),
        ap_medium=_mean(precision[..., 2]),
        ap_large=_mean(precision[..., 3]),
        recall=_mean(recall[..., 0]),
    )


def _found(truth: COCO, results: Sequence[dict[str, Any]], kind: Kind) -> COCO:
    # A result with a box takes its area, and with it its size class, from the box: masks go without.
    other = "bbox" if kind == "segm" else "segmentation"
    kept = [{key: value for key, value in result.items() if key != other} for result in results]
    if kept:
        return truth.loadRes(kept)
    nothing = COCO()  # loadRes cannot take an empty list
    nothing.dataset = {"images": truth.dataset["images"], "categories": truth.dataset["categories"], "annotations": []}
    nothing.createIndex()
    return nothing


def _mean(values: NDArray[np.float64]) -> float:
    """Over what is not -1, pycocotools' mark for a class without annotations."""
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")
