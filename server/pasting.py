"""Masks of the network to COCO run lengths, without ever making a mask of the picture's size.

D: detections; S: side of the network's masks; h, w: sides of the picture (*image* frame).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from server.contract import rle

Floats = npt.NDArray[np.floating]
Indices = npt.NDArray[np.int64]
PasteRule = Literal["detectron2", "torchvision", "matterport"]

_RULES: Final[tuple[PasteRule, ...]] = ("detectron2", "torchvision", "matterport")
"""In the order of their numbers in `server.compiled.masks`."""


@dataclass(frozen=True)
class PastedMasks:
    """Masks of one picture as column-major run lengths, all in one array."""

    counts: rle.Counts
    ends: Indices
    """[D + 1]; mask k has counts[ends[k] : ends[k + 1]]."""
    areas: Indices
    """[D], set pixels."""

    def runs(self) -> list[rle.Counts]:
        """Counts of each mask."""
        return [self.counts[start:end] for start, end in itertools.pairwise(self.ends.tolist())]

    def compressed(self) -> list[str]:
        """COCO's ASCII form of each mask, as `rle.compress_all` writes it."""
        from server.compiled import masks as compiled

        characters, ends = compiled.compress(self.counts, self.ends)
        text = characters[: ends[-1]].tobytes().decode("ascii")
        return [text[start:end] for start, end in itertools.pairwise(ends.tolist())]


def paste(masks: Floats, boxes_image: Floats, size_hw: tuple[int, int], rule: PasteRule) -> PastedMasks:
    """Run lengths of masks [D, S, S] of probabilities pasted into boxes [D, 4], where they reach 0.5; float32.

    Equal to the family's own paste into a mask of the picture's size: detectron2 samples bilinearly at pixel centres
    with zeros outside the mask, Matterport does the same in whole-pixel boxes but never goes below the mask's least
    value, torchvision pads the mask by one, grows and truncates the box, and repeats the border. Boxes may lie partly
    or wholly outside the picture. The GIL is free meanwhile.
    """
    from server.compiled import masks as compiled

    arrays = np.ascontiguousarray(masks, np.float32), np.ascontiguousarray(boxes_image, np.float32)
    counts, ends, areas = compiled.paste(*arrays, *size_hw, _RULES.index(rule))
    return PastedMasks(counts[: ends[-1]], ends, areas)
