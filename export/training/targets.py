"""What the network should have said: targets for anchors and for RoIs.

Shapes: A anchors, P proposals, G objects, K crowds, R sampled RoIs, S side of a target mask. All boxes are
(x1, y1, x2, y2) in canvas pixels. Random choices come from a generator that the caller seeds an image, so that a
target depends on its image alone, not on the batch or the process it is computed in.
Source: matterport/Mask_RCNN, mrcnn/model.py, `build_rpn_targets` and `DetectionTargetLayer`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from export.model.boxes import encode, pairwise_iou
from export.training.config import TargetConfig

Std = tuple[float, float, float, float]

_TIE = 1e-6
"""IoUs this close are equal; single precision tells symmetric anchors apart by less."""


class ImageObjects(NamedTuple):
    """The ground truth of one image on its canvas."""

    boxes: Tensor
    """[G, 4]"""
    class_ids: Tensor
    """[G], above 0"""
    masks: Tensor
    """[G, m, n] uint8 of 0 and 1"""
    mask_frames: Tensor
    """[G, 4]: the part of the canvas that each array of `masks` covers"""
    crowd_boxes: Tensor
    """[K, 4]"""


class AnchorTargets(NamedTuple):
    labels: Tensor
    """[A]: 1 positive, -1 negative, 0 neutral"""
    deltas: Tensor
    """[A, 4]; zero where not positive"""


class RoiTargets(NamedTuple):
    boxes: Tensor
    """[R, 4], the ones with an object first"""
    class_ids: Tensor
    """[R], 0 for background"""
    deltas: Tensor
    """[R, 4]; zero for background"""
    object_index: Tensor
    """[positives]: which object each of the first rows belongs to"""


def anchor_targets(
    anchors: Tensor, objects: ImageObjects, std: Std, config: TargetConfig, generator: torch.Generator
) -> AnchorTargets:
    """Labels of all anchors [A, 4], sampled to `rpn_anchors_per_image`, and the deltas of the positive ones.

    Positive: IoU of at least `rpn_positive_iou` with an object, or no anchor has a higher IoU with that object (all
    ties, if they overlap it at all). Negative: IoU below `rpn_negative_iou` with every object and clear of
    crowds. Regression goes to the object with the highest IoU.
    """
    labels, matched = _label_anchors(anchors, objects, config)
    limit = int(config.rpn_anchors_per_image * config.rpn_positive_fraction)
    _thin(labels, 1, limit, generator)
    _thin(labels, -1, config.rpn_anchors_per_image - int((labels == 1).sum()), generator)
    deltas = torch.zeros_like(anchors)
    positive = labels == 1
    deltas[positive] = encode(objects.boxes[matched[positive]], anchors[positive], std)
    return AnchorTargets(labels, deltas)


def _label_anchors(anchors: Tensor, objects: ImageObjects, config: TargetConfig) -> tuple[Tensor, Tensor]:
    labels = torch.zeros(len(anchors), dtype=torch.int8, device=anchors.device)
    clear = _clear_of_crowds(anchors, objects.crowd_boxes, config.crowd_iou)
    if len(objects.boxes) == 0:
        labels[clear] = -1
        return labels, torch.zeros_like(labels, dtype=torch.long)
    iou = pairwise_iou(anchors, objects.boxes)
    best, matched = iou.max(1)
    labels[(best < config.rpn_negative_iou) & clear] = -1
    best_for_object = iou.amax(0)
    labels[((iou > best_for_object - _TIE) & (best_for_object > 0)).any(1)] = 1
    labels[best >= config.rpn_positive_iou] = 1
    return labels, matched


def roi_targets(
    proposals: Tensor, objects: ImageObjects, std: Std, config: TargetConfig, generator: torch.Generator
) -> RoiTargets:
    """RoIs sampled from `proposals` [P, 4], about a third of them on objects.

    Positive: IoU of at least `roi_positive_iou` with an object. Negative: below it with every object, and clear of
    crowds. Without any positive there are no RoIs at all, unless `fill_negatives`.
    """
    boxes = torch.cat([proposals, objects.boxes]) if config.append_gt_boxes else proposals
    best, matched = _best_object(boxes, objects.boxes)
    positive = (best >= config.roi_positive_iou).nonzero()[:, 0]
    clear = _clear_of_crowds(boxes, objects.crowd_boxes, config.crowd_iou)
    negative = ((best < config.roi_positive_iou) & clear).nonzero()[:, 0]
    positive = _choose(positive, int(config.rois_per_image * config.roi_positive_fraction), generator)
    negative = _choose(negative, _negative_count(len(positive), config), generator)
    owner = matched[positive]
    chosen = torch.cat([positive, negative])
    class_ids = torch.zeros(len(chosen), dtype=torch.long, device=boxes.device)
    class_ids[: len(positive)] = objects.class_ids[owner]
    deltas = boxes.new_zeros(len(chosen), 4)
    deltas[: len(positive)] = encode(objects.boxes[owner], boxes[positive], std)
    return RoiTargets(boxes[chosen], class_ids, deltas, owner)


def _best_object(boxes: Tensor, object_boxes: Tensor) -> tuple[Tensor, Tensor]:
    if len(object_boxes) == 0:
        return boxes.new_zeros(len(boxes)), torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
    best, matched = pairwise_iou(boxes, object_boxes).max(1)
    return best, matched


def _negative_count(positives: int, config: TargetConfig) -> int:
    if config.fill_negatives:
        return config.rois_per_image - positives
    return int(positives / config.roi_positive_fraction) - positives


def mask_targets(
    masks: Tensor, frames: Tensor, owner: Tensor, boxes: Tensor, size: int, *, corners: bool = False
) -> Tensor:
    """[R, size, size] of 0.0 and 1.0: the object's mask as each RoI sees it.

    `masks` [G, m, n] uint8 over `frames` [G, 4]; `owner` [R] picks the object, `boxes` [R, 4] are the RoIs. The mask
    is sampled bilinearly, zero outside, and rounded half to even. Samples lie in the middle of the RoI's bins, where
    the mask is later pasted from; with `corners` on a grid that includes the RoI's corners and the centres of the
    array's outermost pixels (TensorFlow's crop_and_resize, for models that use it).
    """
    frame, height, width = frames[owner], masks.shape[1], masks.shape[2]
    x = _sample_positions(boxes[:, 0::2], frame[:, 0::2], width, size, corners)
    y = _sample_positions(boxes[:, 1::2], frame[:, 1::2], height, size, corners)
    x0, y0 = x.floor(), y.floor()
    fx, fy = (x - x0)[:, None, :], (y - y0)[:, :, None]
    if corners:
        # crop_and_resize gives zero beyond the outermost pixel centres instead of fading into them.
        outside = ((x < 0) | (x > width - 1))[:, None, :] | ((y < 0) | (y > height - 1))[:, :, None]
    else:
        outside = torch.zeros(len(owner), size, size, dtype=torch.bool, device=masks.device)
    top = _pixel(masks, owner, y0, x0) * (1 - fx) + _pixel(masks, owner, y0, x0 + 1) * fx
    bottom = _pixel(masks, owner, y0 + 1, x0) * (1 - fx) + _pixel(masks, owner, y0 + 1, x0 + 1) * fx
    return (top * (1 - fy) + bottom * fy).masked_fill(outside, 0).round()


def _sample_positions(span: Tensor, frame: Tensor, pixels: int, size: int, corners: bool) -> Tensor:
    """Where a RoI's samples fall along one axis of the array: [R, size], in its pixels, centres at whole numbers."""
    steps = torch.arange(size, device=span.device, dtype=span.dtype)
    part = steps / max(size - 1, 1) if corners else (steps + 0.5) / size
    start, length = frame[:, :1], (frame[:, 1:] - frame[:, :1]).clamp(min=1e-6)
    low, high = (span[:, :1] - start) / length, (span[:, 1:] - start) / length
    along = low + (high - low) * part
    return along * (pixels - 1) if corners else along * pixels - 0.5


def _pixel(masks: Tensor, owner: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Values [R, S, S] at rows `y` [R, S] and columns `x` [R, S]; zero outside."""
    height, width = masks.shape[1:]
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    row, column = y.clamp(0, height - 1).long(), x.clamp(0, width - 1).long()
    return masks[owner[:, None, None], row[:, :, None], column[:, None, :]].float() * inside


def _clear_of_crowds(boxes: Tensor, crowd_boxes: Tensor, crowd_iou: float) -> Tensor:
    if len(crowd_boxes) == 0:
        return torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    return pairwise_iou(boxes, crowd_boxes).amax(1) < crowd_iou


def _choose(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """At most `count` of `rows`, drawn at random."""
    order = torch.randperm(len(rows), generator=generator)[: max(count, 0)]
    return rows[order.to(rows.device)]


def _thin(labels: Tensor, value: int, limit: int, generator: torch.Generator) -> None:
    """Makes neutral, in place, all but `limit` labels of this value."""
    rows = (labels == value).nonzero()[:, 0]
    surplus = len(rows) - limit
    if surplus > 0:
        labels[_choose(rows, surplus, generator)] = 0
