"""A model in half precision: the networks in float16, everything that counts pixels or compares scores in float32.

What is traced from it is strongly typed, which is how TensorRT takes its precision from an ONNX file.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from export.model.mask_rcnn import MaskRCNN

HALF_MAX = torch.finfo(torch.float16).max


class PrecisionError(Exception):
    """The model cannot have the precision asked for; the message names the tensor and says what to do."""


def half_precision(model: MaskRCNN) -> MaskRCNN:
    """A copy of `model` whose backbone, pyramid, RPN and heads compute in float16; `model` stays as it is.

    BatchNorm goes into the layer before it first: its running variance may be beyond half's range, and so may its
    input. Preprocessing, anchors, boxes, scores, NMS, RoIs, softmax and sigmoid stay in float32. Raises
    `PrecisionError` where a weight is beyond half's range.
    """
    half = fold_norms(model)
    # All parameters are the networks'; mean, std and anchors are buffers.
    for name, weights in half.named_parameters():
        weights.data = _in_range(name, weights.data).half()
    return half


def fold_norms(model: MaskRCNN) -> MaskRCNN:
    """A copy of `model` for inference without BatchNorm, computed in float64 and as exact as float32 weights allow."""
    folded = copy.deepcopy(model).eval()
    for module in list(folded.modules()):
        for (before, layer), (after, norm) in pairwise(list(module.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, before, _fused(layer, norm))
                setattr(module, after, nn.Identity())
    box, mask = folded.box_head, folded.mask_head
    box.convs, box.conv_norms = _fused_list(box.convs, box.conv_norms)
    box.fcs, box.fc_norms = _fused_list(box.fcs, box.fc_norms)
    mask.convs, mask.norms = _fused_list(mask.convs, mask.norms)
    return folded


def _fused_list(layers: nn.ModuleList, norms: nn.ModuleList) -> tuple[nn.ModuleList, nn.ModuleList]:
    """`layers` with `norms` in them, where there are any, and no norms."""
    if not len(norms):
        return layers, norms
    return nn.ModuleList(_fused(layer, norm) for layer, norm in zip(layers, norms, strict=True)), nn.ModuleList()


def _fused(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """One layer that does what `layer` and then `norm` do."""
    assert isinstance(norm, nn.BatchNorm2d)  # the model has no other
    dtype = norm.weight.dtype
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer.double(), norm.double()).to(dtype)
    assert isinstance(layer, nn.Conv2d)
    return fuse_conv_bn_eval(layer.double(), norm.double()).to(dtype)


def _in_range(name: str, weights: Tensor) -> Tensor:
    largest = weights.abs().max().item()
    if not largest <= HALF_MAX:  # NaN is refused as well
        raise PrecisionError(
            f"{name} reaches {largest:.3g}, and half precision ends at {HALF_MAX:.0f}. Build with --precision fp32."
        )
    return weights
