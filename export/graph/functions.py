"""Standard-operator bodies of Maskline's two custom ONNX operators, written in onnxscript.

A node `maskrcnn::MaskRcnnNms` or `maskrcnn::PyramidRoiAlign` is a plugin to TensorRT; every other runtime inlines the
function of the same name that the model file carries, so one file serves them all.

Shape shorthand: N images, A boxes an image, M boxes kept in the batch, R RoIs, C feature channels, P output side,
H x W canvas, Hl x Wl level l of the pyramid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
from onnxscript import FLOAT, opset20, script, values

if TYPE_CHECKING:
    Tensor = Any
else:
    Tensor = FLOAT[...]
    """onnxscript takes a parameter for an attribute unless it has a tensor type; a body's types are not written out."""

DOMAIN = "maskrcnn"
DOMAIN_VERSION = 1
OPSET = 20
"""Version of the standard operators in the bodies; onnx.checker wants the model's to be the same."""

_domain = values.Opset(DOMAIN, DOMAIN_VERSION)
op: Any = opset20


@script(_domain, default_opset=op)
def nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    iou_threshold: float,
    score_threshold: float,
    max_output: int,
    pre_nms_topk: int,
) -> Tensor:
    """Greedy suppression: boxes [N, A, 4], scores [N, A], groups [N, A] -> int64 [M, 2] (image, index).

    Rows go by image, then by falling score, equal scores by the lower index. A box falls when its IoU with a kept box
    of its own group is above `iou_threshold`; only scores above `score_threshold` take part, of each image only the
    `pre_nms_topk` best (0: all), and at most `max_output` boxes an image are kept. When nothing at all is kept there is
    the one row (0, -1).
    """
    limited = op.Constant(value_int=pre_nms_topk) > 0
    if limited:
        limit = op.Min(op.Constant(value_int=pre_nms_topk), op.Shape(scores, start=1, end=2))
        ranked, order = op.TopK(scores, limit, axis=1)
        candidates = op.GatherElements(boxes, op.Expand(op.Unsqueeze(order, [2]), [1, 1, 4]), axis=1)
        group = op.GatherElements(groups, order, axis=1)
    else:
        ranked, candidates, group = op.Identity(scores), op.Identity(boxes), op.Identity(groups)
        order = op.Expand(op.Range(0, op.Gather(op.Shape(scores), 1), 1), op.Shape(scores))
    # Groups must not touch, so each gets a cell of its own in the plane. The cells lie on a 16-wide grid and not on
    # one line: group 80 is then 5 cells out and not 80, which leaves float32 four more bits for the box itself.
    side = op.ReduceMax(candidates, keepdims=0) - op.ReduceMin(candidates, keepdims=0) + 1.0
    column = op.Cast(op.Mod(group, 16), to=1)
    row = op.Cast(op.Div(group, 16), to=1)
    corner = side * op.Concat(op.Unsqueeze(column, [2]), op.Unsqueeze(row, [2]), axis=2)
    apart = candidates + op.Concat(corner, corner, axis=2)
    # Rows of (image, class 0, position), already in the order asked for.
    kept = op.NonMaxSuppression(apart, op.Unsqueeze(ranked, [1]), max_output, iou_threshold, score_threshold)
    index = op.GatherND(order, op.Gather(kept, [0, 2], axis=1))
    found = op.Concat(op.Gather(kept, [0], axis=1), op.Unsqueeze(index, [1]), axis=1)
    rows = op.Concat(found, op.Unsqueeze(op.Constant(value_ints=[0, -1]), [0]), axis=0)
    count = op.Max(op.Shape(kept, start=0, end=1), op.Constant(value_ints=[1]))
    return op.Slice(rows, [0], count, [0])


@script(_domain, default_opset=op)
def roi_level(boxes: Tensor, canvas_wh: Tensor, crops: Tensor, level_rule: str) -> Tensor:
    """The level 0..3 (P2..P5) of boxes [R, 4]: int64 [R].

    `floor` is floor(4 + log2(sqrt(area) / 224)), `round` rounds instead; areas are compared, without a logarithm, so
    that every implementation picks the same. In corner coordinates (`crops`) a box is measured in fractions of
    (side - 1), but the canvas by its full sides.
    """
    area = op.ReduceProd(op.Slice(boxes, [2], [4], [1]) - op.Slice(boxes, [0], [2], [1]), [1], keepdims=1)
    area = op.Where(crops, area * op.ReduceProd(canvas_wh / (canvas_wh - 1.0), keepdims=0), area)
    floor_steps = op.Constant(value_floats=[12544.0, 50176.0, 200704.0])  # 112, 224, 448 squared
    round_steps = op.Constant(value_floats=[6272.0, 25088.0, 100352.0])  # half of them: sqrt(2) less in side
    rounds = op.Constant(value_string=level_rule) == "round"
    reached = area >= op.Where(rounds, round_steps, floor_steps)
    return op.ReduceSum(op.Cast(reached, to=7), [1], keepdims=0)


@script(_domain, default_opset=op)
def zero_outside(pooled: Tensor, begin: Tensor, gap: Tensor, last: Tensor) -> Tensor:
    """RoI features [R, C, P, P] with zeros where a sample lies outside the map by more than rounding.

    Samples of a RoI lie at `begin` + i * `gap` and must be in 0..`last`, all [R, 2] (x, y), give or take the 1e-3 of
    `export.model.roi_align.CROP_MARGIN`. TensorFlow's rule: RoiAlign allows a pixel more.
    """
    steps = op.Cast(op.Range(0, op.Gather(op.Shape(pooled), 3), 1), to=1)
    at = op.Unsqueeze(begin, [2]) + op.Unsqueeze(gap, [2]) * steps  # [R, 2, P]
    inside = op.Cast(op.And(at >= -0.001, at <= op.Unsqueeze(last, [2]) + 0.001), to=1)
    columns, rows = (
        op.Unsqueeze(op.Gather(inside, 0, axis=1), [1, 2]),
        op.Unsqueeze(op.Gather(inside, 1, axis=1), [1, 3]),
    )
    return pooled * rows * columns


@script(_domain, default_opset=op)
def roi_align(
    p2: Tensor,
    p3: Tensor,
    p4: Tensor,
    p5: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    output_size: int,
    sampling_ratio: int,
    aligned: int,
    crop_and_resize: int,
    level_rule: str,
) -> Tensor:
    """RoIAlign on the level that fits: P2..P5 [N, C, Hl, Wl], boxes [R, 4] canvas px, image_index [R] -> [R, C, P, P].

    `crop_and_resize` is TensorFlow's operator: a grid of single samples that includes the box's corners, over boxes in
    corner coordinates, and zero for what lies outside the map; its node has `sampling_ratio` 1.
    """
    # 1. Boxes in pixels of their level: by its stride, or by how many gaps between pixels the map and the canvas have.
    canvas = op.Cast(op.Gather(op.Shape(p2), [3, 2]), to=1) * 4.0  # W, H
    crops = op.Constant(value_int=crop_and_resize) == 1
    level = roi_level(boxes, canvas, crops, level_rule=level_rule)
    stride = op.Unsqueeze(op.Gather(op.Constant(value_floats=[4.0, 8.0, 16.0, 32.0]), level), [1])
    last = canvas / stride - 1.0  # the last pixel's index
    unit, scale = op.Where(crops, canvas - 1.0, stride), op.Where(crops, last, 1.0)
    left_top, right_bottom = op.Slice(boxes, [0], [2], [1]) / unit, op.Slice(boxes, [2], [4], [1]) / unit
    begin, size = left_top * scale, (right_bottom - left_top) * scale

    # 2. What RoiAlign is to sample. A grid that includes the corners is one of bin centres with half a bin more on each
    # side. Its half_pixel mode subtracts 0.5, and is the one that allows RoIs below one pixel.
    shifted = op.Or(crops, op.Constant(value_int=aligned) == 0)
    size = op.Max(size, op.Where(op.And(shifted, op.Not(crops)), 1.0, 0.0))
    gap = size / (op.Cast(op.Constant(value_int=output_size), to=1) - 1.0)
    first = begin - op.Where(crops, gap * 0.5, 0.0) + op.Where(shifted, 0.5, 0.0)
    rois = op.Concat(first, first + size + op.Where(crops, gap, 0.0), axis=1)

    # 3. Every RoI on its own level only, then one gather back to the order of `boxes`.
    at2 = op.Squeeze(op.NonZero(level == 0), [0])
    at3 = op.Squeeze(op.NonZero(level == 1), [0])
    at4 = op.Squeeze(op.NonZero(level == 2), [0])
    at5 = op.Squeeze(op.NonZero(level == 3), [0])
    x2, r2, i2 = op.Cast(p2, to=1), op.Gather(rois, at2), op.Gather(image_index, at2)
    x3, r3, i3 = op.Cast(p3, to=1), op.Gather(rois, at3), op.Gather(image_index, at3)
    x4, r4, i4 = op.Cast(p4, to=1), op.Gather(rois, at4), op.Gather(image_index, at4)
    x5, r5, i5 = op.Cast(p5, to=1), op.Gather(rois, at5), op.Gather(image_index, at5)
    f2 = op.RoiAlign(x2, r2, i2, output_height=output_size, output_width=output_size, sampling_ratio=sampling_ratio)
    f3 = op.RoiAlign(x3, r3, i3, output_height=output_size, output_width=output_size, sampling_ratio=sampling_ratio)
    f4 = op.RoiAlign(x4, r4, i4, output_height=output_size, output_width=output_size, sampling_ratio=sampling_ratio)
    f5 = op.RoiAlign(x5, r5, i5, output_height=output_size, output_width=output_size, sampling_ratio=sampling_ratio)
    order = op.Concat(at2, at3, at4, at5, axis=0)
    place = op.ScatterElements(order, order, op.Range(0, op.Size(order), 1))
    pooled = op.Gather(op.Concat(f2, f3, f4, f5, axis=0), place)
    if crops:  # noqa: SIM108 - onnxscript makes an If of this form only
        sampled = zero_outside(pooled, begin, gap, last)
    else:
        sampled = op.Identity(pooled)
    return op.CastLike(sampled, p2)


FUNCTIONS: dict[str, Any] = {
    "MaskRcnnNms": nms,
    "PyramidRoiAlign": roi_align,
    # What only another function calls goes by the name in its body.
    "roi_level": roi_level,
    "zero_outside": zero_outside,
}


def function_protos() -> list[onnx.FunctionProto]:
    """The ONNX functions of both operators and their parts, for `ModelProto.functions`."""
    protos = []
    for name, function in FUNCTIONS.items():
        proto = function.to_function_proto()
        proto.name = name
        protos.append(proto)
    return protos
