"""Weights with torchvision's names, at random and with small widths."""

from __future__ import annotations

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

_BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
_WIDTHS = (4, 4, 6, 8)
_FPN = 8
_SEED = 8


def draw(*, depth: int = 50, frozen: bool = False, v2: bool = False, classes: int = 4, anchors: int = 3) -> Tensors:
    """As `state_dict` gives them: FrozenBatchNorm2d or BatchNorm2d in the body, the heads of v1 or of v2."""
    drawing = _Drawing()
    outputs = drawing.body(_BLOCKS[depth], bottleneck=depth >= 50, counted=not frozen)
    for i, width in enumerate(outputs):
        drawing.conv(f"backbone.fpn.inner_blocks.{i}", (_FPN, width, 1, 1), norm=v2)
        drawing.conv(f"backbone.fpn.layer_blocks.{i}", (_FPN, _FPN, 3, 3), norm=v2)
    for i in range(2 if v2 else 1):
        drawing.layer(f"rpn.head.conv.{i}.0", (_FPN, _FPN, 3, 3))
    gain = 4.0 if v2 else 1.5  # spreads the scores without saturating them
    drawing.layer("rpn.head.cls_logits", (anchors, _FPN, 1, 1), scale=gain)
    drawing.layer("rpn.head.bbox_pred", (4 * anchors, _FPN, 1, 1), scale=0.2 * gain)
    drawing.box_head(classes, gain, convs=v2)
    drawing.conv("roi_heads.mask_head.0", (8, _FPN, 3, 3), norm=v2)
    drawing.conv("roi_heads.mask_head.1", (6, 8, 3, 3), norm=v2)
    drawing.layer("roi_heads.mask_predictor.conv5_mask", (6, 5, 2, 2), outputs=5)
    drawing.layer("roi_heads.mask_predictor.mask_fcn_logits", (classes, 5, 1, 1), scale=2.0)
    return drawing.tensors


class _Drawing:
    def __init__(self) -> None:
        self.random = torch.Generator().manual_seed(_SEED)
        self.tensors: Tensors = {}

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.random)

    def layer(
        self, name: str, shape: tuple[int, ...], *, scale: float = 1.0, bias: bool = True, outputs: int | None = None
    ) -> None:
        """Centred and scaled, so that what comes out of a ReLU keeps its variance and no output stands out."""
        weight = self.normal(*shape).flatten(1)
        weight = (weight - weight.mean(dim=1, keepdim=True)) * scale * (2 / weight.shape[1]) ** 0.5
        self.tensors[f"{name}.weight"] = weight.reshape(shape)
        if bias:
            self.tensors[f"{name}.bias"] = self.normal(outputs or shape[0]) * 0.1

    def norm(self, name: str, width: int, *, counted: bool) -> None:
        """The first channel has so small a variance that epsilon counts."""
        weight, variance = 0.3 + self.normal(width).abs() / 4, 0.5 + self.normal(width).abs()
        weight[0], variance[0] = 4e-3, 2e-5
        self.tensors |= {
            f"{name}.weight": weight,
            f"{name}.bias": self.normal(width) / 5,
            f"{name}.running_mean": self.normal(width) / 5,
            f"{name}.running_var": variance,
        }
        if counted:
            self.tensors[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def conv(self, name: str, shape: tuple[int, ...], *, norm: bool) -> None:
        self.layer(f"{name}.0", shape, bias=not norm)
        if norm:
            self.norm(f"{name}.1", shape[0], counted=True)

    def body(self, blocks: tuple[int, ...], *, bottleneck: bool, counted: bool) -> list[int]:
        """Returns the widths of the four outputs."""
        inputs, outputs = 4, []
        self.layer("backbone.body.conv1", (inputs, 3, 7, 7), bias=False)
        self.norm("backbone.body.bn1", inputs, counted=counted)
        for number, (count, width) in enumerate(zip(blocks, _WIDTHS, strict=True), 1):
            for i in range(count):
                halved = number > 1 and i == 0
                inputs = self.block(f"backbone.body.layer{number}.{i}", inputs, width, bottleneck, halved, counted)
            outputs.append(inputs)
        return outputs

    def block(self, name: str, inputs: int, width: int, bottleneck: bool, halved: bool, counted: bool) -> int:
        outputs = 4 * width if bottleneck else width
        three = ((width, inputs, 1, 1), (width, width, 3, 3), (outputs, width, 1, 1))
        for i, shape in enumerate(three if bottleneck else ((width, inputs, 3, 3), (width, width, 3, 3)), 1):
            self.layer(f"{name}.conv{i}", shape, bias=False)
            self.norm(f"{name}.bn{i}", shape[0], counted=counted)
        if halved or inputs != outputs:
            self.layer(f"{name}.downsample.0", (outputs, inputs, 1, 1), bias=False)
            self.norm(f"{name}.downsample.1", outputs, counted=counted)
        return outputs

    def box_head(self, classes: int, gain: float, *, convs: bool) -> None:
        root, predictor = "roi_heads.box_head", "roi_heads.box_predictor"
        if convs:
            self.conv(f"{root}.0", (8, _FPN, 3, 3), norm=True)
            self.conv(f"{root}.1", (6, 8, 3, 3), norm=True)
            self.layer(f"{root}.3", (12, 6 * 49))
        else:
            self.layer(f"{root}.fc6", (12, _FPN * 49))
            self.layer(f"{root}.fc7", (12, 12))
        self.layer(f"{predictor}.cls_score", (classes, 12), scale=2 * gain)
        self.layer(f"{predictor}.bbox_pred", (4 * classes, 12), scale=0.7 * gain)
