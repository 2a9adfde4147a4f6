"""Detection layer: from the box head's output to the final rows.

Shapes: N images, K proposals an image, C classes with the background, A candidates an image, M detections.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from export.model.boxes import clip, decode
from export.model.config import DetectionConfig, ModelConfig
from export.model.nms import nms
from export.model.rpn import NO_SCORE, Proposals


def detect(class_logits: Tensor, deltas: Tensor, proposals: Proposals, windows: Tensor, config: ModelConfig) -> Tensor:
    """Detections [M, 7] (image, x1, y1, x2, y2, score, class) from class logits [N * K, C] and deltas [N * K, C, 4].

    Boxes are clipped to `windows` [N, 4] and in the model's frame; NMS is by class. A padding row is all zeros but for
    its image.
    """
    rule = config.detection
    batch = proposals.valid.shape[0]
    probabilities = class_logits.softmax(dim=-1)
    anchors = proposals.boxes.reshape(-1, 1, 4)
    boxes = decode(deltas, anchors, config.heads.box_std, config.heads.delta_clamp)
    if rule.candidates == "every_class":
        boxes, scores = boxes[:, 1:], probabilities[:, 1:]
        classes = torch.arange(1, config.num_classes, device=boxes.device).expand(boxes.shape[0], -1)
    else:
        boxes, scores, classes = _best_class(boxes, probabilities)
    scores = torch.where(proposals.valid.reshape(-1, 1), scores, NO_SCORE).reshape(batch, -1)
    boxes = clip(boxes.reshape(batch, -1, 4), windows)
    classes = classes.reshape(batch, -1)
    if rule.min_size is not None:
        large_enough = ((boxes[..., 2:] - boxes[..., :2]) >= rule.min_size).all(dim=-1)
        scores = torch.where(large_enough, scores, NO_SCORE)
    kept = nms(boxes, scores, classes, rule.nms_iou_threshold, _exclusive_threshold(rule), rule.max_detections)
    return _rows(kept, boxes, scores, classes)


def _best_class(boxes: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The most probable class of each RoI alone; none when that is the background: [R, 1, 4], [R, 1], [R, 1]."""
    scores, classes = probabilities.max(dim=1, keepdim=True)
    best = torch.gather(boxes, 1, classes[..., None].expand(-1, -1, 4))
    return best, torch.where(classes > 0, scores, NO_SCORE), classes


def _exclusive_threshold(rule: DetectionConfig) -> float:
    """`nms` asks for score > threshold; for >= it gets the float32 just below."""
    if not rule.score_threshold_inclusive:
        return rule.score_threshold
    return float(np.nextafter(np.float32(rule.score_threshold), np.float32(-np.inf)))


def _rows(kept: Tensor, boxes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
    image, index = kept[:, 0], kept[:, 1].clamp(min=0)
    values = torch.cat(
        (boxes[image, index], scores[image, index][:, None], classes[image, index][:, None].to(boxes.dtype)), dim=1
    )
    values = torch.where(kept[:, 1:2] >= 0, values, 0.0)
    return torch.cat((image[:, None].to(boxes.dtype), values), dim=1)
