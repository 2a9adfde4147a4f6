"""ResNet 18, 34, 50 and 101 with C2..C5 as outputs.

Shapes: N images, H x W canvas, Ck channels of stage k.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

from export.model.config import BackboneConfig

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_BOTTLENECK_EXPANSION = 4


class ResNet(nn.Module):
    """C2..C5 at strides 4, 8, 16, 32; `out_channels` are their widths."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        expansion = _BOTTLENECK_EXPANSION if config.depth >= 50 else 1
        self.out_channels = tuple(width * expansion for width in config.stage_widths)
        self.stem = Stem(config)
        inputs = (config.stem_width, *self.out_channels)
        for i, count in enumerate(_BLOCKS[config.depth]):
            stage = _stage(config, i, count, inputs[i])
            self.add_module(f"stage{i + 2}", stage)

    def forward(self, x: Tensor) -> list[Tensor]:
        """C2..C5, [N, Ck, H / 2^k, W / 2^k], from a normalised canvas [N, 3, H, W]."""
        x = self.stem(x)
        outputs = []
        for name in ("stage2", "stage3", "stage4", "stage5"):
            x = self.get_submodule(name)(x)
            outputs.append(x)
        return outputs


class Stem(nn.Module):
    """7x7/2 convolution, BatchNorm, ReLU and 3x3/2 max pool: [N, 3, H, W] -> [N, stem_width, H / 4, W / 4]."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, config.stem_width, 7, stride=2, padding=3, bias=config.conv_bias)
        self.norm = nn.BatchNorm2d(config.stem_width, eps=config.bn_eps)
        self.same_pool = config.stem_pool == "same"

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        if self.same_pool:
            # Zeros pad as well as minus infinity would: nothing is below zero after the ReLU.
            return F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, stride=2)
        return F.max_pool2d(x, 3, stride=2, padding=1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, config: BackboneConfig, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=config.conv_bias)
        self.norm1 = nn.BatchNorm2d(width, eps=config.bn_eps)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=config.conv_bias)
        self.norm2 = nn.BatchNorm2d(width, eps=config.bn_eps)
        self.shortcut = _shortcut(config, inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        return F.relu(out + cast(Tensor, self.shortcut(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 (four times as wide) and a shortcut; the stride is in the first or the second."""

    def __init__(self, config: BackboneConfig, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * _BOTTLENECK_EXPANSION
        stride_1x1, stride_3x3 = (stride, 1) if config.stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, stride=stride_1x1, bias=config.conv_bias)
        self.norm1 = nn.BatchNorm2d(width, eps=config.bn_eps)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride_3x3, padding=1, bias=config.conv_bias)
        self.norm2 = nn.BatchNorm2d(width, eps=config.bn_eps)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=config.conv_bias)
        self.norm3 = nn.BatchNorm2d(outputs, eps=config.bn_eps)
        self.shortcut = _shortcut(config, inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        out = F.relu(self.norm2(self.conv2(out)))
        out = self.norm3(self.conv3(out))
        return F.relu(out + cast(Tensor, self.shortcut(x)))


def _shortcut(config: BackboneConfig, inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=config.conv_bias)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps=config.bn_eps))


def _stage(config: BackboneConfig, number: int, count: int, inputs: int) -> nn.Sequential:
    """Stage 0 keeps the resolution, the others halve it in their first block."""
    width = config.stage_widths[number]
    block = Bottleneck if config.depth >= 50 else BasicBlock
    outputs = width * (_BOTTLENECK_EXPANSION if config.depth >= 50 else 1)
    first = block(config, inputs, width, stride=1 if number == 0 else 2)
    return nn.Sequential(first, *(block(config, outputs, width, stride=1) for _ in range(count - 1)))
