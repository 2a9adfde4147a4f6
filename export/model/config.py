"""Everything that tells one Mask R-CNN from another, as plain frozen values.

The three families (Matterport, torchvision, detectron2) and the models trained here are settings of one
`ModelConfig`; importers fill it in, the graph and the bundle are made from it. Anchor tables are data: the model
never computes them from a family's formula.

Frames: *canvas* is the padded input of the network, in pixels; boxes are (x1, y1, x2, y2), x2/y2 exclusive, except
where `corner_coordinates` says otherwise.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Cell = tuple[float, float, float, float]

BackboneDepth = Literal[18, 34, 50, 101]

LEVEL_COUNT = 5
"""The pyramid is P2..P6 in every family."""


def anchor_cells(
    sizes: tuple[tuple[float, ...], ...],
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
    *,
    rounded: bool = False,
) -> tuple[tuple[Cell, ...], ...]:
    """Anchors about (0, 0), one row of cells a level, ordered by size, then by ratio (height / width).

    `sizes` holds square roots of areas in canvas pixels, one tuple a level. `rounded` rounds the corners half to
    even, as torchvision does.
    """

    def cell(size: float, ratio: float) -> Cell:
        w, h = size / math.sqrt(ratio), size * math.sqrt(ratio)
        corners = (-w / 2, -h / 2, w / 2, h / 2)
        return tuple(float(round(c)) for c in corners) if rounded else corners  # type: ignore[return-value]  # four, which mypy cannot count

    return tuple(tuple(cell(s, r) for s in level for r in ratios) for level in sizes)


@dataclass(frozen=True)
class BackboneConfig:
    """A ResNet. `stage_widths` are the widths of a stage's 3x3 convolutions; bottlenecks (50, 101) put out 4x."""

    depth: BackboneDepth = 50
    stem_width: int = 64
    stage_widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    stride_in_1x1: bool = False
    """Bottleneck stride in the first 1x1 (Matterport, detectron2's MSRA weights) or in the 3x3 (torchvision)."""
    conv_bias: bool = False
    bn_eps: float = 1e-5
    stem_pool: Literal["symmetric", "same"] = "symmetric"
    """3x3/2 max pool padded by one all round, or TensorFlow's `same`: one at the right and bottom only."""


@dataclass(frozen=True)
class FpnConfig:
    channels: int = 256
    norm: bool = False
    """Convolutions without bias followed by BatchNorm (torchvision v2), else convolutions with bias."""
    norm_eps: float = 1e-5


@dataclass(frozen=True)
class RpnConfig:
    channels: int = 256
    conv_depth: int = 1
    objectness: Literal["sigmoid", "softmax"] = "sigmoid"
    """One logit an anchor, or two (background, foreground) with a softmax."""
    cells: tuple[tuple[Cell, ...], ...] = anchor_cells(((32,), (64,), (128,), (256,), (512,)))
    """Anchors about the centre (0, 0) for P2..P6; placed at (column * stride, row * stride)."""
    strides: tuple[int, ...] | Literal["canvas"] = (4, 8, 16, 32, 64)
    """Canvas pixels between positions of P2..P6; `canvas`: as often as the level's side goes into the canvas', rounded
    down, which for P6 is less than 64 where P5 has an odd side (torchvision)."""
    box_std: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    """Deltas (dx, dy, dw, dh) are multiplied by these."""
    delta_clamp: float | None = math.log(1000.0 / 16)
    """Largest dw, dh; None: no clamp (Matterport)."""
    selection: Literal["per_level", "joint"] = "per_level"
    """Pre-NMS limit and NMS for each level by itself, or over all levels together (Matterport)."""
    clip: Literal["window", "canvas"] = "window"
    """What proposals are clipped to: the picture inside the canvas, or the whole canvas (Matterport)."""
    pre_nms_topk: int = 1000
    post_nms_topk: int = 1000
    nms_iou_threshold: float = 0.7
    min_size: float | None = 0.0
    """Boxes with a side not above (detectron2: 0) or below (torchvision: 1e-3, see `min_size_inclusive`) this are
    dropped; None: none are (Matterport)."""
    min_size_inclusive: bool = False


@dataclass(frozen=True)
class RoiAlignConfig:
    """How a RoI picks its level and its samples; shared by the box head and the mask head."""

    box_output_size: int = 7
    mask_output_size: int = 14
    sampling_ratio: int = 2
    """Samples a bin and axis; 0: ceil(RoI size / bins) (detectron2)."""
    aligned: bool = False
    """Shift by half a pixel of the feature map and allow RoIs below one pixel (detectron2)."""
    crop_and_resize: bool = False
    """TensorFlow's operator: one sample a bin on a grid that includes the corners, scale (Wf - 1) / (W - 1)."""
    level_rule: Literal["floor", "round"] = "floor"


@dataclass(frozen=True)
class HeadConfig:
    box_conv_widths: tuple[int, ...] = ()
    """3x3 convolutions before the fully connected layers (torchvision v2: four of 256)."""
    box_fc_widths: tuple[int, ...] = (1024, 1024)
    box_norm: bool = False
    """BatchNorm after the box head's convolutions (torchvision v2), and after its fully connected layers when there
    are no convolutions (Matterport, whose 7x7 `valid` convolution is a fully connected layer)."""
    box_norm_eps: float = 1e-5
    """Of BatchNorm in either head."""
    mask_conv_widths: tuple[int, ...] = (256, 256, 256, 256)
    mask_deconv_width: int = 256
    mask_norm: bool = False
    mask_conv_bias: bool = True
    box_std: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    delta_clamp: float | None = math.log(1000.0 / 16)


@dataclass(frozen=True)
class DetectionConfig:
    candidates: Literal["every_class", "best_class"] = "every_class"
    """Every foreground class of a RoI may become a detection, or only its most probable one (Matterport)."""
    score_threshold: float = 0.05
    score_threshold_inclusive: bool = False
    nms_iou_threshold: float = 0.5
    min_size: float | None = None
    max_detections: int = 100


@dataclass(frozen=True)
class InputConfig:
    """What happens to a picture before the network; resize and placement travel in the bundle, the rest: the graph."""

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """RGB, 0..255."""
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    dtype: Literal["uint8", "float32"] = "uint8"
    """float32 where the family's resize keeps fractions (torchvision)."""
    resize_rule: Literal["shortest_edge", "grow_shortest_edge"] = "shortest_edge"
    """The shortest edge to `min_size` unless the longest would pass `max_size`; `grow` never shrinks for `min_size`."""
    min_size: int = 800
    max_size: int = 1333
    rounding: Literal["floor", "half_up", "half_even"] = "half_up"
    interpolation: Literal["antialias", "linear", "linear_zero_border"] = "antialias"
    """Pillow's bilinear on uint8; plain bilinear in float (torchvision); bilinear that fades to zero at the border and
    truncates to uint8 (Matterport's scikit-image)."""
    placement: Literal["top_left", "centre"] = "top_left"
    padding: Literal["zero", "black"] = "zero"
    """Outside the window: zero after normalisation, or black before the mean is taken off (Matterport)."""
    size_divisor: int = 32
    square: int | None = None
    """Canvas of this fixed side (Matterport's square mode); None: the picture's own size rounded up."""


@dataclass(frozen=True)
class ModelConfig:
    """All settings of a `MaskRCNN`. `classes[0]` is the background in every family."""

    classes: tuple[str, ...]
    family: Literal["native", "torchvision", "detectron2", "matterport"] = "native"
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    fpn: FpnConfig = field(default_factory=FpnConfig)
    rpn: RpnConfig = field(default_factory=RpnConfig)
    roi_align: RoiAlignConfig = field(default_factory=RoiAlignConfig)
    heads: HeadConfig = field(default_factory=HeadConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    input: InputConfig = field(default_factory=InputConfig)
    corner_coordinates: bool = False
    """Boxes are in corner coordinates, x2/y2 of the last pixel (Matterport's normalised boxes, scaled by side - 1)."""
    mask_paste: Literal["detectron2", "torchvision", "matterport"] = "detectron2"

    @property
    def num_classes(self) -> int:
        """Classes with the background."""
        return len(self.classes)

    @property
    def mask_size(self) -> int:
        """Side S of the mask head's output."""
        return 2 * self.roi_align.mask_output_size

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON or a checkpoint."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The inverse of `to_dict`. Raises `TypeError` that names an unknown key."""
        parts = {
            "backbone": BackboneConfig,
            "fpn": FpnConfig,
            "rpn": RpnConfig,
            "roi_align": RoiAlignConfig,
            "heads": HeadConfig,
            "detection": DetectionConfig,
            "input": InputConfig,
        }
        made = {k: parts[k](**_tuples(v)) if k in parts else v for k, v in values.items()}
        return cls(**_tuples(made))


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Lists (as JSON gives them) to tuples, all the way down."""

    def tupled(value: Any) -> Any:
        return tuple(tupled(v) for v in value) if isinstance(value, list | tuple) else value

    return {k: tupled(v) for k, v in values.items()}
