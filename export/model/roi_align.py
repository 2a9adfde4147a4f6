"""RoIAlign over the pyramid: every RoI is sampled from the one level that fits its size.

Outputs are weighted sums of pixels, computed by `embedding_bag`: nothing loops over RoIs, and the sums are exact to
float32's rounding and differentiable in the features. Shapes: N images, C channels, R RoIs, P output side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

STRIDES = (4, 8, 16, 32)
"""Of P2..P5, in canvas pixels."""

CROP_MARGIN = 1e-3
"""How far outside the map, in its pixels, a sample of crop_and_resize still counts. TensorFlow has 0: where a box
touches the border, rounding then decides whether a row of samples is zero, which no other program can follow."""

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
    """Every output is a weighted sum of pixels: a bag of rows of one table that holds the pixels of all levels."""
    channels, size = pyramid[0].shape[1], rule.output_size
    canvas_hw = (pyramid[0].shape[-2] * STRIDES[0], pyramid[0].shape[-1] * STRIDES[0])
    levels = roi_levels(boxes, canvas_hw, rule.level_rule, corner_coordinates=rule.crop_and_resize)
    maps = _Maps.of(pyramid, levels, image_index)
    spans = _crop_spans(boxes, canvas_hw, maps.size_wh) if rule.crop_and_resize else _spans(boxes, levels, rule)
    # Weights and sums need more than half precision.
    table = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, channels) for level in pyramid]).to(boxes.dtype)
    pooled = table.new_zeros((boxes.shape[0], size * size, channels))
    for samples_wh, chosen in _by_sample_count(spans, rule):
        rows, weights = _bags(spans[chosen], maps.of_rois(chosen), samples_wh, rule)
        sums = F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")
        pooled = pooled.index_copy(0, chosen, sums.reshape(chosen.shape[0], size * size, channels))
    return pooled.transpose(1, 2).reshape(boxes.shape[0], channels, size, size).to(pyramid[0].dtype)


class _Maps(NamedTuple):
    """The feature map that each RoI is sampled from."""

    size_wh: Tensor
    """[R, 2] int64."""
    first_row: Tensor
    """[R] int64: where the map's pixels begin in the table of all levels, images and pixels."""

    @classmethod
    def of(cls, pyramid: Sequence[Tensor], levels: Tensor, image_index: Tensor) -> _Maps:
        sizes = torch.tensor([[level.shape[-1], level.shape[-2]] for level in pyramid], device=levels.device)
        pixels = sizes.prod(dim=1)
        starts = (pixels * pyramid[0].shape[0]).cumsum(0) - pixels * pyramid[0].shape[0]
        return cls(sizes[levels], starts[levels] + image_index * pixels[levels])

    def of_rois(self, chosen: Tensor) -> _Maps:
        return _Maps(self.size_wh[chosen], self.first_row[chosen])


def _spans(rois: Tensor, levels: Tensor, rule: _Rule) -> Tensor:
    """The region (x, y, width, height) of each RoI in pixels of its feature map, [R, 4]."""
    strides = rois.new_tensor(STRIDES)[levels]
    scaled = rois / strides[:, None] - (0.5 if rule.aligned else 0.0)
    sides = scaled[:, 2:] - scaled[:, :2]
    return torch.cat((scaled[:, :2], sides if rule.aligned else sides.clamp(min=1.0)), dim=1)


def _crop_spans(rois: Tensor, canvas_hw: tuple[int, int], size_wh: Tensor) -> Tensor:
    """As `_spans`, for a grid whose first and last samples lie on the corners."""
    height, width = canvas_hw
    normalised = rois / rois.new_tensor([width - 1, height - 1, width - 1, height - 1])
    scale = (size_wh - 1).to(rois.dtype)
    return torch.cat((normalised[:, :2] * scale, (normalised[:, 2:] - normalised[:, :2]) * scale), dim=1)


def _by_sample_count(spans: Tensor, rule: _Rule) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """RoIs by their samples a bin (across, down). Where these are adaptive, ceil(side / bins), a RoI without an area
    has none."""
    if rule.crop_and_resize or rule.sampling_ratio > 0:
        samples = 1 if rule.crop_and_resize else rule.sampling_ratio
        yield (samples, samples), torch.arange(spans.shape[0], device=spans.device)
        return
    counts = torch.ceil(spans[:, 2:] / rule.output_size).to(torch.int64)
    distinct, member = torch.unique(counts, dim=0, return_inverse=True)
    for i, (across, down) in enumerate(distinct.tolist()):
        if across > 0 and down > 0:
            yield (across, down), (member == i).nonzero()[:, 0]


def _bags(spans: Tensor, maps: _Maps, samples_wh: tuple[int, int], rule: _Rule) -> tuple[Tensor, Tensor]:
    """Rows of the table and their weights, a bag for each bin: both [R * P * P, samples * 4]."""
    size = rule.output_size
    (across, down), margin = samples_wh, CROP_MARGIN if rule.crop_and_resize else 1.0
    columns, x_weights = _taps(_positions(spans[:, 0], spans[:, 2], size, across, rule), maps.size_wh[:, 0], margin)
    lines, y_weights = _taps(_positions(spans[:, 1], spans[:, 3], size, down, rule), maps.size_wh[:, 1], margin)
    # [R, P, 1, 2 * down, 1] and [R, 1, P, 1, 2 * across]: every tap of a bin's lines with every tap of its columns.
    lines, y_weights = (t.reshape(len(t), size, 1, 2 * down, 1) for t in (lines, y_weights))
    columns, x_weights = (t.reshape(len(t), 1, size, 1, 2 * across) for t in (columns, x_weights))
    first, width = (t[:, None, None, None, None] for t in (maps.first_row, maps.size_wh[:, 0]))
    rows = first + lines * width + columns
    weights = y_weights * x_weights / (across * down)
    bags = (spans.shape[0] * size * size, 4 * across * down)
    return rows.reshape(bags), weights.reshape(bags)


def _positions(start: Tensor, length: Tensor, size: int, samples: int, rule: _Rule) -> Tensor:
    """Sample positions of one axis in pixels of the map, [R, size * samples]."""
    steps = torch.arange(size, device=start.device).to(start.dtype)
    if rule.crop_and_resize:
        return start[:, None] + steps * (length / (size - 1))[:, None]
    # In the order of torchvision's arithmetic, so that rounding is the same too.
    side = (length / size)[:, None]
    offsets = (torch.arange(samples, device=start.device).to(start.dtype) + 0.5) * side / samples
    return (start[:, None, None] + (steps * side)[:, :, None] + offsets[:, None, :]).flatten(1)


def _taps(position: Tensor, side: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """The two pixels about each position [R, S] on an axis of `side` [R] pixels, and their weights: both [R, S, 2].

    A position up to `margin` outside the map is moved to its border; what lies farther weighs nothing.
    """
    last = (side - 1)[:, None]
    inside = (position >= -margin) & (position <= last + margin)
    position = torch.minimum(position.clamp(min=0), last.to(position.dtype))
    low = position.to(torch.int64)
    high = torch.minimum(low + 1, last)
    part = position - low
    return torch.stack((low, high), dim=-1), torch.stack((1 - part, part), dim=-1) * inside[..., None]


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
