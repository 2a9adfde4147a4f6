"""From the network's detections to an answer; pure functions on numpy arrays, no mask of the picture's size anywhere.

D: detections of one picture; S: side of the network's masks; h, w: sides of the picture (*image* frame). Boxes are
(x1, y1, x2, y2) in pixels of their frame, x2/y2 exclusive.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Literal

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
from server.preprocess import Canvas

Floats = npt.NDArray[np.floating]
Weights = npt.NDArray[np.float64]
PasteRule = Literal["detectron2", "torchvision", "matterport"]

_THRESHOLD = 0.5
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
    counts = [
        paste_to_rle(mask, box, canvas.size_hw, model.output.mask_paste)
        for mask, box in zip(masks[rows], boxes_image, strict=True)
    ]
    found = [
        Detection((x1, y1, x2, y2), class_id, model.classes[class_id], score, rle.area(runs), mask)
        for (x1, y1, x2, y2), class_id, score, runs, mask in zip(
            shown.tolist(),
            detections[rows, 6].astype(int).tolist(),
            np.round(detections[rows, 5].astype(np.float64), _SCORE_DECIMALS).tolist(),
            counts,
            _formatted(counts, canvas.size_hw, options.mask),
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


def paste_to_rle(mask: Floats, box_image: Floats, size_hw: tuple[int, int], rule: PasteRule) -> rle.Counts:
    """Column-major run lengths of a mask [S, S] of probabilities pasted into its box, where they reach 0.5.

    Equal to the family's own paste into a mask of the picture's size, but only the box is looked at: detectron2
    samples bilinearly at pixel centres with zeros outside the mask, Matterport does the same in whole-pixel boxes but
    never goes below the mask's least value, torchvision pads the mask by one, grows and truncates the box, and repeats
    the border. The box may lie partly or wholly outside the picture.
    """
    h, w = size_hw
    if rule == "torchvision":
        mask = np.pad(mask, 1)
        box = _grown_box(box_image, mask.shape[0])
        xs, along_x = _repeated_weights(box[0], box[2], w, mask.shape[1])
        ys, along_y = _repeated_weights(box[1], box[3], h, mask.shape[0])
    else:
        xs, along_x = _fading_weights(float(box_image[0]), float(box_image[2]), w, mask.shape[1])
        ys, along_y = _fading_weights(float(box_image[1]), float(box_image[3]), h, mask.shape[0])
    columns = along_x @ mask.T.astype(np.float64) @ along_y.T
    if rule == "matterport":
        columns = np.maximum(columns, mask.min())  # scikit-image clips to the range that it was given
    return _crop_to_rle(columns >= _THRESHOLD, xs, ys, size_hw)


def _fading_weights(start: float, stop: float, side: int, size: int) -> tuple[int, Weights]:
    """First pixel of the picture that the box touches, and weights [pixels, S] of the mask's samples along an axis.

    Outside the box the value of a mask that fades to zero stays below one half.
    """
    first = min(max(int(np.floor(start)), 0), side)
    last = max(min(int(np.ceil(stop)), side), first)
    if stop <= start:
        return first, np.zeros((0, size))
    centres = np.arange(first, last) + 0.5
    return first, _hats((centres - start) * (size / (stop - start)) - 0.5, size)


def _repeated_weights(start: int, stop: int, side: int, size: int) -> tuple[int, Weights]:
    """The same for a box of whole pixels, `stop` inclusive, whose border samples are repeated."""
    first = min(max(start, 0), side)
    last = max(min(stop + 1, side), first)
    scale = np.float64(np.float32(size) / np.float32(max(stop - start + 1, 1)))
    positions = ((np.arange(first, last) - start + 0.5) * scale - 0.5).astype(np.float32)  # torch's float32
    return first, _hats(np.clip(positions, 0, size - 1), size)


def _hats(positions: Floats, size: int) -> Weights:
    """Linear interpolation as a matrix [len(positions), size]; zero beyond the ends."""
    weights: Weights = np.maximum(1 - np.abs(positions[:, None] - np.arange(size)), 0)
    return weights


def _grown_box(box_image: Floats, padded_size: int) -> list[int]:
    """torchvision's box for a mask padded by one: grown about its centre in float32, truncated."""
    box = box_image.astype(np.float32)
    half = (box[2:] - box[:2]) * np.float32(0.5) * np.float32(padded_size / (padded_size - 2))
    centre = (box[2:] + box[:2]) * np.float32(0.5)
    grown: list[int] = np.concatenate((centre - half, centre + half)).astype(np.int64).tolist()
    return grown


def _crop_to_rle(columns: npt.NDArray[np.bool_], x: int, y: int, size_hw: tuple[int, int]) -> rle.Counts:
    """Counts of a picture that is empty but for a crop at (x, y), given as its columns [crop w, crop h]."""
    h, w = size_hw
    crop_w, crop_h = columns.shape
    ended = np.zeros((crop_w, crop_h + 1), np.bool_)  # a zero below each column ends its last run
    ended[:, :-1] = columns
    flat = ended.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    column, row = np.divmod(changes, crop_h + 1)
    boundaries = (x + column) * h + y + row
    if crop_h == h:  # runs that touch the bottom go on at the top of the next column
        boundaries = _joined(boundaries)
    return rle.from_boundaries(boundaries, h * w)


def _joined(boundaries: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Drops the ends of runs where the next run starts, and those starts."""
    met = np.flatnonzero(boundaries[1:-1:2] == boundaries[2::2])
    return np.delete(boundaries, np.concatenate((2 * met + 1, 2 * met + 2)))


def _formatted(counts: list[rle.Counts], size_hw: tuple[int, int], form: MaskFormat) -> list[Mask | None]:
    if form == "none":
        return [None] * len(counts)
    if form == "rle_uncompressed":
        return [UncompressedRleMask(size_hw, runs.tolist()) for runs in counts]
    if form == "png":
        return [PngMask(size_hw, _png(runs, size_hw)) for runs in counts]
    if form == "polygon":
        return [PolygonMask("MultiPolygon", size_hw, _coordinates(runs, size_hw)) for runs in counts]
    return [RleMask(size_hw, text) for text in rle.compress_all(counts)]


def _coordinates(counts: rle.Counts, size_hw: tuple[int, int]) -> list[list[list[list[int]]]]:
    """GeoJSON's: each ring ends where it begins."""
    parts = polygons.from_counts(counts, size_hw)
    return [[[*(corners := ring.tolist()), corners[0]] for ring in rings] for rings in parts]


def _png(counts: rle.Counts, size_hw: tuple[int, int]) -> str:
    """A 1-bit PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(rle.to_mask(counts, size_hw)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
