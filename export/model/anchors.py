"""Anchors of the pyramid: the cells of `RpnConfig` placed at every position of P2..P6."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from export.model.config import RpnConfig


class Anchors(nn.Module):
    """Anchors for feature maps of any size; holds the cells as buffers that are not part of the weights."""

    cells: Tensor

    def __init__(self, config: RpnConfig, *, corner_coordinates: bool) -> None:
        super().__init__()
        self.strides = config.strides
        self.level_cells = [len(level) for level in config.cells]
        cells = torch.tensor([cell for level in config.cells for cell in level], dtype=torch.float32)
        if corner_coordinates:
            cells = cells - torch.tensor([0.0, 0.0, 1.0, 1.0])
        self.register_buffer("cells", cells, persistent=False)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Anchors [A, 4] in canvas pixels for P2..P6 [N, C, Hl, Wl], ordered by level, row, column, cell."""
        levels = zip(pyramid, self.strides, torch.split(self.cells, self.level_cells), strict=True)
        return torch.cat([self._level(features, stride, cells) for features, stride, cells in levels])

    def level_index(self, pyramid: Sequence[Tensor]) -> Tensor:
        """The level 0..4 of every anchor, int64 [A]."""
        counts = [f.shape[-2] * f.shape[-1] * cells for f, cells in zip(pyramid, self.level_cells, strict=True)]
        device = self.cells.device
        return torch.cat([torch.full((count,), level, device=device) for level, count in enumerate(counts)])

    def _level(self, features: Tensor, stride: int, cells: Tensor) -> Tensor:
        height, width = features.shape[-2:]
        y = (torch.arange(height, device=cells.device) * stride).to(cells.dtype)
        x = (torch.arange(width, device=cells.device) * stride).to(cells.dtype)
        grid_y, grid_x = y[:, None].expand(height, width), x[None, :].expand(height, width)
        centres = torch.stack((grid_x, grid_y, grid_x, grid_y), dim=-1)
        return (centres[:, :, None, :] + cells).reshape(-1, 4)
