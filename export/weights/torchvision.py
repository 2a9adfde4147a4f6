"""torchvision's `maskrcnn_resnet50_fpn` and `..._v2`, and its `MaskRCNN` with a `resnet_fpn_backbone` of 18 to 101.

The weights show the body, the class count, the anchors a location, the heads' layers and where BatchNorm stands. They
do not show anchor sizes, thresholds, picture sizes and BatchNorm's epsilon; `--config` takes these by the names of the
builder's arguments, as JSON: `{"min_size": 640, "rpn_anchor_generator": {"sizes": [[16], [32], [64], [128], [256]]}}`.
Source: torchvision 0.28, `models/detection`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import torch

from export.model.config import (
    LEVEL_COUNT,
    BackboneConfig,
    Cell,
    DetectionConfig,
    FpnConfig,
    HeadConfig,
    InputConfig,
    ModelConfig,
    RoiAlignConfig,
    RpnConfig,
)
from export.weights.class_names import COCO_91, class_names
from export.weights.errors import UnsupportedWeightsError, WeightsConfigError
from export.weights.files import Tensors, WeightsFile
from export.weights.mapping import Rules, Source, count, renamed, sources
from export.weights.resnet import read_resnet
from export.weights.settings import Settings

SIGNATURE = "roi_heads.mask_predictor.mask_fcn_logits.weight"
"""A tensor that only this family has."""

_OLD_NAMES: Rules = (
    (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    (r"^roi_heads\.mask_head\.mask_fcn(\d)\.", lambda m: f"roi_heads.mask_head.{int(m[1]) - 1}.0."),
)
"""Of files written before torchvision 0.12, the published COCO weights among them."""

_NAMES: Rules = (
    (r"^backbone\.stem\.conv\.", "backbone.body.conv1."),
    (r"^backbone\.stem\.norm\.", "backbone.body.bn1."),
    (r"^backbone\.stage(\d)\.", lambda m: f"backbone.body.layer{int(m[1]) - 1}."),
    (r"^(backbone\.body\.layer.*\.)norm(\d)\.", r"\1bn\2."),
    (r"^(backbone\.body\.layer.*\.)shortcut\.", r"\1downsample."),
    (r"^fpn\.lateral\.", "backbone.fpn.inner_blocks."),
    (r"^fpn\.output\.", "backbone.fpn.layer_blocks."),
    (r"^rpn_head\.convs\.(\d+)\.", r"rpn.head.conv.\1.0."),
    (r"^rpn_head\.logits\.", "rpn.head.cls_logits."),
    (r"^rpn_head\.deltas\.", "rpn.head.bbox_pred."),
    (r"^box_head\.convs\.(\d+)\.", r"roi_heads.box_head.\1.0."),
    (r"^box_head\.conv_norms\.(\d+)\.", r"roi_heads.box_head.\1.1."),
    (r"^box_head\.class_logits\.", "roi_heads.box_predictor.cls_score."),
    (r"^box_head\.deltas\.", "roi_heads.box_predictor.bbox_pred."),
    (r"^mask_head\.convs\.(\d+)\.", r"roi_heads.mask_head.\1.0."),
    (r"^mask_head\.norms\.(\d+)\.", r"roi_heads.mask_head.\1.1."),
    (r"^mask_head\.deconv\.", "roi_heads.mask_predictor.conv5_mask."),
    (r"^mask_head\.logits\.", "roi_heads.mask_predictor.mask_fcn_logits."),
)
"""From the model's names to the file's; the fully connected layers of the box head follow from `_box_fcs`."""

_OF_TRAINING = (
    "rpn_pre_nms_top_n_train rpn_post_nms_top_n_train rpn_fg_iou_thresh rpn_bg_iou_thresh rpn_batch_size_per_image "
    "rpn_positive_fraction box_fg_iou_thresh box_bg_iou_thresh box_batch_size_per_image box_positive_fraction progress"
)
"""Arguments of the builder that make no difference to inference."""

_TORCH_EPS = 1e-5
"""Of BatchNorm, frozen or not, where nobody said otherwise."""


def read_config(file: WeightsFile, settings: Settings) -> ModelConfig:
    """The configuration of the model in `file`. Raises a `WeightsError` for what cannot be rebuilt."""
    tensors = _modern(file.tensors)
    num_classes = _shape(tensors, "roi_heads.box_predictor.cls_score.weight", 2)[0]
    settings.ignore(*_OF_TRAINING.split())
    settings.check("num_classes", num_classes)
    settings.expect("fixed_size", None)
    settings.expect("size_divisible", 32)
    settings.expect("rpn_score_thresh", 0.0)
    backbone = _backbone(tensors, settings)
    return ModelConfig(
        classes=class_names(num_classes, settings, COCO_91),
        family="torchvision",
        backbone=backbone,
        fpn=_fpn(tensors, backbone.bn_eps),
        rpn=_rpn(tensors, settings),
        roi_align=_roi_align(tensors, settings),
        heads=_heads(tensors, settings, backbone.bn_eps),
        detection=DetectionConfig(
            score_threshold=settings.take("box_score_thresh", 0.05, flag="score_threshold"),
            nms_iou_threshold=settings.take("box_nms_thresh", 0.5),
            min_size=1e-2,
            max_detections=settings.take("box_detections_per_img", 100, flag="max_detections"),
        ),
        input=_input(settings),
        mask_paste="torchvision",
    )


def read_sources(
    file: WeightsFile, model_names: Iterable[str], settings: Settings
) -> tuple[Tensors, dict[str, Source]]:
    """The file's tensors by today's names, and where among them each tensor of the model is."""
    tensors = _modern(file.tensors)
    fcs = _box_fcs(tensors)
    rules: Rules = (*_NAMES, (r"^box_head\.fcs\.(\d)\.", lambda match: f"{fcs[int(match[1])]}."))
    return tensors, sources(model_names, rules)


def _modern(tensors: Tensors) -> Tensors:
    return Tensors(tensors.source, {renamed(name, _OLD_NAMES): tensor for name, tensor in tensors.items()})


def _shape(tensors: Tensors, name: str, axes: int) -> tuple[int, ...]:
    shape = tuple(tensors[name].shape)
    if len(shape) != axes:
        raise UnsupportedWeightsError(f"{name} has {len(shape)} axes instead of {axes}: this is a part of a model.")
    return shape


def _box_convs(tensors: Tensors) -> tuple[int, ...]:
    """The widths of the convolutions of the box head."""
    names = [f"roi_heads.box_head.{i}.0.weight" for i in range(count(tensors, "roi_heads.box_head.{}.0.weight"))]
    return tuple(_shape(tensors, name, 4)[0] for name in names)


def _box_fcs(tensors: Tensors) -> list[str]:
    """`fc6` and `fc7`; or, after convolutions and a Flatten, every other number of one sequence."""
    if "roi_heads.box_head.fc6.weight" in tensors:
        return ["roi_heads.box_head.fc6", "roi_heads.box_head.fc7"]
    numbers = [re.fullmatch(r"roi_heads\.box_head\.(\d+)\.weight", name) for name in tensors]
    return [f"roi_heads.box_head.{number}" for number in sorted(int(match[1]) for match in numbers if match)]


def _backbone(tensors: Tensors, settings: Settings) -> BackboneConfig:
    def conv(stage: int, block: int, number: int) -> tuple[int, ...] | None:
        name = f"backbone.body.layer{stage - 1}.{block}.conv{number}.weight"
        return _shape(tensors, name, 4) if name in tensors else None

    shape = read_resnet(conv)
    stem_width = _shape(tensors, "backbone.body.conv1.weight", 4)[0]
    return BackboneConfig(shape.depth, stem_width, shape.stage_widths, bn_eps=_bn_eps(tensors, shape.depth, settings))


def _bn_eps(tensors: Tensors, depth: int, settings: Settings) -> float:
    """Of the body's BatchNorm: torch's own, but 0 for a frozen one in a ResNet-50.

    The builder sets 0 when it loads the published COCO weights, where nearly all fine-tuning starts. A ResNet-50 that
    started from ImageNet's weights has 1e-5, and its file looks the same: that takes `--bn-eps`.
    """
    published = depth == 50 and _frozen(tensors, "backbone.body.")
    if published and settings.given.bn_eps is None:
        settings.remarks.append(
            "BatchNorm's eps is taken as 0, as in torchvision's COCO weights and what was fine-tuned from them. "
            "If the training started from ImageNet's weights, build with --bn-eps 1e-5: a wrong eps spoils the answers."
        )
    return settings.take("bn_eps", 0.0 if published else _TORCH_EPS, flag="bn_eps")


def _frozen(tensors: Tensors, part: str) -> bool:
    """Only a `BatchNorm2d` counts its batches."""
    return not any(name.startswith(part) and name.endswith(".num_batches_tracked") for name in tensors)


def _norm_eps(tensors: Tensors, part: str, bn_eps: float) -> float:
    """Of BatchNorm outside the body: the body's, unless only one of the two is frozen."""
    return bn_eps if _frozen(tensors, part) == _frozen(tensors, "backbone.body.") else _TORCH_EPS


def _fpn(tensors: Tensors, bn_eps: float) -> FpnConfig:
    inputs = count(tensors, "backbone.fpn.inner_blocks.{}.0.weight")
    if inputs != 4 or any(name.startswith("backbone.fpn.extra_blocks.") for name in tensors):
        raise UnsupportedWeightsError(
            f"The pyramid has {inputs} layers of the body below it, or convolutions above P5; only one of all four "
            "layers with a max pool for P6 can be rebuilt here."
        )
    return FpnConfig(
        channels=_shape(tensors, "backbone.fpn.inner_blocks.0.0.weight", 4)[0],
        norm="backbone.fpn.inner_blocks.0.1.running_mean" in tensors,
        norm_eps=_norm_eps(tensors, "backbone.fpn.", bn_eps),
    )


def _rpn(tensors: Tensors, settings: Settings) -> RpnConfig:
    cells = _cells(settings)
    per_location, channels = _shape(tensors, "rpn.head.cls_logits.weight", 4)[:2]
    if any(len(level) != per_location for level in cells):
        raise WeightsConfigError(
            f"The weights have {per_location} anchors a location, but these sizes and ratios make "
            f"{', '.join(str(len(level)) for level in cells)} on the five levels. Say in --config which they are: "
            '{"rpn_anchor_generator": {"sizes": [...], "aspect_ratios": [...]}}.'
        )
    return RpnConfig(
        channels=channels,
        conv_depth=count(tensors, "rpn.head.conv.{}.0.weight"),
        cells=cells,
        strides="canvas",
        pre_nms_topk=settings.take("rpn_pre_nms_top_n_test", 1000),
        post_nms_topk=settings.take("rpn_post_nms_top_n_test", 1000),
        nms_iou_threshold=settings.take("rpn_nms_thresh", 0.7),
        min_size=1e-3,
        min_size_inclusive=True,
    )


def _cells(settings: Settings) -> tuple[tuple[Cell, ...], ...]:
    sizes: tuple[Any, ...] = settings.take("rpn_anchor_generator.sizes", ((32,), (64,), (128,), (256,), (512,)))
    ratios: tuple[Any, ...] = settings.take("rpn_anchor_generator.aspect_ratios", (0.5, 1.0, 2.0))
    levels = [size if isinstance(size, tuple) else (size,) for size in sizes]
    of_levels = ratios if all(isinstance(ratio, tuple) for ratio in ratios) else (ratios,) * len(levels)
    if len(levels) != LEVEL_COUNT or len(of_levels) != LEVEL_COUNT:
        raise WeightsConfigError("rpn_anchor_generator: give sizes and aspect_ratios for each of the five levels.")
    for name, values in (("sizes", levels), ("aspect_ratios", of_levels)):
        for level in values:
            _check_numbers(f"rpn_anchor_generator.{name}", level, len(level) or 1, positive=True)
    return tuple(_level_cells(level, of_level) for level, of_level in zip(levels, of_levels, strict=True))


def _level_cells(sizes: tuple[float, ...], ratios: tuple[float, ...]) -> tuple[Cell, ...]:
    """Ordered by ratio (height / width), then by size; corners rounded half to even, in float32 as the family does."""
    tall = torch.tensor(ratios, dtype=torch.float32).sqrt()
    sides = torch.tensor(sizes, dtype=torch.float32)
    w, h = torch.outer(1 / tall, sides).flatten(), torch.outer(tall, sides).flatten()
    corners = (torch.stack((-w, -h, w, h), dim=1) / 2).round()
    return tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in corners.tolist())


def _check_numbers(name: str, values: tuple[Any, ...], length: int, *, positive: bool = False) -> None:
    if len(values) != length or not all(type(v) in (int, float) and (v > 0 or not positive) for v in values):
        wanted = f"{length} {'positive ' if positive else ''}numbers"
        raise WeightsConfigError(f"{name} is {values!r}; it should be {wanted}.")


def _roi_align(tensors: Tensors, settings: Settings) -> RoiAlignConfig:
    for pool in ("box_roi_pool", "mask_roi_pool"):
        settings.expect(f"{pool}.featmap_names", ("0", "1", "2", "3"))
        settings.expect(f"{pool}.canonical_scale", 224)
        settings.expect(f"{pool}.canonical_level", 4)
    box_samples = settings.take("box_roi_pool.sampling_ratio", 2)
    mask_samples = settings.take("mask_roi_pool.sampling_ratio", 2)
    if box_samples != mask_samples or box_samples < 1:
        raise WeightsConfigError("box_roi_pool and mask_roi_pool must have the same sampling_ratio, at least 1.")
    box_size = _box_output_size(tensors)
    settings.expect("box_roi_pool.output_size", box_size, (box_size, box_size))
    return RoiAlignConfig(
        box_output_size=box_size,
        mask_output_size=settings.take("mask_roi_pool.output_size", 14),
        sampling_ratio=box_samples,
    )


def _box_output_size(tensors: Tensors) -> int:
    """The side of the RoI features, from the inputs of the first fully connected layer."""
    first = [*_box_fcs(tensors), "roi_heads.box_predictor.cls_score"][0]
    inputs = _shape(tensors, f"{first}.weight", 2)[1]
    channels = [_shape(tensors, "backbone.fpn.inner_blocks.0.0.weight", 4)[0], *_box_convs(tensors)][-1]
    return math.isqrt(inputs // channels)


def _heads(tensors: Tensors, settings: Settings, bn_eps: float) -> HeadConfig:
    masks = count(tensors, "roi_heads.mask_head.{}.0.weight")
    weights: tuple[Any, ...] = settings.take("bbox_reg_weights", (10.0, 10.0, 5.0, 5.0))
    _check_numbers("bbox_reg_weights", weights, 4, positive=True)
    return HeadConfig(
        box_conv_widths=_box_convs(tensors),
        box_fc_widths=tuple(_shape(tensors, f"{name}.weight", 2)[0] for name in _box_fcs(tensors)),
        box_norm="roi_heads.box_head.0.1.running_mean" in tensors,
        box_norm_eps=_norm_eps(tensors, "roi_heads.", bn_eps),
        mask_conv_widths=tuple(_shape(tensors, f"roi_heads.mask_head.{i}.0.weight", 4)[0] for i in range(masks)),
        mask_deconv_width=_shape(tensors, "roi_heads.mask_predictor.conv5_mask.weight", 4)[1],
        mask_norm="roi_heads.mask_head.0.1.running_mean" in tensors,
        mask_conv_bias="roi_heads.mask_head.0.0.bias" in tensors,
        box_std=(1 / weights[0], 1 / weights[1], 1 / weights[2], 1 / weights[3]),
    )


def _input(settings: Settings) -> InputConfig:
    mean = settings.take("image_mean", (0.485, 0.456, 0.406))
    std = settings.take("image_std", (0.229, 0.224, 0.225))
    _check_numbers("image_mean", mean, 3)
    _check_numbers("image_std", std, 3, positive=True)
    return InputConfig(
        mean=(255 * mean[0], 255 * mean[1], 255 * mean[2]),
        std=(255 * std[0], 255 * std[1], 255 * std[2]),
        dtype="float32",
        min_size=settings.take("min_size", 800, flag="min_size"),
        max_size=settings.take("max_size", 1333, flag="max_size"),
        rounding="floor",
        interpolation="linear",
    )
