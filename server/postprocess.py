"""From the network's detections to an answer; pure functions on numpy arrays, no mask of the picture's size anywhere.

D: detections of one picture; S: side of the network's masks; h, w: sides of the picture (*image* frame). Boxes are
(x1, y1, x2, y2) in pixels of their frame, x2/y2 exclusive.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from server.contract import card, polygons, rle
from server.contract.errors import BadParameter
from server.contract.wire import (
    Detection,
    ImageResult,
    Mask,
    MaskFormat,
    PngMask,
    PolygonMask,
    PredictOptions,
    RleMask,
    UncompressedRleMask,
)
from server.pasting import PastedMasks, PasteRule, paste
from server.preprocess import Canvas

Floats = npt.NDArray[np.floating]

_BOX_DECIMALS, _SCORE_DECIMALS = 4, 6


@dataclass(frozen=True)
class Selection:
    """Which detections a query wants of this model."""

    score_threshold: float
    max_detections: int
    class_ids: frozenset[int] | None
    """None: all."""


def select(options: PredictOptions, model: card.ModelCard) -> Selection:
    """The query's wishes within the model's limits. Raises `BadParameter` for what this model cannot give."""
    limits = model.output
    wanted = limits.default_score_threshold if options.score_threshold is None else options.score_threshold
    return Selection(
        score_threshold=max(wanted, limits.score_threshold),
        max_detections=min(options.max_detections or limits.max_detections, limits.max_detections),
        class_ids=None if options.classes is None else frozenset(_class_id(c, model.classes) for c in options.classes),
    )


def _class_id(wanted: str, classes: list[str]) -> int:
    if wanted in classes[1:]:
        return classes.index(wanted, 1)
    if wanted.isascii() and wanted.isdecimal() and 0 < int(wanted) < len(classes):
        return int(wanted)
    raise BadParameter(f"classes: the model has no class {wanted!r}.")


def to_image_result(
    detections: Floats, masks: Floats, canvas: Canvas, model: card.ModelCard, options: PredictOptions
) -> ImageResult:
    """The answer for one picture.

    `detections` [D, 7] are the engine's rows of this picture: (image index, x1, y1, x2, y2 in canvas pixels, score,
    class); rows with score 0 are padding. `masks` [D, S, S] are probabilities.
    """
    selection = select(options, model)
    rows = _selected(detections[:, 5], detections[:, 6], selection)
    boxes_image = boxes_to_image(detections[rows, 1:5], canvas, model.output.mask_paste)
    shown = np.round(boxes_image.astype(np.float64), _BOX_DECIMALS)
    kept = (shown[:, 2] > shown[:, 0]) & (shown[:, 3] > shown[:, 1])
    rows, boxes_image, shown = rows[kept], boxes_image[kept], shown[kept]
    pasted = paste(masks[rows], boxes_image, canvas.size_hw, model.output.mask_paste)
    found = [
        Detection((x1, y1, x2, y2), class_id, model.classes[class_id], score, area, mask)
        for (x1, y1, x2, y2), class_id, score, area, mask in zip(
            shown.tolist(),
            detections[rows, 6].astype(int).tolist(),
            np.round(detections[rows, 5].astype(np.float64), _SCORE_DECIMALS).tolist(),
            pasted.areas.tolist(),
            _formatted(pasted, canvas.size_hw, options.mask),
            strict=True,
        )
    ]
    return ImageResult(width=canvas.size_hw[1], height=canvas.size_hw[0], detections=found)


def _selected(scores: Floats, class_ids: Floats, selection: Selection) -> npt.NDArray[np.intp]:
    """Indices of the wanted rows, by falling score."""
    wanted = (scores > 0) & (scores >= np.float32(selection.score_threshold))
    if selection.class_ids is not None:
        wanted &= np.isin(class_ids, list(selection.class_ids))
    rows = np.flatnonzero(wanted)
    return rows[np.argsort(-scores[rows], kind="stable")][: selection.max_detections]


def boxes_to_image(boxes_canvas: Floats, canvas: Canvas, rule: PasteRule) -> npt.NDArray[np.float32]:
    """Boxes [D, 4] of the canvas in the picture, clipped to it, in the float32 arithmetic of the families.

    Matterport's are whole pixels, and its canvas boxes are in corner coordinates (x2/y2 of the last pixel).
    """
    (h, w), (resized_h, resized_w) = canvas.size_hw, canvas.resized_hw
    left, top, _, _ = canvas.window_xyxy
    boxes = boxes_canvas.astype(np.float32) - np.array([left, top, left, top], np.float32)
    old = np.array([resized_w, resized_h, resized_w, resized_h], np.float32)
    new = np.array([w, h, w, h], np.float32)
    if rule == "matterport":
        boxes = np.around(boxes / np.maximum(old - 1, 1) * (new - 1) + np.array([0, 0, 1, 1], np.float32))
    else:
        boxes = boxes * (new / old)
    clipped: npt.NDArray[np.float32] = np.clip(boxes, 0, new)
    return clipped


# Masks


def _formatted(pasted: PastedMasks, size_hw: tuple[int, int], form: MaskFormat) -> list[Mask | None]:
    if form == "none":
        return [None] * len(pasted.areas)
    if form == "rle":
        return [RleMask(size_hw, text) for text in pasted.compressed()]
    if form == "rle_uncompressed":
        return [UncompressedRleMask(size_hw, runs.tolist()) for runs in pasted.runs()]
    if form == "png":
        return [PngMask(size_hw, _png(runs, size_hw)) for runs in pasted.runs()]
    return [PolygonMask("MultiPolygon", size_hw, _coordinates(runs, size_hw)) for runs in pasted.runs()]


def _coordinates(counts: rle.Counts, size_hw: tuple[int, int]) -> list[list[list[list[int]]]]:
    """GeoJSON's: each ring ends where it begins."""
    parts = polygons.from_counts(counts, size_hw)
    return [[[*(corners := ring.tolist()), corners[0]] for ring in rings] for rings in parts]


def _png(counts: rle.Counts, size_hw: tuple[int, int]) -> str:
    """A 1-bit PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(rle.to_mask(counts, size_hw)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
