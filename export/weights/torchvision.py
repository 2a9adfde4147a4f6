"""torchvision's `maskrcnn_resnet50_fpn` and `..._v2`, and its `MaskRCNN` with a `resnet_fpn_backbone` of 18 to 101.

The weights show the body, the class count, the anchors a location, the heads' depths and where BatchNorm stands. They do
not show anchor sizes, thresholds, picture sizes and BatchNorm's epsilon; `--config` takes these by the names of the
builder's arguments, as JSON: `{"min_size": 640, "rpn_anchor_generator": {"sizes": [[16], [32], [64], [128], [256]]}}`.
Source: torchvision 0.28, `models/detection`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from export.model.config import (
    BackboneConfig,
    Cell,
    DetectionConfig,
    FpnConfig,
    HeadConfig,
    InputConfig,
    ModelConfig,
    RoiAlignConfig,
    RpnConfig,
    anchor_cells,
)
from export.weights.class_names import COCO_91, class_names
from export.weights.errors import WeightsConfigError
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


def read_config(file: WeightsFile, settings: Settings) -> ModelConfig:
    """The configuration of the model in `file`. Raises a `WeightsError` for what cannot be rebuilt."""
    tensors = _modern(file.tensors)
    num_classes = tensors["roi_heads.box_predictor.cls_score.weight"].shape[0]
    settings.check("num_classes", num_classes)
    settings.expect("fixed_size", None)
    settings.expect("size_divisible", 32)
    settings.expect("rpn_score_thresh", 0, 0.0)
    bn_eps = _bn_eps(tensors, settings)
    return ModelConfig(
        classes=class_names(num_classes, settings, COCO_91),
        family="torchvision",
        backbone=_backbone(tensors, bn_eps),
        fpn=FpnConfig(
            channels=tensors["backbone.fpn.inner_blocks.0.0.weight"].shape[0],
            norm="backbone.fpn.inner_blocks.0.1.running_mean" in tensors,
            norm_eps=bn_eps,
        ),
        rpn=_rpn(tensors, settings),
        roi_align=_roi_align(settings),
        heads=_heads(tensors, settings, bn_eps),
        detection=DetectionConfig(
            score_threshold=settings.take("box_score_thresh", 0.05, flag="score_threshold"),
            nms_iou_threshold=settings.take("box_nms_thresh", 0.5),
            min_size=1e-2,
            max_detections=settings.take("box_detections_per_img", 100, flag="max_detections"),
        ),
        input=_input(settings),
        mask_paste="torchvision",
    )


def read_sources(file: WeightsFile, model_names: Iterable[str]) -> tuple[Tensors, dict[str, Source]]:
    """The file's tensors by today's names, and where among them each tensor of the model is."""
    tensors = _modern(file.tensors)
    fcs = _box_fcs(tensors)
    rules: Rules = (*_NAMES, (r"^box_head\.fcs\.(\d)\.", lambda match: f"{fcs[int(match[1])]}."))
    return tensors, sources(model_names, rules)


def _modern(tensors: Tensors) -> Tensors:
    return Tensors(tensors.source, {renamed(name, _OLD_NAMES): tensor for name, tensor in tensors.items()})


def _box_fcs(tensors: Tensors) -> list[str]:
    """`fc6` and `fc7`; or, after convolutions and a Flatten, every other number of one sequence."""
    if "roi_heads.box_head.fc6.weight" in tensors:
        return ["roi_heads.box_head.fc6", "roi_heads.box_head.fc7"]
    numbered = re.compile(r"(roi_heads\.box_head\.\d+)\.weight")
    return [match[1] for name in tensors if (match := numbered.fullmatch(name))]


def _backbone(tensors: Tensors, bn_eps: float) -> BackboneConfig:
    def conv(stage: int, block: int, number: int) -> tuple[int, ...] | None:
        tensor = tensors.get(f"backbone.body.layer{stage - 1}.{block}.conv{number}.weight")
        return None if tensor is None else tuple(tensor.shape)

    shape = read_resnet(conv)
    stem_width = tensors["backbone.body.conv1.weight"].shape[0]
    return BackboneConfig(shape.depth, stem_width, shape.stage_widths, bn_eps=bn_eps)


def _bn_eps(tensors: Tensors, settings: Settings) -> float:
    """Only `BatchNorm2d` shows, by its counts of batches; its epsilon is torch's own.

    Frozen BatchNorm of the published COCO weights of ResNet-50, and of what was fine-tuned from them, has epsilon 0; of
    other bodies there are no such weights, and epsilon is the layer's own 1e-5.
    """
    counted = "backbone.body.bn1.num_batches_tracked" in tensors
    fine_tuned = not counted and "backbone.body.layer3.5.conv3.weight" in tensors
    published = fine_tuned and "backbone.body.layer3.6.conv3.weight" not in tensors
    return settings.take("BatchNorm eps", 0.0 if published else 1e-5, flag="bn_eps")


def _rpn(tensors: Tensors, settings: Settings) -> RpnConfig:
    cells = _cells(settings)
    per_location = tensors["rpn.head.cls_logits.weight"].shape[0]
    if any(len(level) != per_location for level in cells):
        raise WeightsConfigError(
            f"The weights have {per_location} anchors a location, but these sizes and ratios make "
            f"{', '.join(str(len(level)) for level in cells)} on the five levels. Say in --config which they are: "
            '{"rpn_anchor_generator": {"sizes": [...], "aspect_ratios": [...]}}.'
        )
    return RpnConfig(
        channels=tensors["rpn.head.cls_logits.weight"].shape[1],
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
    """Rounded, and ordered by ratio, then by size, which for one size a level is every family's order."""
    sizes = settings.take("rpn_anchor_generator.sizes", ((32,), (64,), (128,), (256,), (512,)))
    ratios = settings.take("rpn_anchor_generator.aspect_ratios", (0.5, 1.0, 2.0))
    levels = [s if isinstance(s, tuple) else (s,) for s in sizes]
    ratios_by_level = ratios if isinstance(ratios[0], tuple) else (ratios,) * len(levels)
    if len(levels) != 5 or len(ratios_by_level) != 5:
        raise WeightsConfigError("rpn_anchor_generator: this pyramid has five levels; give sizes and ratios for each.")
    return tuple(
        tuple(cell for ratio in level_ratios for cell in anchor_cells((level,), (ratio,), rounded=True)[0])
        for level, level_ratios in zip(levels, ratios_by_level, strict=True)
    )


def _roi_align(settings: Settings) -> RoiAlignConfig:
    box_samples = settings.take("box_roi_pool.sampling_ratio", 2)
    mask_samples = settings.take("mask_roi_pool.sampling_ratio", 2)
    if box_samples != mask_samples or box_samples < 1:
        raise WeightsConfigError("box_roi_pool and mask_roi_pool must have the same sampling_ratio, at least 1.")
    return RoiAlignConfig(
        box_output_size=settings.take("box_roi_pool.output_size", 7),
        mask_output_size=settings.take("mask_roi_pool.output_size", 14),
        sampling_ratio=box_samples,
    )


def _heads(tensors: Tensors, settings: Settings, bn_eps: float) -> HeadConfig:
    convs = count(tensors, "roi_heads.box_head.{}.0.weight")
    masks = count(tensors, "roi_heads.mask_head.{}.0.weight")
    weights: tuple[Any, ...] = settings.take("bbox_reg_weights", (10.0, 10.0, 5.0, 5.0))
    return HeadConfig(
        box_conv_widths=tuple(tensors[f"roi_heads.box_head.{i}.0.weight"].shape[0] for i in range(convs)),
        box_fc_widths=tuple(tensors[f"{name}.weight"].shape[0] for name in _box_fcs(tensors)),
        box_norm="roi_heads.box_head.0.1.running_mean" in tensors,
        norm_eps=bn_eps,
        mask_conv_widths=tuple(tensors[f"roi_heads.mask_head.{i}.0.weight"].shape[0] for i in range(masks)),
        mask_deconv_width=tensors["roi_heads.mask_predictor.conv5_mask.weight"].shape[1],
        mask_norm="roi_heads.mask_head.0.1.running_mean" in tensors,
        mask_conv_bias="roi_heads.mask_head.0.0.bias" in tensors,
        box_std=(1 / weights[0], 1 / weights[1], 1 / weights[2], 1 / weights[3]),
    )


def _input(settings: Settings) -> InputConfig:
    mean = settings.take("image_mean", (0.485, 0.456, 0.406))
    std = settings.take("image_std", (0.229, 0.224, 0.225))
    return InputConfig(
        mean=(255 * mean[0], 255 * mean[1], 255 * mean[2]),
        std=(255 * std[0], 255 * std[1], 255 * std[2]),
        dtype="float32",
        min_size=settings.take("min_size", 800, flag="min_size"),
        max_size=settings.take("max_size", 1333, flag="max_size"),
        rounding="floor",
        interpolation="linear",
    )
