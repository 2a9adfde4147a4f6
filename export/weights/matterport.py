"""Matterport's `Mask_RCNN` in Keras, and its ports to later TensorFlow: `.h5` with the weights or the whole model.

The weights show the body, the class count, the anchors a location, the RoI size of the box head and every width. They
do not show anchor sizes, thresholds and picture sizes; `--config` takes these by the names of the attributes of
`Config`, as JSON or YAML: `{"IMAGE_MAX_DIM": 512, "RPN_ANCHOR_SCALES": [8, 16, 32, 64, 128]}`. What else `Config` holds
is training's, or follows from other values, and may stay there.
Source: matterport/Mask_RCNN and akTwelve/Mask_RCNN, `mrcnn/model.py`, `mrcnn/config.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

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
from export.weights.class_names import COCO_80, class_names
from export.weights.errors import MismatchedWeightsError, WeightsConfigError
from export.weights.files import Tensors, WeightsFile
from export.weights.mapping import AS_IT_IS, Layout, Rules, Source, sources
from export.weights.resnet import Shape, read_resnet
from export.weights.settings import Settings

SIGNATURE = "mrcnn_mask/kernel"
"""A tensor that only this family has."""

_STRIDES = (4, 8, 16, 32, 64)
_DIVISOR = 64
"""What the sides of a canvas are multiples of, so that the pyramid's levels fit each other."""

_NOT_MODEL = ("anchors/", "optimizer_weights/")
"""What training may leave in the file beside the model's tensors."""

_LARGEST_SIDE = 4096
"""Of a canvas in the modes that have no limit of their own."""

_NOT_INFERENCE = """
BATCH_SIZE COMPUTE_BACKBONE_SHAPE GPU_COUNT GRADIENT_CLIP_NORM IMAGES_PER_GPU IMAGE_META_SIZE IMAGE_SHAPE
LEARNING_MOMENTUM LEARNING_RATE LOSS_WEIGHTS MAX_GT_INSTANCES MINI_MASK_SHAPE NAME POST_NMS_ROIS_TRAINING
ROI_POSITIVE_RATIO RPN_TRAIN_ANCHORS_PER_IMAGE STEPS_PER_EPOCH TRAIN_BN TRAIN_ROIS_PER_IMAGE USE_MINI_MASK USE_RPN_ROIS
VALIDATION_STEPS WEIGHT_DECAY
"""
"""What `Config` holds for training, or computes from its other values."""

_NAMES: Rules = (
    (r"^backbone\.stem\.conv\.", "conv1."),
    (r"^backbone\.stem\.norm\.", "bn_conv1."),
    (r"^backbone\.stage(\d)\.(\d+)\.", lambda m: f"backbone.{m[1]}{_block(int(m[2]))}_branch."),
    (r"^backbone\.(.*)\.conv(\d)\.", lambda m: f"res{m[1]}2{'abc'[int(m[2]) - 1]}."),
    (r"^backbone\.(.*)\.norm(\d)\.", lambda m: f"bn{m[1]}2{'abc'[int(m[2]) - 1]}."),
    (r"^backbone\.(.*)\.shortcut\.0\.", r"res\g<1>1."),
    (r"^backbone\.(.*)\.shortcut\.1\.", r"bn\g<1>1."),
    (r"^fpn\.lateral\.(\d)\.0\.", lambda m: f"fpn_c{int(m[1]) + 2}p{int(m[1]) + 2}."),
    (r"^fpn\.output\.(\d)\.0\.", lambda m: f"fpn_p{int(m[1]) + 2}."),
    (r"^rpn_head\.convs\.0\.", "rpn_conv_shared."),
    (r"^rpn_head\.logits\.", "rpn_class_raw."),
    (r"^rpn_head\.deltas\.", "rpn_bbox_pred."),
    (r"^box_head\.fcs\.(\d)\.", lambda m: f"mrcnn_class_conv{int(m[1]) + 1}."),
    (r"^box_head\.fc_norms\.(\d)\.", lambda m: f"mrcnn_class_bn{int(m[1]) + 1}."),
    (r"^box_head\.class_logits\.", "mrcnn_class_logits."),
    (r"^box_head\.deltas\.", "mrcnn_bbox_fc."),
    (r"^mask_head\.convs\.(\d)\.", lambda m: f"mrcnn_mask_conv{int(m[1]) + 1}."),
    (r"^mask_head\.norms\.(\d)\.", lambda m: f"mrcnn_mask_bn{int(m[1]) + 1}."),
    (r"^mask_head\.deconv\.", "mrcnn_mask_deconv."),
    (r"^mask_head\.logits\.", "mrcnn_mask."),
    (r"^((?:bn|mrcnn_class_bn|mrcnn_mask_bn).*)\.weight$", r"\1/gamma"),
    (r"^((?:bn|mrcnn_class_bn|mrcnn_mask_bn).*)\.bias$", r"\1/beta"),
    (r"\.running_mean$", "/moving_mean"),
    (r"\.running_var$", "/moving_variance"),
    (r"\.weight$", "/kernel"),
    (r"\.bias$", "/bias"),
)
"""From the model's names to the file's."""


def read_config(file: WeightsFile, settings: Settings) -> ModelConfig:
    """The configuration of the model in `file`. Raises a `WeightsError` for what cannot be rebuilt."""
    tensors = file.tensors
    num_classes = _width(tensors, "mrcnn_class_logits")
    settings.check("NUM_CLASSES", num_classes)
    settings.asked.update(_NOT_INFERENCE.split())
    bn_eps = settings.take("BatchNorm eps", 1e-3, flag="bn_eps")
    return ModelConfig(
        classes=class_names(num_classes, settings, COCO_80),
        family="matterport",
        backbone=_backbone(tensors, settings, bn_eps),
        fpn=_fpn(tensors, settings),
        rpn=_rpn(tensors, settings),
        roi_align=_roi_align(tensors, settings),
        heads=_heads(tensors, settings, bn_eps),
        detection=DetectionConfig(
            candidates="best_class",
            score_threshold=settings.take("DETECTION_MIN_CONFIDENCE", 0.7, flag="score_threshold"),
            score_threshold_inclusive=True,
            nms_iou_threshold=settings.take("DETECTION_NMS_THRESHOLD", 0.3),
            max_detections=settings.take("DETECTION_MAX_INSTANCES", 100, flag="max_detections"),
        ),
        input=_input(settings),
        corner_coordinates=True,
        mask_paste="matterport",
    )


def read_sources(
    file: WeightsFile, model_names: Iterable[str], settings: Settings
) -> tuple[Tensors, dict[str, Source]]:
    """The file's tensors, and where among them each tensor of the model is."""
    pool_size = _pool_size(file.tensors)
    tensors = {name: tensor for name, tensor in file.tensors.items() if not name.startswith(_NOT_MODEL)}
    return Tensors(file.tensors.source, tensors), sources(model_names, _NAMES, lambda name: _layout(name, pool_size))


def _block(number: int) -> str:
    """Blocks are lettered; of the 23 of ResNet-101's stage 4, the last is w."""
    return chr(ord("a") + number)


def _width(tensors: Tensors, layer: str) -> int:
    """The outputs of a layer, by its bias, which is of the same shape in layers of every kind."""
    return tensors[f"{layer}/bias"].numel()


def _pool_size(tensors: Tensors) -> int:
    """The side of the box head's RoIs, all of which its first convolution covers."""
    name = "mrcnn_class_conv1/kernel"
    shape = tuple(tensors[name].shape)
    if len(shape) != 4 or shape[0] != shape[1]:
        usual = (7, 7, _width(tensors, "fpn_p2"), _width(tensors, "mrcnn_class_conv1"))
        raise MismatchedWeightsError(tensors.source, [], [(name, shape, usual)], [])
    return shape[0]


def _backbone(tensors: Tensors, settings: Settings, bn_eps: float) -> BackboneConfig:
    def conv(stage: int, block: int, number: int) -> Shape | None:
        kernel = tensors.get(f"res{stage}{_block(block)}_branch2{'abc'[number - 1]}/kernel")
        return None if kernel is None or kernel.ndim != 4 else tuple(kernel.permute(3, 2, 0, 1).shape)

    shape = read_resnet(conv)
    settings.check("BACKBONE", f"resnet{shape.depth}")
    return BackboneConfig(
        depth=shape.depth,
        stem_width=_width(tensors, "conv1"),
        stage_widths=shape.stage_widths,
        stride_in_1x1=True,
        conv_bias=True,
        bn_eps=bn_eps,
        stem_pool="same",
    )


def _fpn(tensors: Tensors, settings: Settings) -> FpnConfig:
    channels = _width(tensors, "fpn_p2")
    settings.check("TOP_DOWN_PYRAMID_SIZE", channels)
    return FpnConfig(channels)


def _rpn(tensors: Tensors, settings: Settings) -> RpnConfig:
    settings.expect("BACKBONE_STRIDES", _STRIDES)
    settings.expect("RPN_ANCHOR_STRIDE", 1)
    sizes = _numbers(settings, "RPN_ANCHOR_SCALES", (32, 64, 128, 256, 512), 5)
    ratios = _numbers(settings, "RPN_ANCHOR_RATIOS", (0.5, 1, 2), _width(tensors, "rpn_class_raw") // 2)
    return RpnConfig(
        channels=_width(tensors, "rpn_conv_shared"),
        objectness="softmax",
        # Matterport's ratios are width / height.
        cells=anchor_cells(tuple((size,) for size in sizes), tuple(1 / ratio for ratio in ratios)),
        strides=_STRIDES,
        box_std=_box_std(settings, "RPN_BBOX_STD_DEV"),
        delta_clamp=None,
        selection="joint",
        clip="canvas",
        pre_nms_topk=settings.take("PRE_NMS_LIMIT", 6000),
        post_nms_topk=settings.take("POST_NMS_ROIS_INFERENCE", 1000),
        nms_iou_threshold=settings.take("RPN_NMS_THRESHOLD", 0.7),
        min_size=None,
    )


def _roi_align(tensors: Tensors, settings: Settings) -> RoiAlignConfig:
    pool_size = _pool_size(tensors)
    settings.check("POOL_SIZE", pool_size)
    mask_pool_size = settings.take("MASK_POOL_SIZE", 14)
    settings.expect("MASK_SHAPE", (2 * mask_pool_size, 2 * mask_pool_size))
    return RoiAlignConfig(pool_size, mask_pool_size, sampling_ratio=1, crop_and_resize=True, level_rule="round")


def _heads(tensors: Tensors, settings: Settings, bn_eps: float) -> HeadConfig:
    fc_widths = _width(tensors, "mrcnn_class_conv1"), _width(tensors, "mrcnn_class_conv2")
    settings.check("FPN_CLASSIF_FC_LAYERS_SIZE", fc_widths[0])
    return HeadConfig(
        box_fc_widths=fc_widths,
        box_norm=True,
        box_norm_eps=bn_eps,
        mask_conv_widths=tuple(_width(tensors, f"mrcnn_mask_conv{i}") for i in range(1, 5)),
        mask_deconv_width=_width(tensors, "mrcnn_mask_deconv"),
        mask_norm=True,
        box_std=_box_std(settings, "BBOX_STD_DEV"),
        delta_clamp=None,
    )


def _input(settings: Settings) -> InputConfig:
    settings.expect("IMAGE_CHANNEL_COUNT", 3)
    settings.expect("IMAGE_MIN_SCALE", 0, 0.0)
    mode = settings.take("IMAGE_RESIZE_MODE", "square")
    mean = _numbers(settings, "MEAN_PIXEL", (123.7, 116.8, 103.9), 3)
    min_size, max_size, square = _sizes(settings, mode)
    return InputConfig(
        mean=(mean[0], mean[1], mean[2]),
        std=(1.0, 1.0, 1.0),
        resize_rule="grow_shortest_edge",
        min_size=min_size,
        max_size=max_size,
        rounding="half_even",
        interpolation="linear_zero_border",
        placement="centre",
        padding="black",
        size_divisor=_DIVISOR,
        square=square,
    )


def _sizes(settings: Settings, mode: str) -> tuple[int, int, int | None]:
    """Least and greatest side of a picture, and the side of the canvas where it is fixed; least 1 never grows it."""
    if mode == "square":
        side = settings.take("IMAGE_MAX_DIM", 1024, flag="max_size")
        if side < 1 or side % _DIVISOR:
            raise WeightsConfigError(f"IMAGE_MAX_DIM (--max-size) is {side}; it must be a multiple of {_DIVISOR}.")
        return max(1, settings.take("IMAGE_MIN_DIM", 800, flag="min_size")), side, side
    settings.asked.add("IMAGE_MAX_DIM")  # which the original does not look at in these modes
    largest = settings.take("largest side", _LARGEST_SIDE, flag="max_size")
    if mode == "pad64":
        return max(1, settings.take("IMAGE_MIN_DIM", 800, flag="min_size")), largest, None
    if mode == "none":
        settings.asked.add("IMAGE_MIN_DIM")
        return 1, largest, None
    raise WeightsConfigError(f"IMAGE_RESIZE_MODE is {mode!r}; 'square', 'pad64' and 'none' can be rebuilt here.")


def _box_std(settings: Settings, name: str) -> tuple[float, float, float, float]:
    """In the model's order, (dx, dy, dw, dh)."""
    dy, dx, dh, dw = _numbers(settings, name, (0.1, 0.1, 0.2, 0.2), 4)
    return dx, dy, dw, dh


def _numbers(settings: Settings, name: str, default: tuple[float, ...], count: int) -> tuple[float, ...]:
    """`count` numbers above zero. Raises `WeightsConfigError`."""
    values = settings.take(name, default)
    if len(values) != count or not all(type(v) in (int, float) and v > 0 for v in values):
        raise WeightsConfigError(f"{name} is {list(values)}; this model needs {count} numbers above zero.")
    return tuple(float(v) for v in values)


# Layouts


def _layout(name: str, pool_size: int) -> Layout:
    """By the model's name of a tensor. Keras's convolutions are [H, W, in, out], its dense layers [in, out]."""
    layer, _, kind = name.rpartition(".")
    swapped = layer in ("rpn_head.deltas", "box_head.deltas")
    if kind == "bias" and swapped:
        return Layout(_swap_xy, lambda shape: shape)
    if kind != "weight" or "norm" in layer or layer.endswith("shortcut.1"):
        return AS_IT_IS
    if layer == "box_head.fcs.0":
        return _valid_conv(pool_size)
    if layer.startswith("box_head.fcs."):
        return _valid_conv(1)
    base = _DENSE if layer in ("box_head.class_logits", "box_head.deltas") else _CONV
    return Layout(lambda tensor: _swap_xy(base.to_model(tensor)), base.shape_in_file) if swapped else base


# A transposed convolution is [H, W, out, in] there and [in, out, H, W] here: the same permutation.
_CONV = Layout(lambda tensor: tensor.permute(3, 2, 0, 1), lambda shape: (shape[2], shape[3], shape[1], shape[0]))
_DENSE = Layout(lambda tensor: tensor.t(), lambda shape: shape[::-1])


def _valid_conv(side: int) -> Layout:
    """A convolution that covers the whole of its input [C, side, side], as a fully connected layer."""

    def shape_in_file(shape: Shape) -> Shape:
        outputs, inputs = shape
        return side, side, inputs // side**2, outputs

    return Layout(lambda tensor: _CONV.to_model(tensor).flatten(1), shape_in_file)


def _swap_xy(deltas: Tensor) -> Tensor:
    """Rows in fours (dy, dx, dh, dw) as (dx, dy, dw, dh)."""
    return deltas.reshape(-1, 4, *deltas.shape[1:])[:, [1, 0, 3, 2]].flatten(0, 1)
