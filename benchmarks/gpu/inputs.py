"""Inputs of the kernels, random but the same every time. Made on the CPU: compute-sanitizer sees each byte arrive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Boxes:
    """What NMS takes: boxes [N, A, 4], scores [N, A], groups [N, A] int64."""

    boxes: Tensor
    scores: Tensor
    groups: Tensor

    def to(self, device: str) -> Boxes:
        return Boxes(self.boxes.to(device), self.scores.to(device), self.groups.to(device))

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.boxes, self.scores, self.groups))


@dataclass(frozen=True)
class Rois:
    """What RoIAlign takes besides the features: boxes [R, 4] and the image of each, int64 [R], by image."""

    boxes: Tensor
    image_index: Tensor

    def to(self, device: str) -> Rois:
        return Rois(self.boxes.to(device), self.image_index.to(device))


def pyramid(images: int, channels: int, canvas: int, seed: int, levels: int = 4) -> list[Tensor]:
    """Normal float32 features [N, C, H, W] of strides 4, 8, 16, 32."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    sides = [canvas // (4 * 2**level) for level in range(levels)]
    return [torch.randn(images, channels, side, side, generator=generator) for side in sides]


def rois(images: int, each: int, canvas: int, seed: int) -> Rois:
    """Boxes whose sides spread evenly over the octaves from 8 pixels to the canvas, a few of them reaching over it."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    count = images * each
    sides = 8 * (canvas / 8) ** torch.rand(count, 2, generator=generator)
    centres = torch.rand(count, 2, generator=generator) * canvas
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
    return Rois(boxes.clamp(-16, canvas + 16), torch.arange(images).repeat_interleave(each))


def candidates(images: int, each: int, groups: int, seed: int, part_above: float, ties: bool) -> Boxes:
    """Boxes in clusters, as proposals lie about objects, so that most of those with a good score fall.

    Sides are whole pixels: an overlap is then a quotient of whole numbers, and every arithmetic gives the same.
    Scores are above 0.5 for `part_above` of them and below it for the others; with `ties` they take few values, else
    all values are different.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    return Boxes(
        torch.stack([_clustered(each, generator) for _ in range(images)]),
        torch.stack([_scores(each, part_above, ties, generator) for _ in range(images)]),
        torch.randint(groups, (images, each), generator=generator),
    )


def _clustered(count: int, generator: torch.Generator) -> Tensor:
    import torch

    objects = 40
    centres = torch.rand(objects, 2, generator=generator) * 1000
    sides = 8 * 40 ** torch.rand(objects, 2, generator=generator)
    chosen = torch.randint(objects, (count,), generator=generator)
    noise = torch.randn(count, 4, generator=generator) * 0.15
    middle = centres[chosen] + noise[:, :2] * sides[chosen]
    half = (sides[chosen] * torch.exp(noise[:, 2:]) / 2).clamp(min=1)
    return torch.cat([middle - half, middle + half], dim=1).round()


def _scores(count: int, part_above: float, ties: bool, generator: torch.Generator) -> Tensor:
    import torch

    ranks = torch.randperm(count, generator=generator)
    above = ranks < max(1, round(part_above * count))
    uniform = (ranks.float() + 0.5) / count
    if ties:
        uniform = (uniform * 16).floor() / 16
    return torch.where(above, 0.5625 + uniform * 0.4, uniform * 0.4)
