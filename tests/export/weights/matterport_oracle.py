"""Matterport's inference once more, from its description alone: one picture, the file's own names and layouts.

Boxes are normalised (y1, x1, y2, x2), deltas (dy, dx, dh, dw), maps and kernels channels last; `values` are those of
its `Config`. Source: matterport/Mask_RCNN, `mrcnn/model.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it

Array = npt.NDArray[Any]
Weights = Mapping[str, Array]

# Layers


def conv(weights: Weights, layer: str, maps: Array, stride: int = 1, *, same: bool = False) -> Array:
    """Keras's Conv2D on [N, H, W, C]; `same` keeps the size of an odd kernel's input."""
    kernel = torch.from_numpy(weights[f"{layer}/kernel"].transpose(3, 2, 0, 1).copy())
    padding = kernel.shape[-1] // 2 if same else 0
    x = torch.from_numpy(maps.transpose(0, 3, 1, 2).copy())
    out = F.conv2d(x, kernel, torch.from_numpy(weights[f"{layer}/bias"]), stride, padding)
    return np.ascontiguousarray(out.numpy().transpose(0, 2, 3, 1))


def batch_norm(weights: Weights, layer: str, x: Array) -> Array:
    mean, variance = weights[f"{layer}/moving_mean"], weights[f"{layer}/moving_variance"]
    normal = (x - mean) / np.sqrt(variance + np.float32(1e-3))
    return normal * weights[f"{layer}/gamma"] + weights[f"{layer}/beta"]


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def dense(weights: Weights, layer: str, x: Array) -> Array:
    out: Array = x @ weights[f"{layer}/kernel"] + weights[f"{layer}/bias"]
    return out


def softmax(x: Array) -> Array:
    parts = np.exp(x - x.max(-1, keepdims=True))
    shares: Array = parts / parts.sum(-1, keepdims=True)
    return shares


# The stages


def pyramid(weights: Weights, molded: Array) -> list[Array]:
    """P2..P6 [1, h, w, C] of a canvas [H, W, 3] with its mean taken off."""
    x = np.pad(molded[None], ((0, 0), (3, 3), (3, 3), (0, 0)))
    x = relu(batch_norm(weights, "bn_conv1", conv(weights, "conv1", x, 2)))
    x = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=-np.inf)
    rows, columns = x.shape[1] // 2, x.shape[2] // 2
    x = np.max([x[:, i : i + 2 * rows : 2, j : j + 2 * columns : 2] for i in range(3) for j in range(3)], axis=0)
    stages = []
    for stage in "2345":
        letters = sorted({name[4] for name in weights if name.startswith(f"res{stage}")})
        for letter in letters:
            x = _bottleneck(weights, f"{stage}{letter}_branch", x, 2 if letter == "a" and stage != "2" else 1)
        stages.append(x)
    c2, c3, c4, c5 = stages
    merged = conv(weights, "fpn_c5p5", c5)
    levels = [conv(weights, "fpn_p5", merged, same=True)]
    for level, c in ((4, c4), (3, c3), (2, c2)):
        merged = merged.repeat(2, axis=1).repeat(2, axis=2) + conv(weights, f"fpn_c{level}p{level}", c)
        levels.insert(0, conv(weights, f"fpn_p{level}", merged, same=True))
    return [*levels, levels[-1][:, ::2, ::2]]


def _bottleneck(weights: Weights, name: str, x: Array, stride: int) -> Array:
    y = relu(batch_norm(weights, f"bn{name}2a", conv(weights, f"res{name}2a", x, stride)))
    y = relu(batch_norm(weights, f"bn{name}2b", conv(weights, f"res{name}2b", y, same=True)))
    y = batch_norm(weights, f"bn{name}2c", conv(weights, f"res{name}2c", y))
    if f"res{name}1/kernel" in weights:
        x = batch_norm(weights, f"bn{name}1", conv(weights, f"res{name}1", x, stride))
    return relu(x + y)


def rpn(weights: Weights, levels: list[Array]) -> tuple[Array, Array]:
    """Probabilities [A, 2] (background, foreground) and deltas [A, 4]."""
    probabilities, deltas = [], []
    for level in levels:
        shared = relu(conv(weights, "rpn_conv_shared", level, same=True))
        probabilities.append(softmax(conv(weights, "rpn_class_raw", shared).reshape(-1, 2)))
        deltas.append(conv(weights, "rpn_bbox_pred", shared).reshape(-1, 4))
    return np.concatenate(probabilities), np.concatenate(deltas)


def anchors(values: Mapping[str, Any], height: int, width: int) -> Array:
    boxes = []
    for scale, stride in zip(values["RPN_ANCHOR_SCALES"], (4, 8, 16, 32, 64), strict=True):
        for y in range(0, height, stride):
            for x in range(0, width, stride):
                for ratio in values["RPN_ANCHOR_RATIOS"]:
                    h, w = scale / np.sqrt(ratio), scale * np.sqrt(ratio)
                    boxes.append((y - h / 2, x - w / 2, y + h / 2, x + w / 2))
    return normalised(np.array(boxes), height, width)


def normalised(boxes: Array, height: int, width: int) -> Array:
    """From pixels with exclusive y2, x2."""
    sides = np.array([height - 1, width - 1, height - 1, width - 1])
    out: Array = ((boxes - np.array([0, 0, 1, 1])) / sides).astype(np.float32)
    return out


def moved(boxes: Array, deltas: Array, window: Array) -> Array:
    """Boxes after their deltas, inside the window."""
    h, w = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    y, x = boxes[:, 0] + 0.5 * h + deltas[:, 0] * h, boxes[:, 1] + 0.5 * w + deltas[:, 1] * w
    h, w = h * np.exp(deltas[:, 2]), w * np.exp(deltas[:, 3])
    corners = np.stack((y - 0.5 * h, x - 0.5 * w, y + 0.5 * h, x + 0.5 * w), axis=1)
    inside: Array = np.clip(corners, np.tile(window[:2], 2), np.tile(window[2:], 2)).astype(np.float32)
    return inside


def nms(boxes: Array, scores: Array, threshold: float, limit: int) -> list[int]:
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if len(kept) < limit and all(_iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(int(i))
    return kept


def _iou(a: Array, b: Array) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inter = float(np.prod(np.maximum(high - low, 0)))
    union = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - inter
    return inter / union if union > 0 else 0.0


def proposals(values: Mapping[str, Any], probabilities: Array, deltas: Array, boxes: Array) -> Array:
    """All that there are, of all levels together."""
    scores = probabilities[:, 1]
    best = np.argsort(-scores, kind="stable")[: values["PRE_NMS_LIMIT"]]
    window = np.array([0, 0, 1, 1], np.float32)
    found = moved(boxes[best], deltas[best] * np.array(values["RPN_BBOX_STD_DEV"], np.float32), window)
    return found[nms(found, scores[best], values["RPN_NMS_THRESHOLD"], values["POST_NMS_ROIS_INFERENCE"])]


def roi_features(levels: list[Array], boxes: Array, size: int, height: int, width: int) -> Array:
    """[R, size, size, C], each from the level of P2..P5 that fits it; a grid of single samples with the corners."""
    out = []
    for box in boxes:
        side = np.sqrt((box[2] - box[0]) * (box[3] - box[1])) * np.sqrt(height * width) / 224
        level = int(np.clip(4 + np.round(np.log2(max(side, 1e-9))), 2, 5))
        out.append(_crop(levels[level - 2][0], box.astype(np.float64), size))
    return np.stack(out)


def _crop(grid: Array, box: Array, size: int) -> Array:
    height, width = grid.shape[:2]
    padded = np.pad(grid, ((0, 1), (0, 1), (0, 0)))  # a last sample on the border reads the zeros times zero
    ys = np.linspace(box[0], box[2], size) * (height - 1)
    xs = np.linspace(box[1], box[3], size) * (width - 1)
    out = np.zeros((size, size, grid.shape[2]), np.float32)
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            if 0 <= y <= height - 1 and 0 <= x <= width - 1:
                top, left = int(y), int(x)
                v, u = y - top, x - left
                above = padded[top, left] * (1 - u) + padded[top, left + 1] * u
                below = padded[top + 1, left] * (1 - u) + padded[top + 1, left + 1] * u
                out[i, j] = above * (1 - v) + below * v
    return out


def classify(weights: Weights, features: Array) -> tuple[Array, Array]:
    """Class logits [R, K] and deltas [R, K, 4] from features [R, P, P, C]."""
    x = relu(batch_norm(weights, "mrcnn_class_bn1", conv(weights, "mrcnn_class_conv1", features)))
    x = relu(batch_norm(weights, "mrcnn_class_bn2", conv(weights, "mrcnn_class_conv2", x)))[:, 0, 0]
    return dense(weights, "mrcnn_class_logits", x), dense(weights, "mrcnn_bbox_fc", x).reshape(len(x), -1, 4)


def detections(values: Mapping[str, Any], rois: Array, logits: Array, deltas: Array, window: Array) -> Array:
    """Rows (y1, x1, y2, x2, class, score) by falling score; the window is normalised."""
    probabilities = softmax(logits)
    classes, scores = probabilities.argmax(1), probabilities.max(1)
    chosen = deltas[np.arange(len(rois)), classes] * np.array(values["BBOX_STD_DEV"], np.float32)
    boxes = moved(rois, chosen, window)
    kept: list[int] = []
    for class_id in range(1, logits.shape[1]):
        rows = np.flatnonzero((classes == class_id) & (scores >= values["DETECTION_MIN_CONFIDENCE"]))
        most = values["DETECTION_MAX_INSTANCES"]
        kept += [int(rows[i]) for i in nms(boxes[rows], scores[rows], values["DETECTION_NMS_THRESHOLD"], most)]
    kept = sorted(kept, key=lambda i: (-scores[i], i))[: values["DETECTION_MAX_INSTANCES"]]
    return np.concatenate((boxes[kept], classes[kept, None], scores[kept, None]), axis=1)


def masks(weights: Weights, features: Array) -> Array:
    """Probabilities [D, S, S, K] from features [D, P, P, C]."""
    x = features
    for i in range(1, 5):
        x = relu(batch_norm(weights, f"mrcnn_mask_bn{i}", conv(weights, f"mrcnn_mask_conv{i}", x, same=True)))
    count, side = x.shape[:2]
    # Every input pixel makes 2x2 outputs of its own; the kernel is [2, 2, out, in].
    blocks = np.einsum("nyxi,abji->nyaxbj", x, weights["mrcnn_mask_deconv/kernel"], optimize=True)
    x = relu(blocks.reshape(count, 2 * side, 2 * side, -1) + weights["mrcnn_mask_deconv/bias"])
    return 1 / (1 + np.exp(-conv(weights, "mrcnn_mask", x)))
