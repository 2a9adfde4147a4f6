"""Non-maximum suppression by group, with the true number of rows as its result.

Shapes: N images, A candidates an image, M kept rows over the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from export.model.boxes import pairwise_iou

_CHUNK = 512
"""Candidates compared at once: bounds the memory however many there are."""


def nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    iou_threshold: float,
    score_threshold: float,
    max_output: int,
    pre_nms_topk: int = 0,
) -> Tensor:
    """Greedy suppression of `boxes` [N, A, 4] by `scores` [N, A] within equal `groups` [N, A] (int64).

    A candidate needs score > `score_threshold`; it falls to an earlier kept box of its group when their IoU >
    `iou_threshold`. Of each image only the `pre_nms_topk` best scores take part, ties by the lower index (0: all do).
    Returns int64 [M, 2] rows (image, index): by image, then falling score, ties by the lower index, at
    most `max_output` an image, and at least one row in all: a lone (0, -1) when nothing is left. During torch.export
    this is the custom operator `maskrcnn::nms`, whose runtimes may also give (image, -1) rows after an image's own.
    """
    if torch.compiler.is_exporting():
        kept: Tensor = torch.ops.maskrcnn.nms(
            boxes, scores, groups, float(iou_threshold), float(score_threshold), max_output, pre_nms_topk
        )
        return kept
    return _nms(boxes, scores, groups, iou_threshold, score_threshold, max_output, pre_nms_topk)


@torch.no_grad()
def _nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    iou_threshold: float,
    score_threshold: float,
    max_output: int,
    pre_nms_topk: int,
) -> Tensor:
    rows = []
    for image in range(boxes.shape[0]):
        candidates = (scores[image] > score_threshold).nonzero()[:, 0]
        order = torch.sort(scores[image, candidates], descending=True, stable=True).indices
        index = candidates[order[: pre_nms_topk or None]]
        kept = index[_greedy(boxes[image, index], groups[image, index], iou_threshold, max_output)]
        rows.append(torch.stack((torch.full_like(kept, image), kept), dim=1))
    found = torch.cat(rows)
    return found if found.shape[0] else found.new_tensor([[0, -1]])


def _greedy(boxes: Tensor, groups: Tensor, iou_threshold: float, max_output: int) -> Tensor:
    """Positions of the kept ones among boxes [A, 4] that are already in falling order of score."""
    kept = torch.zeros(0, dtype=torch.int64, device=boxes.device)
    for start in range(0, boxes.shape[0], _CHUNK):
        if kept.shape[0] >= max_output:
            break
        chunk = torch.arange(start, min(start + _CHUNK, boxes.shape[0]), device=boxes.device)
        free = ~_overlap(boxes, groups, kept, chunk, iou_threshold).any(dim=0)
        chunk = chunk[free]
        kept = torch.cat((kept, chunk[_survivors(_overlap(boxes, groups, chunk, chunk, iou_threshold))]))
    return kept[:max_output]


def _overlap(boxes: Tensor, groups: Tensor, a: Tensor, b: Tensor, iou_threshold: float) -> Tensor:
    """Whether box a[i] would suppress box b[j], [len(a), len(b)]."""
    same_group = groups[a][:, None] == groups[b][None, :]
    return (pairwise_iou(boxes[a], boxes[b]) > iou_threshold) & same_group


def _survivors(overlap: Tensor) -> Tensor:
    """Greedy suppression on a square matrix, as the fixed point of: kept when no earlier kept one overlaps.

    Each round settles at least one more row for good, so that the loop ends at the greedy answer, mostly after a few.
    """
    earlier = overlap.triu(diagonal=1)
    keep = torch.ones(overlap.shape[0], dtype=torch.bool, device=overlap.device)
    while True:
        settled = ~(earlier & keep[:, None]).any(dim=0)
        if torch.equal(settled, keep):
            return keep
        keep = settled


@torch.library.custom_op("maskrcnn::nms", mutates_args=())
def _nms_op(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    iou_threshold: float,
    score_threshold: float,
    max_output: int,
    pre_nms_topk: int = 0,
) -> Tensor:
    return _nms(boxes, scores, groups, iou_threshold, score_threshold, max_output, pre_nms_topk)


@_nms_op.register_fake
def _nms_shape(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    iou_threshold: float,
    score_threshold: float,
    max_output: int,
    pre_nms_topk: int = 0,
) -> Tensor:
    rows = torch.library.get_ctx().new_dynamic_size(min=1)
    return boxes.new_empty((rows, 2), dtype=torch.int64)
