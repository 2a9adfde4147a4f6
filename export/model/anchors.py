"""Anchors of the pyramid: the cells of `RpnConfig` placed at every position of P2..P6."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from export.model.config import RpnConfig

P2_STRIDE = 4
"""Canvas pixels a position of P2: every family's canvas is a multiple of 32."""


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
        cells_by_level = torch.split(self.cells, self.level_cells)
        return torch.cat(
            [
                self._level(features, strides, cells)
                for features, strides, cells in zip(pyramid, self._strides_yx(pyramid), cells_by_level, strict=True)
            ]
        )

    def level_index(self, pyramid: Sequence[Tensor]) -> Tensor:
        """The level 0..4 of every anchor, int64 [A]."""
        counts = [f.shape[-2] * f.shape[-1] * cells for f, cells in zip(pyramid, self.level_cells, strict=True)]
        device = self.cells.device
        return torch.cat([torch.full((count,), level, device=device) for level, count in enumerate(counts)])

    def _strides_yx(self, pyramid: Sequence[Tensor]) -> list[tuple[int, int]]:
        if self.strides != "canvas":
            return [(stride, stride) for stride in self.strides]
        height, width = (P2_STRIDE * side for side in pyramid[0].shape[-2:])
        return [(height // level.shape[-2], width // level.shape[-1]) for level in pyramid]

    def _level(self, features: Tensor, strides_yx: tuple[int, int], cells: Tensor) -> Tensor:
        height, width = features.shape[-2:]
        y = (torch.arange(height, device=cells.device) * strides_yx[0]).to(cells.dtype)
        x = (torch.arange(width, device=cells.device) * strides_yx[1]).to(cells.dtype)
        grid_y, grid_x = y[:, None].expand(height, width), x[None, :].expand(height, width)
        centres = torch.stack((grid_x, grid_y, grid_x, grid_y), dim=-1)
        return (centres[:, :, None, :] + cells).reshape(-1, 4)
