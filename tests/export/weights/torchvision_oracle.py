"""torchvision's Mask R-CNN once more, from a file's tensors by their names: plain functions, boxes in loops.

Shares no code with the importer or the model. One picture at a time; float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Rules:
    """The builder's arguments that the tests set, and BatchNorm's epsilon."""

    eps: float
    min_size: int
    max_size: int
    sizes: Sequence[Sequence[float]] = ((32,), (64,), (128,), (256,), (512,))
    ratios: Sequence[float] = (0.5, 1.0, 2.0)
    rpn_top_n: tuple[int, int] = (1000, 1000)
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    detections: int = 100


@dataclass(frozen=True)
class Stages:
    image: Tensor
    pyramid: list[Tensor]
    rpn_logits: Tensor
    rpn_deltas: Tensor
    anchors: Tensor
    proposals: Tensor
    class_logits: Tensor
    deltas: Tensor
    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor


def run(t: Tensors, picture: Tensor, rules: Rules) -> Stages:
    """All stages for a picture uint8 [h, w, 3]; boxes are in the resized picture."""
    image, size_hw = _transform(picture, rules)
    pyramid = _pyramid(t, _body(t, image, rules.eps), rules.eps)
    outputs = [_rpn_head(t, level) for level in pyramid]
    anchors = [_anchors(level, image, sizes, rules.ratios) for level, sizes in zip(pyramid, rules.sizes, strict=True)]
    proposals = _propose(outputs, anchors, size_hw, *rules.rpn_top_n)
    features = torch.stack([_roi_align(pyramid, box, 7) for box in proposals])
    class_logits, deltas = _box_head(t, features, rules.eps)
    boxes, labels, scores = _detect(proposals, class_logits, deltas, size_hw, rules)
    masks = _masks(t, torch.stack([_roi_align(pyramid, box, 14) for box in boxes]), labels, rules.eps)
    logits, rpn_deltas = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    return Stages(
        image,
        pyramid,
        logits,
        rpn_deltas,
        torch.cat(anchors),
        proposals,
        class_logits,
        deltas,
        boxes,
        labels,
        scores,
        masks,
    )


def _transform(picture: Tensor, rules: Rules) -> tuple[Tensor, tuple[int, int]]:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = ((picture / 255 - mean) / std).permute(2, 0, 1)[None]
    h, w = picture.shape[:2]
    scale = min(rules.min_size / min(h, w), rules.max_size / max(h, w))
    size = math.floor(h * scale), math.floor(w * scale)
    resized = F.interpolate(normal, size, mode="bilinear", align_corners=False)
    return F.pad(resized, (0, -size[1] % 32, 0, -size[0] % 32)), size


def _conv(t: Tensors, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = t[f"{name}.weight"]
    return F.conv2d(x, weight, t.get(f"{name}.bias"), stride, weight.shape[-1] // 2)


def _norm(t: Tensors, name: str, x: Tensor, eps: float) -> Tensor:
    mean, var, weight, bias = (
        t[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + eps) * weight + bias


def _conv_norm(t: Tensors, name: str, x: Tensor, eps: float) -> Tensor:
    """A numbered pair, of which the norm may be missing."""
    x = _conv(t, f"{name}.0", x)
    return _norm(t, f"{name}.1", x, eps) if f"{name}.1.weight" in t else x


def _body(t: Tensors, x: Tensor, eps: float) -> list[Tensor]:
    root = "backbone.body"
    x = F.max_pool2d(_norm(t, f"{root}.bn1", _conv(t, f"{root}.conv1", x, 2), eps).relu(), 3, 2, 1)
    outputs = []
    for layer in (1, 2, 3, 4):
        block = 0
        while f"{root}.layer{layer}.{block}.conv1.weight" in t:
            x = _block(t, f"{root}.layer{layer}.{block}", x, 2 if layer > 1 and block == 0 else 1, eps)
            block += 1
        outputs.append(x)
    return outputs


def _block(t: Tensors, name: str, x: Tensor, stride: int, eps: float) -> Tensor:
    """The stride is in the first 3x3 convolution."""
    shortcut = x
    if f"{name}.downsample.0.weight" in t:
        shortcut = _norm(t, f"{name}.downsample.1", _conv(t, f"{name}.downsample.0", x, stride), eps)
    last = 3 if f"{name}.conv3.weight" in t else 2
    strided = 2 if last == 3 else 1
    for i in range(1, last + 1):
        x = _norm(t, f"{name}.bn{i}", _conv(t, f"{name}.conv{i}", x, stride if i == strided else 1), eps)
        x = (x + shortcut if i == last else x).relu()
    return x


def _pyramid(t: Tensors, stages: list[Tensor], eps: float) -> list[Tensor]:
    above: Tensor | None = None
    levels: list[Tensor] = []
    for i in (3, 2, 1, 0):
        merged = _conv_norm(t, f"backbone.fpn.inner_blocks.{i}", stages[i], eps)
        if above is not None:
            merged = merged + above.repeat_interleave(2, 2).repeat_interleave(2, 3)
        above = merged
        levels.insert(0, _conv_norm(t, f"backbone.fpn.layer_blocks.{i}", merged, eps))
    return [*levels, levels[3][:, :, ::2, ::2]]


def _rpn_head(t: Tensors, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [A] and deltas [A, 4] of a level, by row, column, anchor."""
    i = 0
    while f"rpn.head.conv.{i}.0.weight" in t:
        x = _conv(t, f"rpn.head.conv.{i}.0", x).relu()
        i += 1
    logits, deltas = _conv(t, "rpn.head.cls_logits", x)[0], _conv(t, "rpn.head.bbox_pred", x)[0]
    return logits.permute(1, 2, 0).reshape(-1), deltas.permute(1, 2, 0).reshape(-1, 4)


def _anchors(level: Tensor, image: Tensor, sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    rows, columns = level.shape[2:]
    step_y, step_x = image.shape[2] // rows, image.shape[3] // columns
    boxes = []
    for y in range(rows):
        for x in range(columns):
            for ratio in ratios:
                for size in sizes:
                    half_w, half_h = round(size / math.sqrt(ratio) / 2), round(size * math.sqrt(ratio) / 2)
                    cx, cy = x * step_x, y * step_y
                    boxes.append([cx - half_w, cy - half_h, cx + half_w, cy + half_h])
    return torch.tensor(boxes, dtype=torch.float32)


def _decode(deltas: Tensor, boxes: Tensor, weights: Sequence[float], size_hw: tuple[int, int]) -> Tensor:
    """Clipped to the resized picture."""
    dx, dy, dw, dh = (deltas[:, i] / weights[i] for i in range(4))
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    cx, cy = boxes[:, 0] + w / 2 + dx * w, boxes[:, 1] + h / 2 + dy * h
    limit = math.log(1000 / 16)
    half_w, half_h = w * dw.clamp(max=limit).exp() / 2, h * dh.clamp(max=limit).exp() / 2
    xs, ys = torch.stack((cx - half_w, cx + half_w)), torch.stack((cy - half_h, cy + half_h))
    xs, ys = xs.clamp(0, size_hw[1]), ys.clamp(0, size_hw[0])
    return torch.stack((xs[0], ys[0], xs[1], ys[1]), dim=1)


def _nms(boxes: Tensor, scores: Tensor, limit: float) -> list[int]:
    kept: list[int] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if all(_iou(boxes[i].tolist(), boxes[j].tolist()) <= limit for j in kept):
            kept.append(i)
    return kept


def _iou(a: list[float], b: list[float]) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(w, 0) * max(h, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def _propose(
    outputs: list[tuple[Tensor, Tensor]], anchors: list[Tensor], size_hw: tuple[int, int], before: int, after: int
) -> Tensor:
    found: list[tuple[float, Tensor]] = []
    for (logits, deltas), level in zip(outputs, anchors, strict=True):
        top = logits.argsort(descending=True, stable=True)[:before]
        boxes, scores = _decode(deltas[top], level[top], (1, 1, 1, 1), size_hw), logits[top].sigmoid()
        large = ((boxes[:, 2:] - boxes[:, :2]) >= 1e-3).all(dim=1)
        boxes, scores = boxes[large], scores[large]
        found += [(scores[i].item(), boxes[i]) for i in _nms(boxes, scores, 0.7)]
    found.sort(key=lambda pair: -pair[0])
    return torch.stack([box for _, box in found[:after]])


def _roi_align(pyramid: list[Tensor], box: Tensor, bins: int) -> Tensor:
    """Four samples a bin, from the level 2 to 5 that fits the box: [C, bins, bins]."""
    x1, y1, x2, y2 = box.tolist()
    level = min(max(math.floor(4 + math.log2(math.sqrt((x2 - x1) * (y2 - y1)) / 224) + 1e-6), 2), 5)
    features, scale = pyramid[level - 2][0], 2.0**-level
    side_x, side_y = max((x2 - x1) * scale, 1.0) / bins, max((y2 - y1) * scale, 1.0) / bins
    steps = (torch.arange(2 * bins) + 0.5) / 2
    rows = _interpolation(y1 * scale + steps * side_y, features.shape[1])
    columns = _interpolation(x1 * scale + steps * side_x, features.shape[2])
    samples = rows @ features @ columns.T
    return F.avg_pool2d(samples[None], 2)[0]


def _interpolation(positions: Tensor, side: int) -> Tensor:
    """Weights [positions, side]: linear between pixels, the border's beyond it, nothing from one pixel outside."""
    inside = ((positions >= -1) & (positions <= side)).float()
    distances = (positions.clamp(0, side - 1)[:, None] - torch.arange(side)).abs()
    return (1 - distances).clamp(min=0) * inside[:, None]


def _box_head(t: Tensors, x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Class logits [R, K] and deltas [R, K, 4]."""
    root, i = "roi_heads.box_head", 0
    while f"{root}.{i}.0.weight" in t:
        x = _conv_norm(t, f"{root}.{i}", x, eps).relu()
        i += 1
    x = x.flatten(1)
    for name in (f"{root}.fc6", f"{root}.fc7", f"{root}.{i + 1}", f"{root}.{i + 3}"):
        if f"{name}.weight" in t:
            x = (x @ t[f"{name}.weight"].T + t[f"{name}.bias"]).relu()
    logits, deltas = (
        x @ t[f"roi_heads.box_predictor.{name}.weight"].T + t[f"roi_heads.box_predictor.{name}.bias"]
        for name in ("cls_score", "bbox_pred")
    )
    return logits, deltas.reshape(len(x), -1, 4)


def _detect(
    proposals: Tensor, logits: Tensor, deltas: Tensor, size_hw: tuple[int, int], rules: Rules
) -> tuple[Tensor, Tensor, Tensor]:
    found: list[tuple[float, int, Tensor]] = []
    probabilities = logits.softmax(dim=1)
    for label in range(1, logits.shape[1]):
        boxes, scores = _decode(deltas[:, label], proposals, rules.box_weights, size_hw), probabilities[:, label]
        wanted = (scores > 0.05) & ((boxes[:, 2:] - boxes[:, :2]) >= 1e-2).all(dim=1)
        boxes, scores = boxes[wanted], scores[wanted]
        found += [(scores[i].item(), label, boxes[i]) for i in _nms(boxes, scores, 0.5)]
    found.sort(key=lambda triple: -triple[0])
    best = found[: rules.detections]
    return torch.stack([f[2] for f in best]), torch.tensor([f[1] for f in best]), torch.tensor([f[0] for f in best])


def _masks(t: Tensors, x: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Probabilities [D, 28, 28] of each detection's class."""
    root, i = "roi_heads.mask_head", 0
    while f"{root}.{i}.0.weight" in t:
        x = _conv_norm(t, f"{root}.{i}", x, eps).relu()
        i += 1
    predictor = "roi_heads.mask_predictor"
    x = F.conv_transpose2d(x, t[f"{predictor}.conv5_mask.weight"], t[f"{predictor}.conv5_mask.bias"], 2).relu()
    masks: Tensor = _conv(t, f"{predictor}.mask_fcn_logits", x).sigmoid()[torch.arange(len(labels)), labels]
    return masks
