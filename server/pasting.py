"""Masks of the network to COCO run lengths, without ever making a mask of the picture's size.

D: detections; S: side of the network's masks; h, w: sides of the picture (*image* frame).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from server.contract import rle

Floats = npt.NDArray[np.floating]
PasteRule = Literal["detectron2", "torchvision", "matterport"]

_RULES: Final[tuple[PasteRule, ...]] = ("detectron2", "torchvision", "matterport")
"""In the order of their numbers in `server.compiled.masks`."""


def paste(masks: Floats, boxes_image: Floats, size_hw: tuple[int, int], rule: PasteRule) -> list[rle.Counts]:
    """Column-major run lengths of masks [D, S, S] of probabilities, pasted into boxes [D, 4], where they reach 0.5.

    Equal to the family's own paste into a mask of the picture's size: detectron2 samples bilinearly at pixel centres
    with zeros outside the mask, Matterport does the same in whole-pixel boxes but never goes below the mask's least
    value, torchvision pads the mask by one, grows and truncates the box, and repeats the border. Boxes may lie partly
    or wholly outside the picture. The GIL is free meanwhile.
    """
    from server.compiled import masks as compiled

    arrays = np.ascontiguousarray(masks, np.float32), np.ascontiguousarray(boxes_image, np.float32)
    counts, ends = compiled.paste(*arrays, *size_hw, _RULES.index(rule))
    return [counts[start:end] for start, end in itertools.pairwise(ends.tolist())]


def compress(masks: Sequence[rle.Counts]) -> list[str]:
    """COCO's ASCII form of each mask, as `rle.compress_all` writes it. The GIL is free meanwhile."""
    from server.compiled import masks as compiled

    ends = np.cumsum([0, *map(len, masks)])
    characters, text_ends = compiled.compress(np.concatenate(masks) if masks else np.zeros(0, np.int64), ends)
    text = characters[: text_ends[-1]].tobytes().decode("ascii")
    return [text[start:end] for start, end in itertools.pairwise(text_ends.tolist())]
