"""A small model of each family: its configuration, and random weights for it."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from export.model.config import (
    BackboneConfig,
    DetectionConfig,
    FpnConfig,
    HeadConfig,
    InputConfig,
    ModelConfig,
    RoiAlignConfig,
    RpnConfig,
    anchor_cells,
)
from export.model.mask_rcnn import MaskRCNN

SIZES = ((32,), (64,), (128,), (256,), (512,))
CLASSES = ("background", "round", "square")
TINY = BackboneConfig(depth=18, stem_width=4, stage_widths=(4, 6, 8, 10))
TINY_HEADS = HeadConfig(box_fc_widths=(16, 12), mask_conv_widths=(8, 6), mask_deconv_width=5)
TINY_RPN = RpnConfig(channels=8, pre_nms_topk=40, post_nms_topk=20)

NATIVE = ModelConfig(
    classes=CLASSES,
    backbone=TINY,
    fpn=FpnConfig(channels=8),
    rpn=TINY_RPN,
    heads=TINY_HEADS,
    detection=DetectionConfig(max_detections=15),
)
TORCHVISION_V2 = dataclasses.replace(
    NATIVE,
    family="torchvision",
    backbone=dataclasses.replace(TINY, depth=50),
    fpn=FpnConfig(channels=8, norm=True),
    rpn=dataclasses.replace(
        TINY_RPN, conv_depth=2, cells=anchor_cells(SIZES, rounded=True), min_size=1e-3, min_size_inclusive=True
    ),
    heads=dataclasses.replace(
        TINY_HEADS, box_conv_widths=(7, 9), box_fc_widths=(16,), box_norm=True, mask_norm=True, mask_conv_bias=False
    ),
    detection=DetectionConfig(max_detections=15, min_size=1e-2),
    input=InputConfig(dtype="float32"),
)
DETECTRON2 = dataclasses.replace(
    NATIVE,
    family="detectron2",
    backbone=dataclasses.replace(TINY, depth=101, stride_in_1x1=True),
    roi_align=RoiAlignConfig(sampling_ratio=0, aligned=True),
)
MATTERPORT = dataclasses.replace(
    NATIVE,
    family="matterport",
    corner_coordinates=True,
    backbone=dataclasses.replace(
        TINY, depth=50, stride_in_1x1=True, conv_bias=True, bn_eps=1e-3, stem_pool="same"
    ),
    rpn=dataclasses.replace(
        TINY_RPN, objectness="softmax", selection="joint", clip="canvas", min_size=None, delta_clamp=None,
        box_std=(0.1, 0.1, 0.2, 0.2), cells=anchor_cells(SIZES, ratios=(2.0, 1.0, 0.5)),
    ),
    roi_align=RoiAlignConfig(crop_and_resize=True, level_rule="round"),
    heads=dataclasses.replace(TINY_HEADS, box_norm=True, box_norm_eps=1e-3, mask_norm=True, delta_clamp=None),
    detection=DetectionConfig(
        candidates="best_class", score_threshold=0.3, score_threshold_inclusive=True, nms_iou_threshold=0.3,
        max_detections=15,
    ),
    input=InputConfig(mean=(123.7, 116.8, 103.9), std=(1.0, 1.0, 1.0), placement="centre", padding="black"),
)  # fmt: skip


def draw(config: ModelConfig, seed: int = 0) -> MaskRCNN:
    """A model whose BatchNorms all do something and whose class logits are spread enough to find something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MaskRCNN(config).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
                nn.init.normal_(module.running_mean, std=0.2)  # type: ignore[arg-type]  # None only where not tracked
                nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        for layer in (model.rpn_head.logits, model.box_head.class_logits, model.mask_head.logits):
            nn.init.normal_(layer.weight, std=1.0)
    return model
