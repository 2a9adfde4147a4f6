"""Boxes as plain tensor functions.

A box is (x1, y1, x2, y2) in pixels; every function also serves corner coordinates (x2, y2 of the last pixel), because
both frames measure a side as x2 - x1. Shapes: N images, A and B boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor

BoxStd = tuple[float, float, float, float]


def encode(boxes: Tensor, anchors: Tensor, std: BoxStd) -> Tensor:
    """Deltas (dx, dy, dw, dh) that turn `anchors` into `boxes`, divided by `std`.

    Both [..., 4] with sides above zero; leading dimensions broadcast. The inverse of `decode`.
    """
    x, y, w, h = _centre_and_size(boxes)
    anchor_x, anchor_y, anchor_w, anchor_h = _centre_and_size(anchors)
    return torch.stack(
        (
            (x - anchor_x) / anchor_w / std[0],
            (y - anchor_y) / anchor_h / std[1],
            torch.log(w / anchor_w) / std[2],
            torch.log(h / anchor_h) / std[3],
        ),
        dim=-1,
    )


def decode(deltas: Tensor, anchors: Tensor, std: BoxStd, clamp: float | None) -> Tensor:
    """Boxes [..., 4] from deltas (dx, dy, dw, dh) [..., 4] about `anchors` [..., 4]; leading dimensions broadcast.

    `clamp` is the largest dw and dh after multiplication by `std`, None for no limit (Matterport).
    """
    anchor_x, anchor_y, anchor_w, anchor_h = _centre_and_size(anchors)
    dx, dy, dw, dh = (delta * s for delta, s in zip(deltas.unbind(-1), std, strict=True))
    if clamp is not None:
        dw, dh = dw.clamp(max=clamp), dh.clamp(max=clamp)
    x, y = dx * anchor_w + anchor_x, dy * anchor_h + anchor_y
    half_w, half_h = 0.5 * anchor_w * torch.exp(dw), 0.5 * anchor_h * torch.exp(dh)
    return torch.stack((x - half_w, y - half_h, x + half_w, y + half_h), dim=-1)


def clip(boxes: Tensor, windows: Tensor) -> Tensor:
    """Boxes [N, A, 4] with every corner moved into its image's window [N, 4]."""
    low, high = windows[:, None, :2], windows[:, None, 2:]
    top_left = torch.minimum(torch.maximum(boxes[..., :2], low), high)
    bottom_right = torch.minimum(torch.maximum(boxes[..., 2:], low), high)
    return torch.cat((top_left, bottom_right), dim=-1)


def areas(boxes: Tensor) -> Tensor:
    """Areas [...] of boxes [..., 4]; zero where a side is negative."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union [A, B] of boxes [A, 4] and [B, 4]; zero where both areas are zero."""
    inter = _pairwise_intersection(a, b)
    union = areas(a)[:, None] + areas(b)[None, :] - inter
    return _ratio(inter, union)


def pairwise_ioa(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over the area of `a`, [A, B], for boxes `a` [A, 4] and crowd regions `b` [B, 4]."""
    return _ratio(_pairwise_intersection(a, b), areas(a)[:, None])


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    w, h = x2 - x1, y2 - y1
    return x1 + 0.5 * w, y1 + 0.5 * h, w, h


def _pairwise_intersection(a: Tensor, b: Tensor) -> Tensor:
    w = torch.minimum(a[:, None, 2], b[None, :, 2]) - torch.maximum(a[:, None, 0], b[None, :, 0])
    h = torch.minimum(a[:, None, 3], b[None, :, 3]) - torch.maximum(a[:, None, 1], b[None, :, 1])
    return w.clamp(min=0) * h.clamp(min=0)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole, torch.zeros_like(part))
