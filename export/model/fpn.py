"""Feature pyramid network: C2..C5 to P2..P6."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

from export.model.config import FpnConfig


class FeaturePyramid(nn.Module):
    """Lateral 1x1 convolutions, nearest upsampling, 3x3 convolutions; P6 is every other pixel of P5."""

    def __init__(self, in_channels: Sequence[int], config: FpnConfig) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_conv(c, config, kernel=1) for c in in_channels)
        self.output = nn.ModuleList(_conv(config.channels, config, kernel=3) for _ in in_channels)

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """P2..P6 [N, C, Hl, Wl] from C2..C5, with P6 of half of P5's size, rounded up."""
        laterals = [conv(stage) for conv, stage in zip(self.lateral, stages, strict=True)]
        merged = [laterals[-1]]
        for lateral in reversed(laterals[:-1]):
            above = F.interpolate(merged[0], size=lateral.shape[-2:], mode="nearest")
            merged.insert(0, lateral + above)
        levels = [conv(x) for conv, x in zip(self.output, merged, strict=True)]
        return [*levels, F.max_pool2d(levels[-1], 1, stride=2)]


def _conv(inputs: int, config: FpnConfig, *, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, config.channels, kernel, padding=kernel // 2, bias=not config.norm)
    return (
        nn.Sequential(conv, nn.BatchNorm2d(config.channels, eps=config.norm_eps))
        if config.norm
        else nn.Sequential(conv)
    )
