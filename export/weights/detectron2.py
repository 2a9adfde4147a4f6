"""detectron2's Mask R-CNN with a ResNet-18 to 101 and FPN (`mask_rcnn_R_50_FPN_3x` and its kin), as .pkl and .pth.

The weights show the body, the class count, the anchors a location, the heads' depths and where BatchNorm stands. The
rest is in the config.yaml that training leaves beside them, or in a partial one of the model zoo. Its pictures are BGR
and its background is the last class; here the stem's convolution is made to take RGB and the background comes first.
Source: detectron2 0.6, `modeling` and `config/defaults.py`, with the values of `Base-RCNN-FPN.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

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
    anchor_cells,
)
from export.weights.class_names import COCO_80, class_names
from export.weights.detectron2_config import box_std, levels, limit, numbers, of_both_heads, prepare
from export.weights.errors import UnsupportedWeightsError, WeightsConfigError
from export.weights.files import Tensors, WeightsFile
from export.weights.mapping import AS_IT_IS, Layout, Rules, Source, count, sources
from export.weights.resnet import read_resnet
from export.weights.settings import Settings

SIGNATURE = "roi_heads.mask_head.predictor.weight"
"""A tensor that only this family has."""

_NAMES: Rules = (
    (r"^backbone\.stem\.conv\.", "backbone.bottom_up.stem.conv1."),
    (r"^backbone\.stem\.norm\.", "backbone.bottom_up.stem.conv1.norm."),
    (r"^backbone\.stage(\d)\.", r"backbone.bottom_up.res\1."),
    (r"^(backbone\.bottom_up\.res.*)\.norm(\d)\.", r"\1.conv\2.norm."),
    (r"^(backbone\.bottom_up\.res.*)\.shortcut\.0\.", r"\1.shortcut."),
    (r"^(backbone\.bottom_up\.res.*)\.shortcut\.1\.", r"\1.shortcut.norm."),
    (r"^fpn\.(lateral|output)\.(\d)\.", lambda m: f"backbone.fpn_{m[1]}{int(m[2]) + 2}."),
    (r"^(backbone\.fpn_\w+)\.0\.", r"\1."),
    (r"^(backbone\.fpn_\w+)\.1\.", r"\1.norm."),
    (r"^rpn_head\.logits\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"^rpn_head\.deltas\.", "proposal_generator.rpn_head.anchor_deltas."),
    (r"^box_head\.class_logits\.", "roi_heads.box_predictor.cls_score."),
    (r"^box_head\.deltas\.", "roi_heads.box_predictor.bbox_pred."),
    (r"^box_head\.convs\.(\d+)\.", lambda m: f"roi_heads.box_head.conv{int(m[1]) + 1}."),
    (r"^box_head\.conv_norms\.(\d+)\.", lambda m: f"roi_heads.box_head.conv{int(m[1]) + 1}.norm."),
    (r"^box_head\.fcs\.(\d+)\.", lambda m: f"roi_heads.box_head.fc{int(m[1]) + 1}."),
    (r"^mask_head\.convs\.(\d+)\.", lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}."),
    (r"^mask_head\.norms\.(\d+)\.", lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}.norm."),
    (r"^mask_head\.deconv\.", "roi_heads.mask_head.deconv."),
    (r"^mask_head\.logits\.", "roi_heads.mask_head.predictor."),
)
"""From the model's names to the file's; the RPN's convolutions follow from `_rpn_convs`."""

_BODY: Final = "backbone.bottom_up."

_BUFFERS: Final = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.cell_anchors.")
"""In files of older versions; the configuration tells them."""


def read_config(file: WeightsFile, settings: Settings) -> ModelConfig:
    """The configuration of the model in `file`. Raises a `WeightsError` for what cannot be rebuilt."""
    tensors = _weights(file.tensors)
    _refuse_other_parts(tensors)
    prepare(settings)
    if not _has_statistics(file.tensors):
        settings.take("MODEL.RESNETS.NORM", "FrozenBN")  # GroupNorm would have the same names: say what is assumed
    bn_eps = settings.take("BatchNorm eps", 1e-5, flag="bn_eps")
    return ModelConfig(
        classes=class_names(_class_count(tensors, settings) + 1, settings, COCO_80),
        family="detectron2",
        backbone=_backbone(tensors, settings, bn_eps),
        fpn=_fpn(tensors, settings, bn_eps),
        rpn=_rpn(tensors, settings),
        roi_align=_roi_align(settings),
        heads=_heads(tensors, settings, bn_eps),
        detection=DetectionConfig(
            score_threshold=settings.take("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.05, flag="score_threshold"),
            nms_iou_threshold=settings.take("MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.5),
            max_detections=limit(settings, "TEST.DETECTIONS_PER_IMAGE", 100, flag="max_detections"),
        ),
        input=_input(settings),
        mask_paste="detectron2",
    )


def read_sources(
    file: WeightsFile, model_names: Iterable[str], settings: Settings
) -> tuple[Tensors, dict[str, Source]]:
    """The file's tensors, and where among them each tensor of the model is."""
    tensors = _weights(file.tensors)
    convs = _rpn_convs(tensors)
    rules: Rules = (*_NAMES, (r"^rpn_head\.convs\.(\d+)\.", lambda match: f"{convs[int(match[1])]}."))
    bgr = any(setting.name == "INPUT.FORMAT" and setting.value == "BGR" for setting in settings.taken)
    layouts = _BACKGROUND_FIRST | ({"backbone.stem.conv.weight": _CHANNELS_REVERSED} if bgr else {})
    return tensors, sources(model_names, rules, lambda name: layouts.get(name, AS_IT_IS))


# Layouts


def _without_background(rows: int) -> Layout:
    """Rows for the background, which the file has not, come first and are zeros: no detection is of it."""
    return Layout(
        lambda tensor: torch.cat((tensor.new_zeros(rows, *tensor.shape[1:]), tensor)),
        lambda shape: (shape[0] - rows, *shape[1:]),
    )


_CHANNELS_REVERSED: Final = Layout(lambda tensor: tensor.flip(1), lambda shape: shape)
_BACKGROUND_LAST: Final = Layout(lambda tensor: tensor.roll(1, 0), lambda shape: shape)
_BACKGROUND_FIRST: Final = {
    f"{layer}.{kind}": layout
    for layer, layout in {
        "box_head.class_logits": _BACKGROUND_LAST,
        "box_head.deltas": _without_background(4),
        "mask_head.logits": _without_background(1),
    }.items()
    for kind in ("weight", "bias")
}
"""Layouts by the model's names."""


# From the weights, and checked against the configuration


def _weights(tensors: Tensors) -> Tensors:
    """Without buffers that are no weights. Bodies that come from Caffe2 have merged BatchNorm's statistics into its
    other weights; they get those that detectron2 gives them then."""
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(_BUFFERS)}
    if not _has_statistics(tensors):
        for layer in [name.removesuffix("weight") for name in weights if _is_norm(name) and name.startswith(_BODY)]:
            weights[f"{layer}running_mean"] = torch.zeros_like(weights[f"{layer}weight"])
            weights[f"{layer}running_var"] = torch.ones_like(weights[f"{layer}weight"])
    return Tensors(tensors.source, weights)


def _has_statistics(tensors: Tensors) -> bool:
    return any(name.startswith(_BODY) and name.endswith(".running_mean") for name in tensors)


def _is_norm(name: str) -> bool:
    return name.endswith(".norm.weight")


def _refuse_other_parts(tensors: Tensors) -> None:
    if "backbone.fpn_lateral2.weight" not in tensors:
        raise UnsupportedWeightsError(f"{tensors.source} has no feature pyramid (FPN) on a ResNet's four stages.")
    if any(".conv2_offset." in name for name in tensors):
        raise UnsupportedWeightsError(f"{tensors.source} has deformable convolutions, which cannot be rebuilt here.")
    normed = [name.removesuffix("weight") for name in tensors if _is_norm(name) and not name.startswith(_BODY)]
    if any(f"{layer}running_mean" not in tensors for layer in normed):
        raise UnsupportedWeightsError(f"{tensors.source} has GroupNorm; only BatchNorm can be rebuilt here.")


def _class_count(tensors: Tensors, settings: Settings) -> int:
    """Classes without the background."""
    classes = tensors["roi_heads.box_predictor.cls_score.weight"].shape[0] - 1
    settings.check("MODEL.ROI_HEADS.NUM_CLASSES", classes)
    boxes = tensors["roi_heads.box_predictor.bbox_pred.weight"].shape[0]
    masks = tensors["roi_heads.mask_head.predictor.weight"].shape[0]
    if classes > 1 and (boxes == 4 or masks == 1):
        part = "boxes" if boxes == 4 else "masks"
        raise UnsupportedWeightsError(f"{tensors.source} has the same {part} for every class (CLS_AGNOSTIC).")
    return classes


def _backbone(tensors: Tensors, settings: Settings, bn_eps: float) -> BackboneConfig:
    def conv(stage: int, block: int, number: int) -> tuple[int, ...] | None:
        tensor = tensors.get(f"backbone.bottom_up.res{stage}.{block}.conv{number}.weight")
        return None if tensor is None else tuple(tensor.shape)

    shape = read_resnet(conv)
    settings.check("MODEL.RESNETS.DEPTH", shape.depth)
    return BackboneConfig(
        depth=shape.depth,
        stem_width=tensors["backbone.bottom_up.stem.conv1.weight"].shape[0],
        stage_widths=shape.stage_widths,
        stride_in_1x1=settings.take("MODEL.RESNETS.STRIDE_IN_1X1", True),
        bn_eps=bn_eps,
    )


def _fpn(tensors: Tensors, settings: Settings, bn_eps: float) -> FpnConfig:
    channels = tensors["backbone.fpn_lateral2.weight"].shape[0]
    settings.check("MODEL.FPN.OUT_CHANNELS", channels)
    return FpnConfig(channels, norm="backbone.fpn_lateral2.norm.weight" in tensors, norm_eps=bn_eps)


def _rpn_convs(tensors: Tensors) -> list[str]:
    alone = "proposal_generator.rpn_head.conv"
    if f"{alone}.weight" in tensors:
        return [alone]
    return [f"{alone}.conv{i}" for i in range(count(tensors, f"{alone}.conv{{}}.weight"))]


def _rpn(tensors: Tensors, settings: Settings) -> RpnConfig:
    logits = tensors["proposal_generator.rpn_head.objectness_logits.weight"]
    return RpnConfig(
        channels=logits.shape[1],
        conv_depth=len(_rpn_convs(tensors)),
        cells=_cells(settings, per_location=logits.shape[0]),
        box_std=box_std(settings, "MODEL.RPN.BBOX_REG_WEIGHTS", (1.0, 1.0, 1.0, 1.0)),
        pre_nms_topk=settings.take("MODEL.RPN.PRE_NMS_TOPK_TEST", 1000),
        post_nms_topk=settings.take("MODEL.RPN.POST_NMS_TOPK_TEST", 1000),
        nms_iou_threshold=settings.take("MODEL.RPN.NMS_THRESH", 0.7),
        min_size=settings.take("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", 0.0),
    )


def _cells(settings: Settings, *, per_location: int) -> tuple[tuple[Cell, ...], ...]:
    """About the positions at (column * stride, row * stride), so that an OFFSET moves the cells."""
    sizes = levels(settings, "MODEL.ANCHOR_GENERATOR.SIZES", ((32,), (64,), (128,), (256,), (512,)))
    ratios = levels(settings, "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", ((0.5, 1.0, 2.0),))
    counts = [len(s) * len(r) for s, r in zip(sizes, ratios, strict=True)]
    if counts != [per_location] * LEVEL_COUNT:
        raise WeightsConfigError(
            f"The weights have {per_location} anchors a location, but these SIZES and ASPECT_RATIOS make "
            f"{', '.join(map(str, counts))} on the five levels. Say in --config which they are, under "
            "MODEL.ANCHOR_GENERATOR."
        )
    offset = settings.take("MODEL.ANCHOR_GENERATOR.OFFSET", 0.0)
    shifts = [offset * 2**level for level in range(2, 2 + LEVEL_COUNT)]
    return tuple(
        tuple((x1 + by, y1 + by, x2 + by, y2 + by) for x1, y1, x2, y2 in anchor_cells((s,), r)[0])
        for s, r, by in zip(sizes, ratios, shifts, strict=True)
    )


def _roi_align(settings: Settings) -> RoiAlignConfig:
    return RoiAlignConfig(
        box_output_size=settings.take("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7),
        mask_output_size=settings.take("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 14),
        sampling_ratio=of_both_heads(settings, "POOLER_SAMPLING_RATIO", 0),
        aligned=of_both_heads(settings, "POOLER_TYPE", "ROIAlignV2") == "ROIAlignV2",
    )


def _heads(tensors: Tensors, settings: Settings, bn_eps: float) -> HeadConfig:
    convs = _widths(tensors, "roi_heads.box_head.conv{}.weight")
    fcs = _widths(tensors, "roi_heads.box_head.fc{}.weight")
    masks = _widths(tensors, "roi_heads.mask_head.mask_fcn{}.weight")
    settings.check("MODEL.ROI_BOX_HEAD.NUM_CONV", len(convs))
    settings.check("MODEL.ROI_BOX_HEAD.NUM_FC", len(fcs))
    settings.check("MODEL.ROI_MASK_HEAD.NUM_CONV", len(masks))
    mask_norm = "roi_heads.mask_head.mask_fcn1.norm.weight" in tensors
    return HeadConfig(
        box_conv_widths=convs,
        box_fc_widths=fcs,
        box_norm="roi_heads.box_head.conv1.norm.weight" in tensors,
        box_norm_eps=bn_eps,
        mask_conv_widths=masks,
        mask_deconv_width=tensors["roi_heads.mask_head.deconv.weight"].shape[1],
        mask_norm=mask_norm,
        mask_conv_bias=not mask_norm,
        box_std=box_std(settings, "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", (10.0, 10.0, 5.0, 5.0)),
    )


def _widths(tensors: Tensors, pattern: str) -> tuple[int, ...]:
    """Of the layers that have 1, 2, 3 and so on in place of the braces."""
    widths: list[int] = []
    while (name := pattern.format(len(widths) + 1)) in tensors:
        widths.append(tensors[name].shape[0])
    return tuple(widths)


def _input(settings: Settings) -> InputConfig:
    mean = numbers(settings, "MODEL.PIXEL_MEAN", (103.53, 116.28, 123.675))
    std = numbers(settings, "MODEL.PIXEL_STD", (1.0, 1.0, 1.0), positive=True)
    rgb = slice(None, None, -1 if settings.take("INPUT.FORMAT", "BGR") == "BGR" else 1)
    return InputConfig(
        mean=mean[rgb],
        std=std[rgb],
        min_size=limit(settings, "INPUT.MIN_SIZE_TEST", 800, flag="min_size"),
        max_size=limit(settings, "INPUT.MAX_SIZE_TEST", 1333, flag="max_size"),
    )
