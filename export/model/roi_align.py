"""RoIAlign over the pyramid: every RoI is sampled from the one level that fits its size.

The samples of all RoIs of an image and level are one grid for `grid_sample`, so that nothing loops over RoIs and the
result is differentiable in the features. Shapes: N images, C channels, R RoIs, P output side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

STRIDES = (4, 8, 16, 32)
"""Of P2..P5, in canvas pixels."""

_FLOOR_AREAS = (112.0**2, 224.0**2, 448.0**2)
_ROUND_AREAS = (224.0**2 / 8, 224.0**2 / 2, 224.0**2 * 2)


@dataclass(frozen=True)
class _Rule:
    """The settings of the operator; see `RoiAlignConfig`."""

    output_size: int
    sampling_ratio: int
    aligned: bool
    crop_and_resize: bool
    level_rule: str


def pyramid_roi_align(
    pyramid: Sequence[Tensor],
    boxes: Tensor,
    image_index: Tensor,
    *,
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
    crop_and_resize: bool,
    level_rule: str,
) -> Tensor:
    """RoI features [R, C, P, P] of `boxes` [R, 4] (canvas pixels) of the images `image_index` int64 [R].

    `pyramid` starts with P2..P5 [N, C, Hl, Wl] at strides 4, 8, 16, 32; further levels are not looked at. The canvas is
    four times P2. With `crop_and_resize` the boxes are in corner coordinates (x2, y2 of the last pixel). During
    torch.export this is the custom operator `maskrcnn::pyramid_roi_align`.

    RoIAlign: Mask R-CNN, arXiv:1703.06870; a sample past one pixel outside the map is zero, as in torchvision and
    detectron2. crop_and_resize: TensorFlow's operator, a sample outside the map is zero.
    """
    p2, p3, p4, p5 = pyramid[:4]
    if torch.compiler.is_exporting():
        pooled: Tensor = torch.ops.maskrcnn.pyramid_roi_align(
            p2, p3, p4, p5, boxes, image_index, output_size, sampling_ratio, aligned, crop_and_resize, level_rule
        )
        return pooled
    rule = _Rule(output_size, sampling_ratio, aligned, crop_and_resize, level_rule)
    return _pyramid_roi_align((p2, p3, p4, p5), boxes, image_index, rule)


def roi_levels(boxes: Tensor, canvas_hw: tuple[int, int], level_rule: str, *, corner_coordinates: bool) -> Tensor:
    """The level 0..3 (P2..P5) of boxes [R, 4], int64 [R].

    `floor`: 4 + floor(log2(sqrt(area) / 224)); `round` rounds instead. Areas are compared, so no logarithm is taken.
    Corner coordinates measure the area as a part of (W - 1) x (H - 1) and scale it to W x H, as Matterport does.
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    if corner_coordinates:
        height, width = canvas_hw
        area = area * (height * width / ((height - 1) * (width - 1)))
    limits = area.new_tensor(_FLOOR_AREAS if level_rule == "floor" else _ROUND_AREAS)
    return (area[:, None] >= limits).sum(dim=1)


def _pyramid_roi_align(pyramid: Sequence[Tensor], boxes: Tensor, image_index: Tensor, rule: _Rule) -> Tensor:
    canvas_hw = (pyramid[0].shape[-2] * STRIDES[0], pyramid[0].shape[-1] * STRIDES[0])
    levels = roi_levels(boxes, canvas_hw, rule.level_rule, corner_coordinates=rule.crop_and_resize)
    images = pyramid[0].shape[0]
    # One stable sort puts the RoIs of each (level, image) side by side; the counts come to the host once.
    keys = levels * images + image_index
    order = torch.argsort(keys, stable=True)
    counts = torch.bincount(keys, minlength=len(STRIDES) * images).tolist()
    parts = []
    for key, rois in enumerate(torch.split(boxes[order], counts)):
        if rois.shape[0]:
            level, image = divmod(key, images)
            features = pyramid[level][image]
            spans = _crop_spans(rois, canvas_hw, features) if rule.crop_and_resize else _spans(rois, level, rule)
            parts.append(_pool(features, spans, rule))
    if not parts:
        return pyramid[0].new_zeros((0, pyramid[0].shape[1], rule.output_size, rule.output_size))
    return torch.cat(parts)[torch.argsort(order)]


def _spans(rois: Tensor, level: int, rule: _Rule) -> Tensor:
    """The region (x, y, width, height) of each RoI in pixels of the feature map, [R, 4]."""
    scaled = rois / STRIDES[level] - (0.5 if rule.aligned else 0.0)
    sides = scaled[:, 2:] - scaled[:, :2]
    return torch.cat((scaled[:, :2], sides if rule.aligned else sides.clamp(min=1.0)), dim=1)


def _crop_spans(rois: Tensor, canvas_hw: tuple[int, int], features: Tensor) -> Tensor:
    """As `_spans`, for a grid whose first and last samples lie on the corners."""
    height, width = canvas_hw
    normalised = rois / rois.new_tensor([width - 1, height - 1, width - 1, height - 1])
    scale = rois.new_tensor([features.shape[-1] - 1, features.shape[-2] - 1])
    return torch.cat((normalised[:, :2] * scale, (normalised[:, 2:] - normalised[:, :2]) * scale), dim=1)


def _pool(features: Tensor, spans: Tensor, rule: _Rule) -> Tensor:
    """RoI features [R, C, P, P] of `spans` [R, 4] on one map [C, Hl, Wl]."""
    if rule.crop_and_resize or rule.sampling_ratio > 0:
        samples = 1 if rule.crop_and_resize else rule.sampling_ratio
        return _pool_fixed(features, spans, (samples, samples), rule)
    pooled = features.new_zeros((spans.shape[0], features.shape[0], rule.output_size, rule.output_size))
    for samples_hw, chosen in _by_sample_count(spans, rule.output_size):
        pooled = pooled.index_copy(0, chosen, _pool_fixed(features, spans[chosen], samples_hw, rule))
    return pooled


def _by_sample_count(spans: Tensor, output_size: int) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """RoIs by their samples a bin (height, width), ceil(side / bins); a RoI without an area has none."""
    counts = torch.ceil(spans[:, 2:] / output_size).to(torch.int64)
    distinct, member = torch.unique(counts, dim=0, return_inverse=True)
    for i, (samples_w, samples_h) in enumerate(distinct.tolist()):
        if samples_w > 0 and samples_h > 0:
            yield (samples_h, samples_w), (member == i).nonzero()[:, 0]


def _pool_fixed(features: Tensor, spans: Tensor, samples_hw: tuple[int, int], rule: _Rule) -> Tensor:
    channels, height, width = features.shape
    size = rule.output_size
    x = _positions(spans[:, 0], spans[:, 2], size, samples_hw[1], rule)
    y = _positions(spans[:, 1], spans[:, 3], size, samples_hw[0], rule)
    margin = 0.0 if rule.crop_and_resize else 1.0
    inside_x, grid_x = _to_grid(x, width, margin)
    inside_y, grid_y = _to_grid(y, height, margin)
    rois, rows, columns = x.shape[0], y.shape[1], x.shape[1]
    grid = torch.stack(
        (grid_x[:, None, :].expand(rois, rows, columns), grid_y[:, :, None].expand(rois, rows, columns)), dim=-1
    )
    # [1, C, R * P * s, P * s]: the RoIs are stacked below each other. Positions need more than half precision.
    sampled = F.grid_sample(
        features[None].to(grid.dtype),
        grid.reshape(1, rois * rows, columns, 2),
        padding_mode="border",
        align_corners=True,
    )
    if not (inside_y.all() and inside_x.all()):  # rare: proposals are clipped to the picture
        sampled = sampled * (inside_y[:, :, None] & inside_x[:, None, :]).reshape(1, 1, rois * rows, columns)
    pooled = F.avg_pool2d(sampled, samples_hw).to(features.dtype)
    return pooled.reshape(channels, rois, size, size).transpose(0, 1)


def _positions(start: Tensor, length: Tensor, size: int, samples: int, rule: _Rule) -> Tensor:
    """Sample positions of one axis in pixels of the map, [R, size * samples]."""
    steps = torch.arange(size * samples, device=start.device).to(start.dtype)
    if rule.crop_and_resize:
        return start[:, None] + steps * (length / (size - 1))[:, None]
    return start[:, None] + (steps + 0.5) * (length / (size * samples))[:, None]


def _to_grid(position: Tensor, side: int, margin: float) -> tuple[Tensor, Tensor]:
    """Whether a sample counts, and its place on `grid_sample`'s scale of -1 (first pixel) to 1 (last pixel)."""
    inside = (position >= -margin) & (position <= side - 1 + margin)
    return inside, position.clamp(0, side - 1) * (2.0 / max(side - 1, 1)) - 1.0


@torch.library.custom_op("maskrcnn::pyramid_roi_align", mutates_args=())
def _pyramid_roi_align_op(
    p2: Tensor,
    p3: Tensor,
    p4: Tensor,
    p5: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
    crop_and_resize: bool,
    level_rule: str,
) -> Tensor:
    rule = _Rule(output_size, sampling_ratio, aligned, crop_and_resize, level_rule)
    return _pyramid_roi_align((p2, p3, p4, p5), boxes, image_index, rule).contiguous()


@_pyramid_roi_align_op.register_fake
def _pyramid_roi_align_shape(
    p2: Tensor,
    p3: Tensor,
    p4: Tensor,
    p5: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
    crop_and_resize: bool,
    level_rule: str,
) -> Tensor:
    return p2.new_empty((boxes.shape[0], p2.shape[1], output_size, output_size))
