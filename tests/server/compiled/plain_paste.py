"""The plain paste of a mask into the picture, in numpy: every pixel of the box, as matrices of weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from server.contract import rle
from server.pasting import PasteRule

Floats = npt.NDArray[np.floating]
Weights = npt.NDArray[np.float64]

_THRESHOLD = 0.5


def paste_to_rle(mask: Floats, box_image: Floats, size_hw: tuple[int, int], rule: PasteRule) -> rle.Counts:
    """Column-major run lengths of a mask [S, S] of probabilities pasted into its box, where they reach 0.5.

    Equal to the family's own paste into a mask of the picture's size, but only the box is looked at: detectron2
    samples bilinearly at pixel centres with zeros outside the mask, Matterport does the same in whole-pixel boxes but
    never goes below the mask's least value, torchvision pads the mask by one, grows and truncates the box, and repeats
    the border. The box may lie partly or wholly outside the picture.
    """
    h, w = size_hw
    if rule == "torchvision":
        mask = np.pad(mask, 1)
        box = _grown_box(box_image, mask.shape[0])
        xs, along_x = _repeated_weights(box[0], box[2], w, mask.shape[1])
        ys, along_y = _repeated_weights(box[1], box[3], h, mask.shape[0])
    else:
        xs, along_x = _fading_weights(float(box_image[0]), float(box_image[2]), w, mask.shape[1])
        ys, along_y = _fading_weights(float(box_image[1]), float(box_image[3]), h, mask.shape[0])
    columns = _product(_product(along_x, mask.astype(np.float64)), along_y)
    if rule == "matterport":
        columns = np.maximum(columns, mask.min())  # scikit-image clips to the range that it was given
    return _crop_to_rle(columns >= _THRESHOLD, xs, ys, size_hw)


def _product(a: Floats, b: Floats) -> Weights:
    """a @ b.T, each product rounded: BLAS fuses them with the sum on some processors, which moves what is a tie."""
    product: Weights = (a[:, None] * b[None]).sum(axis=2)
    return product


def _fading_weights(start: float, stop: float, side: int, size: int) -> tuple[int, Weights]:
    """First pixel of the picture that the box touches, and weights [pixels, S] of the mask's samples along an axis.

    Outside the box the value of a mask that fades to zero stays below one half.
    """
    first = min(max(int(np.floor(start)), 0), side)
    last = max(min(int(np.ceil(stop)), side), first)
    if stop <= start:
        return first, np.zeros((0, size))
    centres = np.arange(first, last) + 0.5
    return first, _hats((centres - start) * (size / (stop - start)) - 0.5, size)


def _repeated_weights(start: int, stop: int, side: int, size: int) -> tuple[int, Weights]:
    """The same for a box of whole pixels, `stop` inclusive, whose border samples are repeated."""
    first = min(max(start, 0), side)
    last = max(min(stop + 1, side), first)
    scale = np.float64(np.float32(size) / np.float32(max(stop - start + 1, 1)))
    positions = ((np.arange(first, last) - start + 0.5) * scale - 0.5).astype(np.float32)  # torch's float32
    return first, _hats(np.clip(positions, 0, size - 1), size)


def _hats(positions: Floats, size: int) -> Weights:
    """Linear interpolation as a matrix [len(positions), size]; zero beyond the ends."""
    weights: Weights = np.maximum(1 - np.abs(positions[:, None] - np.arange(size)), 0)
    return weights


def _grown_box(box_image: Floats, padded_size: int) -> list[int]:
    """torchvision's box for a mask padded by one: grown about its centre in float32, truncated."""
    box = box_image.astype(np.float32)
    half = (box[2:] - box[:2]) * np.float32(0.5) * np.float32(padded_size / (padded_size - 2))
    centre = (box[2:] + box[:2]) * np.float32(0.5)
    grown: list[int] = np.concatenate((centre - half, centre + half)).astype(np.int64).tolist()
    return grown


def _crop_to_rle(columns: npt.NDArray[np.bool_], x: int, y: int, size_hw: tuple[int, int]) -> rle.Counts:
    """Counts of a picture that is empty but for a crop at (x, y), given as its columns [crop w, crop h]."""
    h, w = size_hw
    crop_w, crop_h = columns.shape
    ended = np.zeros((crop_w, crop_h + 1), np.bool_)  # a zero below each column ends its last run
    ended[:, :-1] = columns
    flat = ended.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    column, row = np.divmod(changes, crop_h + 1)
    boundaries = (x + column) * h + y + row
    if crop_h == h:  # runs that touch the bottom go on at the top of the next column
        boundaries = _joined(boundaries)
    return rle.from_boundaries(boundaries, h * w)


def _joined(boundaries: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Drops the ends of runs where the next run starts, and those starts."""
    met = np.flatnonzero(boundaries[1:-1:2] == boundaries[2::2])
    return np.delete(boundaries, np.concatenate((2 * met + 1, 2 * met + 2)))
