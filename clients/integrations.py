"""Predictions as other libraries' own types. Each library is loaded when asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clients.errors import MissingExtraError
from clients.masks import crop, to_counts
from server.contract import rle

if TYPE_CHECKING:
    import fiftyone
    import supervision

    from clients.prediction import Detection, Prediction

# Pixels. FiftyOne rounds down, and 51 / 696 * 696 is 50.99999999999999.
_NUDGE = 1e-6


def to_supervision(prediction: Prediction) -> supervision.Detections:
    library = _library("supervision")
    detections: supervision.Detections = library.Detections(
        xyxy=prediction.boxes,
        mask=None if _has_no_masks(prediction) else prediction.masks(),
        confidence=prediction.scores,
        class_id=prediction.class_ids,
        data={"class_name": np.array(prediction.labels, dtype=np.str_)},
    )
    return detections


def to_fiftyone(prediction: Prediction) -> fiftyone.Detections:
    library = _library("fiftyone")
    size_wh = np.array([prediction.width, prediction.height])
    found = [library.Detection(**_fields(one, size_wh)) for one in prediction]
    detections: fiftyone.Detections = library.Detections(detections=found)
    return detections


def _fields(detection: Detection, size_wh: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Arguments of `fiftyone.Detection`."""
    box_xyxy = np.array(detection.box)
    fields: dict[str, Any] = {"label": detection.label, "confidence": detection.score}
    if detection.encoded_mask is not None:
        counts, size_hw = to_counts(detection.encoded_mask)
        box_xyxy = _pixels_around(detection.box, rle.bbox(counts, size_hw))
        x1, y1, x2, y2 = box_xyxy.tolist()
        fields["mask"] = crop(counts, size_hw, slice(y1, y2), slice(x1, x2))
    origin, side = (box_xyxy[:2] + _NUDGE) / size_wh, (box_xyxy[2:] - box_xyxy[:2]) / size_wh
    return {**fields, "bounding_box": [*origin.tolist(), *side.tolist()]}


def _pixels_around(box: tuple[float, ...], mask_xywh: tuple[int, int, int, int]) -> npt.NDArray[np.int64]:
    """Whole pixels, xyxy, that hold a box and its mask, which may reach a pixel beyond it."""
    x1, y1, x2, y2 = box
    around = np.array([np.floor(x1), np.floor(y1), np.ceil(x2), np.ceil(y2)], np.int64)
    x, y, w, h = mask_xywh
    if w:
        around = np.concatenate((np.minimum(around[:2], (x, y)), np.maximum(around[2:], (x + w, y + h))))
    return around


def _has_no_masks(prediction: Prediction) -> bool:
    return len(prediction) > 0 and all(one.encoded_mask is None for one in prediction)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise MissingExtraError(f"to_{name}()", name) from error
