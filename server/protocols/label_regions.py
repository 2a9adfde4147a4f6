"""What Label Studio draws: the regions of one picture, as brush strokes, polygons or rectangles.

Polygons and rectangles are in percent of the picture's sides.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field

from server.contract.wire import Detection, ImageResult
from server.protocols import brush_rle
from server.protocols.label_config import Control, LabelConfig
from server.protocols.objects import counts_of, outline, with_pixels

PERCENT_DECIMALS = 5


class Region(BaseModel):
    """One object, of one control."""

    id: str
    type: Annotated[str, Field(description="brushlabels, polygonlabels or rectanglelabels")]
    from_name: str
    to_name: str
    original_width: int
    original_height: int
    image_rotation: int
    value: dict[str, Any]
    score: float
    readonly: bool


class Prediction(BaseModel):
    """The regions of a task; `score` is the mean of theirs."""

    result: list[Region]
    score: float
    model_version: str


def prediction_of(image: ImageResult, config: LabelConfig, version: str) -> dict[str, Any]:
    """A region for each object and control that has a label for it; objects without pixels are left out."""
    regions = [
        _region(found, image, control, label)
        for control in config.controls
        for found in with_pixels(image)
        if found.score >= (control.score_threshold or 0) and (label := control.label_of(found.class_name))
    ]
    scores = [region["score"] for region in regions]
    return {"result": regions, "score": sum(scores) / max(len(scores), 1), "model_version": version}


def _region(found: Detection, image: ImageResult, control: Control, label: str) -> dict[str, Any]:
    kind = control.kind.lower()
    return {
        "id": uuid.uuid4().hex[:10],
        "type": kind,
        "from_name": control.from_name,
        "to_name": control.to_name,
        "original_width": image.width,
        "original_height": image.height,
        "image_rotation": 0,
        "value": {**_SHAPES[control.kind](found, (image.height, image.width)), kind: [label]},
        "score": found.score,
        "readonly": False,
    }


def _brush(found: Detection, size_hw: tuple[int, int]) -> dict[str, Any]:
    return {"format": "rle", "rle": brush_rle.encode(counts_of(found), size_hw)}


def _polygon(found: Detection, size_hw: tuple[int, int]) -> dict[str, Any]:
    """Of the largest part, without holes: a polygon of Label Studio has one ring."""
    h, w = size_hw
    percent = outline(counts_of(found), size_hw) / np.array([w, h]) * 100
    return {"points": np.round(percent, PERCENT_DECIMALS), "closed": True}


def _rectangle(found: Detection, size_hw: tuple[int, int]) -> dict[str, Any]:
    h, w = size_hw
    x1, y1, x2, y2 = found.box
    sides = {"x": x1 / w, "y": y1 / h, "width": (x2 - x1) / w, "height": (y2 - y1) / h}
    return {**{name: round(side * 100, PERCENT_DECIMALS) for name, side in sides.items()}, "rotation": 0}


_SHAPES = {"BrushLabels": _brush, "PolygonLabels": _polygon, "RectangleLabels": _rectangle}
