"""detectron2's Mask R-CNN once more, in plain functions on the tensors of its file, by their names there.

Written from a description of detectron2 and sharing no code with `export`: one picture, loops where they are clearest.
Shapes: A anchors, R RoIs, K classes without the background, which is the last of K + 1 class logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

Tensors = Mapping[str, Tensor]
Four = tuple[float, float, float, float]

STRIDES = (4, 8, 16, 32, 64)
LARGEST_LOG_RATIO = math.log(1000 / 16)


@dataclass(frozen=True)
class Rules:
    """What the weights do not hold, by detectron2's defaults for Mask R-CNN with FPN."""

    image_format: str = "BGR"
    pixel_mean: tuple[float, float, float] = (103.53, 116.28, 123.675)
    pixel_std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    stride_in_1x1: bool = True
    sizes: tuple[tuple[float, ...], ...] = ((32,), (64,), (128,), (256,), (512,))
    ratios: tuple[tuple[float, ...], ...] = ((0.5, 1.0, 2.0),) * 5
    offset: float = 0.0
    rpn_weights: Four = (1.0, 1.0, 1.0, 1.0)
    pre_nms_topk: int = 1000
    post_nms_topk: int = 1000
    rpn_nms: float = 0.7
    min_size: float = 0.0
    box_weights: Four = (10.0, 10.0, 5.0, 5.0)
    box_resolution: int = 7
    mask_resolution: int = 14
    sampling_ratio: int = 0
    aligned: bool = True
    score_threshold: float = 0.05
    nms: float = 0.5
    detections: int = 100


class Found(NamedTuple):
    boxes: Tensor
    scores: Tensor
    classes: Tensor


# Layers


def convolution(t: Tensors, name: str, x: Tensor, stride: int = 1) -> Tensor:
    """With its BatchNorm, where it has one; without statistics that is a multiplication and an addition."""
    weight = t[f"{name}.weight"]
    x = F.conv2d(x, weight, t.get(f"{name}.bias"), stride, padding=weight.shape[-1] // 2)
    if f"{name}.norm.weight" not in t:
        return x
    scale, shift = t[f"{name}.norm.weight"], t[f"{name}.norm.bias"]
    mean = t.get(f"{name}.norm.running_mean", torch.zeros_like(scale))
    variance = t.get(f"{name}.norm.running_var", torch.ones_like(scale))
    normal = (x - mean[:, None, None]) / torch.sqrt(variance[:, None, None] + 1e-5)
    return normal * scale[:, None, None] + shift[:, None, None]


def linear(t: Tensors, name: str, x: Tensor) -> Tensor:
    return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]


def numbered(t: Tensors, pattern: str) -> Iterator[str]:
    number = 1
    while f"{pattern}{number}.weight" in t:
        yield f"{pattern}{number}"
        number += 1


# The network


def network_input(picture_rgb: Tensor, canvas_hw: tuple[int, int], rules: Rules) -> Tensor:
    """[1, 3, H, W] from uint8 [h, w, 3], with zeros at the right and the bottom."""
    channels = picture_rgb.permute(2, 0, 1).float()
    if rules.image_format == "BGR":
        channels = channels[[2, 1, 0]]
    mean, std = (torch.tensor(values)[:, None, None] for values in (rules.pixel_mean, rules.pixel_std))
    canvas = torch.zeros(1, 3, *canvas_hw)
    canvas[0, :, : picture_rgb.shape[0], : picture_rgb.shape[1]] = (channels - mean) / std
    return canvas


def body(t: Tensors, x: Tensor, rules: Rules) -> list[Tensor]:
    """C2..C5."""
    x = F.max_pool2d(F.relu(convolution(t, "backbone.bottom_up.stem.conv1", x, 2)), 3, 2, 1)
    stages = []
    for stage in (2, 3, 4, 5):
        block = 0
        while f"backbone.bottom_up.res{stage}.{block}.conv1.weight" in t:
            x = residual(t, f"backbone.bottom_up.res{stage}.{block}", x, 2 if stage > 2 and block == 0 else 1, rules)
            block += 1
        stages.append(x)
    return stages


def residual(t: Tensors, name: str, x: Tensor, stride: int, rules: Rules) -> Tensor:
    shortcut = convolution(t, f"{name}.shortcut", x, stride) if f"{name}.shortcut.weight" in t else x
    if f"{name}.conv3.weight" in t:
        first, second = (stride, 1) if rules.stride_in_1x1 else (1, stride)
        y = F.relu(convolution(t, f"{name}.conv1", x, first))
        y = convolution(t, f"{name}.conv3", F.relu(convolution(t, f"{name}.conv2", y, second)))
    else:
        y = convolution(t, f"{name}.conv2", F.relu(convolution(t, f"{name}.conv1", x, stride)))
    return F.relu(y + shortcut)


def pyramid(t: Tensors, stages: Sequence[Tensor]) -> list[Tensor]:
    """P2..P6."""
    above = convolution(t, "backbone.fpn_lateral5", stages[3])
    levels = [convolution(t, "backbone.fpn_output5", above)]
    for level in (4, 3, 2):
        doubled = above.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        above = convolution(t, f"backbone.fpn_lateral{level}", stages[level - 2]) + doubled
        levels.insert(0, convolution(t, f"backbone.fpn_output{level}", above))
    return [*levels, levels[-1][:, :, ::2, ::2]]


def rpn(t: Tensors, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """For each level logits [A] and deltas [A, 4], by row, column, anchor."""
    head = "proposal_generator.rpn_head"
    hidden = [f"{head}.conv"] if f"{head}.conv.weight" in t else [f"{head}.conv.conv0", f"{head}.conv.conv1"]
    logits, deltas = [], []
    for x in levels:
        for name in hidden:
            x = F.relu(convolution(t, name, x))
        logits.append(convolution(t, f"{head}.objectness_logits", x)[0].permute(1, 2, 0).flatten())
        deltas.append(convolution(t, f"{head}.anchor_deltas", x)[0].permute(1, 2, 0).reshape(-1, 4))
    return logits, deltas


def box_head(t: Tensors, x: Tensor) -> tuple[Tensor, Tensor]:
    """Class logits [R, K + 1] and deltas [R, K, 4]."""
    for name in numbered(t, "roi_heads.box_head.conv"):
        x = F.relu(convolution(t, name, x))
    x = x.flatten(1)
    for name in numbered(t, "roi_heads.box_head.fc"):
        x = F.relu(linear(t, name, x))
    deltas = linear(t, "roi_heads.box_predictor.bbox_pred", x)
    return linear(t, "roi_heads.box_predictor.cls_score", x), deltas.reshape(len(x), -1, 4)


def mask_head(t: Tensors, x: Tensor) -> Tensor:
    """Probabilities [R, K, 2P, 2P]."""
    for name in numbered(t, "roi_heads.mask_head.mask_fcn"):
        x = F.relu(convolution(t, name, x))
    weight, bias = t["roi_heads.mask_head.deconv.weight"], t["roi_heads.mask_head.deconv.bias"]
    x = F.relu(F.conv_transpose2d(x, weight, bias, stride=2))
    return convolution(t, "roi_heads.mask_head.predictor", x).sigmoid()


# Boxes


def anchors(levels: Sequence[Tensor], rules: Rules) -> list[Tensor]:
    """For each level [A, 4], by row, column, size, ratio."""
    found = []
    for x, stride, sizes, ratios in zip(levels, STRIDES, rules.sizes, rules.ratios, strict=True):
        boxes = []
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                centre_x, centre_y = (column + rules.offset) * stride, (row + rules.offset) * stride
                for size in sizes:
                    for ratio in ratios:
                        w = math.sqrt(size * size / ratio)
                        h = ratio * w
                        boxes.append([centre_x - w / 2, centre_y - h / 2, centre_x + w / 2, centre_y + h / 2])
        found.append(torch.tensor(boxes))
    return found


def moved(boxes: Tensor, deltas: Tensor, weights: Four) -> Tensor:
    """Boxes [..., 4] after deltas (dx, dy, dw, dh) that were multiplied by the weights."""
    size = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + size / 2
    scaled = deltas / torch.tensor(weights)
    centre = centre + scaled[..., :2] * size
    size = size * torch.exp(scaled[..., 2:].clamp(max=LARGEST_LOG_RATIO))
    return torch.cat((centre - size / 2, centre + size / 2), dim=-1)


def clipped(boxes: Tensor, picture_hw: tuple[int, int]) -> Tensor:
    height, width = picture_hw
    return torch.stack([side.clamp(0, (width, height)[i % 2]) for i, side in enumerate(boxes.unbind(-1))], dim=-1)


def overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two boxes."""
    w = min(a[2].item(), b[2].item()) - max(a[0].item(), b[0].item())
    h = min(a[3].item(), b[3].item()) - max(a[1].item(), b[1].item())
    shared = max(w, 0.0) * max(h, 0.0)
    areas = [((box[2] - box[0]) * (box[3] - box[1])).item() for box in (a, b)]
    return shared / (sum(areas) - shared) if shared else 0.0


def kept(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    """What survives greedy suppression within equal groups, by falling score."""
    survivors: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(groups[i] != groups[j] or overlap(boxes[i], boxes[j]) <= threshold for j in survivors):
            survivors.append(i)
    return survivors


def proposals(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    picture_hw: tuple[int, int],
    rules: Rules,
) -> Tensor:
    """[R, 4] by falling score."""
    boxes, scores, levels = [], [], []
    for level in range(5):
        top = logits[level].argsort(descending=True)[: rules.pre_nms_topk]
        candidates = clipped(moved(anchors[level][top], deltas[level][top], rules.rpn_weights), picture_hw)
        large = (candidates[:, 2:] - candidates[:, :2]).min(dim=1).values > rules.min_size
        boxes.append(candidates[large])
        scores.append(logits[level][top][large])
        levels.append(torch.full((int(large.sum()),), level))
    every = torch.cat(boxes)
    return every[kept(every, torch.cat(scores), torch.cat(levels), rules.rpn_nms)[: rules.post_nms_topk]]


def detections(boxes: Tensor, logits: Tensor, deltas: Tensor, picture_hw: tuple[int, int], rules: Rules) -> Found:
    """Of RoIs [R, 4]; classes from 0, without the background."""
    probabilities = logits.softmax(dim=1)[:, :-1]
    everywhere = clipped(moved(boxes[:, None], deltas, rules.box_weights), picture_hw)
    roi, classes = (probabilities > rules.score_threshold).nonzero(as_tuple=True)
    candidates, scores = everywhere[roi, classes], probabilities[roi, classes]
    best = kept(candidates, scores, classes, rules.nms)[: rules.detections]
    return Found(candidates[best], scores[best], classes[best])


# RoIAlign


def roi_features(levels: Sequence[Tensor], boxes: Tensor, size: int, rules: Rules) -> Tensor:
    """[R, C, size, size], each from the level that fits its area."""
    pooled = []
    for box in boxes:
        area = ((box[2] - box[0]) * (box[3] - box[1])).item()
        level = min(max(math.floor(4 + math.log2(math.sqrt(area) / 224 + 1e-8)), 2), 5) - 2
        pooled.append(roi_align(levels[level][0], box / STRIDES[level], size, rules))
    return torch.stack(pooled)


def roi_align(x: Tensor, box: Tensor, size: int, rules: Rules) -> Tensor:
    """[C, size, size]: the mean of bilinear samples in each bin of a box in pixels of x [C, H, W]."""
    x1, y1, x2, y2 = (box - 0.5 if rules.aligned else box).tolist()
    w, h = x2 - x1, y2 - y1
    if not rules.aligned:
        w, h = max(w, 1.0), max(h, 1.0)
    down, across = rules.sampling_ratio or math.ceil(h / size), rules.sampling_ratio or math.ceil(w / size)
    rows = interpolation(y1, h, size, down, x.shape[1])
    columns = interpolation(x1, w, size, across, x.shape[2])
    return torch.einsum("ph,chw,qw->cpq", rows, x, columns)


def interpolation(start: float, length: float, size: int, samples: int, side: int) -> Tensor:
    """What each pixel of an axis adds to each bin, [size, side]."""
    weights = torch.zeros(size, side)
    for index in range(size * samples):
        position = start + (index + 0.5) * length / (size * samples)
        if not -1 <= position <= side:
            continue
        position = min(max(position, 0.0), side - 1.0)
        low = int(position)
        weights[index // samples, low] += (1 - position + low) / samples
        if low + 1 < side:
            weights[index // samples, low + 1] += (position - low) / samples
    return weights
