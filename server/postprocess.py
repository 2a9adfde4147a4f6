"""From the network's detections to an answer; pure functions on numpy arrays, no mask of the picture's size anywhere.

D: detections of one picture; S: side of the network's masks; h, w: sides of the picture (*image* frame). Boxes are
(x1, y1, x2, y2) in pixels of their frame, x2/y2 exclusive.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from server.contract import card, polygons, rle
from server.contract.errors import BadParameter
from server.contract.wire import (
    Box,
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
from server.pasting import PasteRule, compress, paste
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


@dataclass(frozen=True, slots=True)
class Instance:
    """One object, with its box and mask in the frame of the picture (or tile) that it was found in."""

    box: Box
    class_id: int
    score: float
    counts: rle.Counts


def to_image_result(
    detections: Floats, masks: Floats, canvas: Canvas, model: card.ModelCard, options: PredictOptions
) -> ImageResult:
    """The answer for one picture; see `instances`."""
    found = instances(detections, masks, canvas, model, select(options, model))
    return image_result(found, canvas.size_hw, model, options.mask)


def instances(
    detections: Floats, masks: Floats, canvas: Canvas, model: card.ModelCard, selection: Selection
) -> list[Instance]:
    """The objects of one picture, by falling score.

    `detections` [D, 7] are the engine's rows of this picture: (image index, x1, y1, x2, y2 in canvas pixels, score,
    class); rows with score 0 are padding. `masks` [D, S, S] are probabilities.
    """
    rows = _selected(detections[:, 5], detections[:, 6], selection)
    boxes_image = boxes_to_image(detections[rows, 1:5], canvas, model.output.mask_paste)
    shown = np.round(boxes_image.astype(np.float64), _BOX_DECIMALS)
    kept = (shown[:, 2] > shown[:, 0]) & (shown[:, 3] > shown[:, 1])
    rows, boxes_image, shown = rows[kept], boxes_image[kept], shown[kept]
    counts = paste(masks[rows], boxes_image, canvas.size_hw, model.output.mask_paste)
    return [
        Instance((x1, y1, x2, y2), class_id, score, runs)
        for (x1, y1, x2, y2), class_id, score, runs in zip(
            shown.tolist(),
            detections[rows, 6].astype(int).tolist(),
            np.round(detections[rows, 5].astype(np.float64), _SCORE_DECIMALS).tolist(),
            counts,
            strict=True,
        )
    ]


def image_result(
    found: Sequence[Instance], size_hw: tuple[int, int], model: card.ModelCard, form: MaskFormat
) -> ImageResult:
    """Instances in the frame of their picture, as the answer shows them."""
    masks = _formatted([one.counts for one in found], size_hw, form)
    detections = [
        Detection(one.box, one.class_id, model.classes[one.class_id], one.score, rle.area(one.counts), mask)
        for one, mask in zip(found, masks, strict=True)
    ]
    return ImageResult(width=size_hw[1], height=size_hw[0], detections=detections)


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


def _formatted(counts: list[rle.Counts], size_hw: tuple[int, int], form: MaskFormat) -> list[Mask | None]:
    if form == "none":
        return [None] * len(counts)
    if form == "rle_uncompressed":
        return [UncompressedRleMask(size_hw, runs.tolist()) for runs in counts]
    if form == "png":
        return [PngMask(size_hw, _png(runs, size_hw)) for runs in counts]
    if form == "polygon":
        return [PolygonMask("MultiPolygon", size_hw, _coordinates(runs, size_hw)) for runs in counts]
    return [RleMask(size_hw, text) for text in compress(counts)]


def _coordinates(counts: rle.Counts, size_hw: tuple[int, int]) -> list[list[list[list[int]]]]:
    """GeoJSON's: each ring ends where it begins."""
    parts = polygons.from_counts(counts, size_hw)
    return [[[*(corners := ring.tolist()), corners[0]] for ring in rings] for rings in parts]


def _png(counts: rle.Counts, size_hw: tuple[int, int]) -> str:
    """A 1-bit PNG in base64."""
    h, w = size_hw
    image, file = Image.new("1", (w, h)), io.BytesIO()
    x, y, box_w, box_h = rle.bbox(counts, size_hw)
    if box_w:
        image.paste(Image.fromarray(rle.crop(counts, size_hw, (x, y, x + box_w, y + box_h))), (x, y))
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
