"""Region proposal network: its head, and the proposals chosen from what it puts out.

Shapes: N images, A anchors over all levels, L levels, K proposals an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

from export.model.boxes import clip, decode
from export.model.config import RpnConfig
from export.model.nms import nms

NO_SCORE = float("-inf")
"""Marks a candidate that must not be chosen."""

LOWEST_SCORE = -1e30
"""Below every real logit or probability, above `NO_SCORE`."""


class RpnOutput(NamedTuple):
    """What the head says of every anchor, ordered by level, row, column, cell."""

    logits: Tensor
    """[N, A], or [N, A, 2] (background, foreground) for the softmax form."""
    deltas: Tensor
    """[N, A, 4] (dx, dy, dw, dh), in units of `RpnConfig.box_std`."""
    level_counts: list[int]
    """Anchors of each level; their sum is A."""


class Proposals(NamedTuple):
    """RoIs of each image by falling score, padded with zero boxes."""

    boxes: Tensor
    """[N, K, 4] in canvas pixels."""
    scores: Tensor
    """[N, K] probabilities."""
    valid: Tensor
    """[N, K] bool."""


class _Candidates(NamedTuple):
    """What NMS chooses from, C an image."""

    boxes: Tensor
    """[N, C, 4], not clipped."""
    scores: Tensor
    """[N, C]."""
    groups: Tensor
    """int64 [C]."""
    limit: int
    """How many of an image's best may take part; 0: all."""


class RpnHead(nn.Module):
    """3x3 convolutions shared by the levels, then 1x1 convolutions for objectness and deltas."""

    def __init__(self, in_channels: int, config: RpnConfig) -> None:
        super().__init__()
        cells = len(config.cells[0])
        self.logits_per_cell = 2 if config.objectness == "softmax" else 1
        widths = [in_channels, *[config.channels] * config.conv_depth]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.logits = nn.Conv2d(config.channels, cells * self.logits_per_cell, 1)
        self.deltas = nn.Conv2d(config.channels, cells * 4, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> RpnOutput:
        """From P2..P6 [N, C, Hl, Wl]."""
        logits, deltas = [], []
        for x in pyramid:
            for conv in self.convs:
                x = F.relu(conv(x))
            logits.append(_by_anchor(self.logits(x), self.logits_per_cell))
            deltas.append(_by_anchor(self.deltas(x), 4))
        counts = [level.shape[1] for level in deltas]
        joined = torch.cat(logits, dim=1)
        return RpnOutput(joined.squeeze(-1) if self.logits_per_cell == 1 else joined, torch.cat(deltas, dim=1), counts)


def propose(
    output: RpnOutput,
    anchors: Tensor,
    windows: Tensor,
    config: RpnConfig,
    *,
    post_nms_topk: int | None = None,
    pre_nms_topk: int | None = None,
) -> Proposals:
    """The best proposals of each image: top-k, decode, clip to `windows` [N, 4], drop small ones, NMS.

    `anchors` [A, 4] and the windows are in the model's frame. Top-k and NMS work a level at a time or on all levels
    together (`RpnConfig.selection`); the limits are the configuration's unless given.
    """
    post = post_nms_topk or config.post_nms_topk
    found, scores, groups, limit = _candidates(output, anchors, config, pre_nms_topk or config.pre_nms_topk)
    boxes = clip(found, windows)
    if config.min_size is not None:
        scores = torch.where(_large_enough(boxes, config), scores, NO_SCORE)
    kept = nms(boxes, scores, groups.expand_as(scores), config.nms_iou_threshold, LOWEST_SCORE, post, limit)
    chosen, valid = dense(kept, boxes.shape[0], post)
    kept_boxes = torch.gather(boxes, 1, chosen[..., None].expand(-1, -1, 4)) * valid[..., None]
    kept_scores = torch.gather(scores, 1, chosen)
    if config.objectness == "sigmoid":
        kept_scores = kept_scores.sigmoid()
    return Proposals(kept_boxes, torch.where(valid, kept_scores, 0.0), valid)


def dense(rows: Tensor, images: int, size: int) -> tuple[Tensor, Tensor]:
    """Rows (image, index) [M, 2] of `nms` as a table: indices [images, size] (0 where unused) and bool of the same
    shape. Rows are grouped by image, each image's rows with index -1 after its others."""
    image = torch.arange(images, device=rows.device)[:, None]
    first = (rows[None, :, 0] < image).sum(dim=1, keepdim=True)
    end = (rows[None, :, 0] <= image).sum(dim=1, keepdim=True)
    position = first + torch.arange(size, device=rows.device)
    index = rows[:, 1][torch.minimum(position, end[-1] - 1)]
    valid = (position < end) & (index >= 0)
    return torch.where(valid, index, 0), valid


def _by_anchor(x: Tensor, values: int) -> Tensor:
    """[N, cells * values, H, W] -> [N, H * W * cells, values]."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, values)


def _candidates(output: RpnOutput, anchors: Tensor, config: RpnConfig, pre_nms_topk: int) -> _Candidates:
    """The best anchors of each level or of all levels, or all where NMS limits itself; decoded."""
    ranked = output.logits.softmax(dim=-1)[..., 1] if config.objectness == "softmax" else output.logits
    if nms_limits_itself(config):
        boxes = decode(output.deltas, anchors, config.box_std, config.delta_clamp)
        return _Candidates(boxes, ranked, torch.zeros_like(ranked[0], dtype=torch.int64), pre_nms_topk)
    counts = output.level_counts if config.selection == "per_level" else [sum(output.level_counts)]
    scores, index, groups = _topk_by_level(ranked, counts, pre_nms_topk)
    deltas = torch.gather(output.deltas, 1, index[..., None].expand(-1, -1, 4))
    return _Candidates(decode(deltas, anchors[index], config.box_std, config.delta_clamp), scores, groups, 0)


def nms_limits_itself(config: RpnConfig) -> bool:
    """Whether NMS gets all anchors and chooses the best itself: Matterport's 6000 are beyond TensorRT's TopK.

    Where small boxes are dropped it cannot: that comes between the choice and NMS.
    """
    return config.selection == "joint" and config.min_size is None


def _topk_by_level(ranked: Tensor, counts: Sequence[int], pre_nms_topk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores and anchor indices [N, k * levels] of the best k of each level in `ranked` [N, A], and their levels."""
    scores_by_level, index_by_level, start = [], [], 0
    for level in torch.split(ranked, list(counts), dim=1):
        scores, index = _padded_topk(level, pre_nms_topk)
        scores_by_level.append(scores)
        index_by_level.append(index + start)
        start = start + level.shape[1]
    levels = torch.arange(len(scores_by_level), device=ranked.device).repeat_interleave(pre_nms_topk)
    return torch.cat(scores_by_level, dim=1), torch.cat(index_by_level, dim=1), levels


def _padded_topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The top k of scores [N, A], ties by the lower index; `NO_SCORE` at index 0 where A < k.

    Padding instead of min(k, A) keeps every later shape fixed, whatever the size of the canvas.
    """
    padded = F.pad(scores, (0, k), value=NO_SCORE)
    if torch.compiler.is_exporting():
        # ONNX's and TensorRT's TopK break ties as we want; torch's breaks them at random.
        top, index = torch.topk(padded, k, dim=1)
    else:
        everything = torch.sort(padded, dim=1, descending=True, stable=True)
        top, index = everything.values[:, :k], everything.indices[:, :k]
    return top, torch.where(index < scores.shape[1], index, 0)


def _large_enough(boxes: Tensor, config: RpnConfig) -> Tensor:
    sides = boxes[..., 2:] - boxes[..., :2]
    limit = config.min_size or 0.0
    return (sides >= limit if config.min_size_inclusive else sides > limit).all(dim=-1)
