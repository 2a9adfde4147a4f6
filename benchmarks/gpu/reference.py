"""What the kernels are to compute, in float64 and as plainly as it can be said. On the CPU, with no code of plugins/.

Shape shorthand: N images, C channels, R RoIs, P output side, A boxes an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Float64 = npt.NDArray[np.float64]


def roi_levels(boxes: Float64, levels: int, rule: str) -> npt.NDArray[np.int64]:
    """The level [R] of each box: 0 is the finest. Areas as the operator compares them: no logarithm."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    limits = (112 * 2.0 ** np.arange(levels - 1)) ** 2 / {"floor": 1, "round": 2}[rule]
    return np.searchsorted(limits, area, side="right").astype(np.int64)


def roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    image_index: Tensor,
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
    rule: str,
) -> Tensor:
    """RoI features [R, C, P, P] in float64 from levels [N, C, H, W] and boxes [R, 4] in canvas pixels.

    Bilinear interpolation and the mean over a bin's samples are linear and separate by axis: a bin's row and column
    weights times the whole map.
    """
    import torch

    corners = boxes.double().numpy()
    result = torch.zeros(len(boxes), features[0].shape[1], output_size, output_size, dtype=torch.float64)
    for i, level in enumerate(roi_levels(corners, len(features), rule)):
        plane = features[level][image_index[i]].double()
        x1, y1, x2, y2 = corners[i] / (4 * 2**level) - (0.5 if aligned else 0)
        columns = _axis_weights(x1, x2, output_size, sampling_ratio, aligned, plane.shape[2])
        rows = _axis_weights(y1, y2, output_size, sampling_ratio, aligned, plane.shape[1])
        result[i] = torch.from_numpy(rows) @ plane @ torch.from_numpy(columns).T
    return result


def _axis_weights(start: float, end: float, bins: int, sampling_ratio: int, aligned: bool, size: int) -> Float64:
    """[P, size]: how much each pixel of an axis counts in each bin."""
    length = end - start if aligned else max(end - start, 1.0)
    samples = sampling_ratio or max(math.ceil(length / bins), 0)
    if samples == 0:
        return np.zeros((bins, size))
    at = start + (np.arange(bins)[:, None] + (np.arange(samples) + 0.5) / samples) * (length / bins)
    inside = (at >= -1) & (at <= size)
    distance = np.abs(np.clip(at, 0, size - 1)[..., None] - np.arange(size))
    weights: Float64 = (np.maximum(0, 1 - distance) * inside[..., None]).mean(axis=1)
    return weights


def nms(
    boxes: npt.NDArray[Any],
    scores: npt.NDArray[Any],
    groups: npt.NDArray[Any],
    iou_threshold: float,
    max_output: int,
    score_threshold: float,
    pre_nms_topk: int,
) -> npt.NDArray[np.int64]:
    """Rows (image, index or -1) [N * max_output, 2] from boxes [N, A, 4], scores [N, A], groups [N, A]."""
    rows = np.full((len(boxes), max_output, 2), -1, np.int64)
    for image in range(len(boxes)):
        rows[image, :, 0] = image
        order = np.argsort(-scores[image].astype(np.float64), kind="stable")
        order = order[scores[image][order] > score_threshold][: pre_nms_topk or None]
        kept = _greedy(boxes[image].astype(np.float64), groups[image], order, np.float32(iou_threshold), max_output)
        rows[image, : len(kept), 1] = kept
    return rows.reshape(-1, 2)


def _greedy(
    boxes: Float64, groups: npt.NDArray[Any], order: npt.NDArray[Any], threshold: np.float32, most: int
) -> list[int]:
    kept: list[int] = []
    while len(order) and len(kept) < most:
        best, order = order[0], order[1:]
        kept.append(int(best))
        # Rounded once, as a float32 quotient of the same numbers is: an overlap at the threshold decides alike.
        overlap = _iou(boxes[best], boxes[order]).astype(np.float32)
        order = order[(groups[order] != groups[best]) | ~(overlap > threshold)]
    return kept


def _iou(box: Float64, others: Float64) -> Float64:
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.maximum(sides, 0).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    quotient: Float64 = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return quotient
