"""COCO run-length encoding (pycocotools' maskApi), in numpy.

`counts` are the lengths of alternating runs of zeros and ones over the mask in column-major order; the first run
counts zeros and is 0 when the first pixel is set. The compressed form writes them as ASCII: from the fourth on as the
difference to the count two before, in groups of 5 bits, low bits first, 0x20 for "more follow", plus 48; the sign is
bit 0x10 of the last group.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]

_GROUP_BITS = 5
_MAX_GROUPS = 7
"""34 bits and a sign: pictures of up to 17 gigapixels, while sums of 2**28 runs still fit int64."""
_ZERO = 48


class RleError(ValueError):
    """Counts that are no mask of the size they come with."""


def from_mask(mask: npt.NDArray[np.generic]) -> Counts:
    """Counts of a mask [h, w]; whatever is not zero is set."""
    flat = np.concatenate(([False], mask.ravel(order="F") != 0))
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return from_boundaries(changes, mask.size)


def from_boundaries(boundaries: npt.NDArray[np.integer], pixels: int) -> Counts:
    """Counts from the rising column-major positions at which the mask changes, the first one from 0 to 1."""
    if len(boundaries) and boundaries[-1] == pixels:
        boundaries = boundaries[:-1]
    edges = np.empty(len(boundaries) + 2, np.int64)
    edges[0], edges[1:-1], edges[-1] = 0, boundaries, pixels
    return np.diff(edges)


def from_flips(positions: Counts, pixels: int) -> Counts:
    """Counts from column-major positions, in any order, each of which flips all pixels that follow."""
    unique, times = np.unique(positions, return_counts=True)
    return from_boundaries(unique[times % 2 == 1], pixels)


def from_runs(starts: Counts, stops: Counts, pixels: int) -> Counts:
    """Counts of all pixels that are in any of these column-major runs, in any order; `stops` are exclusive."""
    places = np.concatenate((starts, stops))
    order = np.argsort(places, kind="stable")
    first = np.flatnonzero(np.diff(places[order], prepend=-1))
    depth = np.cumsum(np.add.reduceat(np.where(order < len(starts), 1, -1), first)) if len(first) else first
    return from_boundaries(places[order][first][np.diff(depth > 0, prepend=False)], pixels)


def to_mask(counts: Counts, size_hw: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Mask [h, w] of counts that `check` or `decompress` has accepted."""
    h, w = size_hw
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(w, h).T


def column_runs(counts: Counts, h: int) -> tuple[Counts, Counts, Counts]:
    """Column, first row and last row (exclusive) of each run of a mask of `h` rows, cut where columns end; in order."""
    changes = np.cumsum(counts)
    if len(counts) % 2:  # ends with zeros, which need no end
        changes = changes[:-1]
    if (counts[1:] == 0).any():
        changes, times = np.unique(changes, return_counts=True)
        changes = changes[times % 2 == 1]
    starts, stops = changes[::2], changes[1::2]
    run, x = ranges(starts // h, -(-stops // h))
    return x, np.maximum(starts[run] - x * h, 0), np.minimum(stops[run] - x * h, h)


def ranges(first: Counts, last: Counts) -> tuple[Counts, Counts]:
    """For each number of each range `first` to `last` (exclusive): which range it is of, and the number."""
    lengths = last - first
    owner = np.repeat(np.arange(len(first)), lengths)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths - first, lengths)


def crop(counts: Counts, size_hw: tuple[int, int], box_xyxy: tuple[int, int, int, int]) -> npt.NDArray[np.bool_]:
    """The part [y2 - y1, x2 - x1] of a mask; the box lies within it."""
    x1, y1, x2, y2 = box_xyxy
    x, top, bottom = column_runs(counts, size_hw[0])
    here = (x >= x1) & (x < x2) & (top < y2) & (bottom > y1)
    steps = np.zeros((x2 - x1, y2 - y1 + 1), np.int8)
    steps[x[here] - x1, np.maximum(top[here] - y1, 0)] += 1
    steps[x[here] - x1, np.minimum(bottom[here], y2) - y1] -= 1
    inside: npt.NDArray[np.bool_] = np.cumsum(steps[:, :-1], axis=1, dtype=np.int8).T != 0
    return inside


def area(counts: Counts) -> int:
    """Number of set pixels."""
    return int(counts[1::2].sum())


def bbox(counts: Counts, size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """The smallest (x, y, width, height) that holds the set pixels; all 0 when there are none."""
    ends = np.cumsum(counts)[1::2]
    lengths = counts[1::2]
    first, last = (ends - lengths)[lengths > 0], ends[lengths > 0] - 1
    if not len(first):
        return 0, 0, 0, 0
    h = size_hw[0]
    x1, x2 = int(first[0]) // h, int(last[-1]) // h
    if np.any(first // h < last // h):  # a run that goes on in the next column touches bottom and top
        return x1, 0, x2 - x1 + 1, h
    y1, y2 = int((first % h).min()), int((last % h).max())
    return x1, y1, x2 - x1 + 1, y2 - y1 + 1


def compress(counts: npt.NDArray[np.integer]) -> str:
    """The ASCII form of one mask's counts."""
    return compress_all([counts])[0]


def compress_all(masks: Sequence[npt.NDArray[np.integer]]) -> list[str]:
    """The ASCII forms of many masks' counts in one pass."""
    if not masks:
        return []
    lengths = np.array([len(counts) for counts in masks])
    ends = np.cumsum(lengths)
    values = np.concatenate(masks).astype(np.int64, copy=False)
    position = np.arange(len(values)) - np.repeat(ends - lengths, lengths)
    deltas = values.copy()
    deltas[2:] -= np.where(position[2:] > 2, values[:-2], 0)
    text, number_ends = _to_ascii(deltas)
    bounds = number_ends[np.concatenate(([0], ends))].tolist()
    return [text[start:end] for start, end in itertools.pairwise(bounds)]


def _to_ascii(numbers: Counts) -> tuple[str, Counts]:
    """All numbers in a row, and the places [len(numbers) + 1] where each starts and the last ends."""
    magnitude = numbers ^ (numbers >> 63)  # -1 needs no more bits than 0
    groups = np.ones(len(numbers), np.int64)
    for k in range(1, _MAX_GROUPS):
        groups += magnitude >= 1 << (_GROUP_BITS * k - 1)
    bounds = np.concatenate(([0], np.cumsum(groups)))
    characters = np.empty(bounds[-1], np.uint8)
    for k in range(groups.max(initial=0)):
        having = np.flatnonzero(groups > k)
        digit = (numbers[having] >> _GROUP_BITS * k) & 0x1F
        more = groups[having] > k + 1
        characters[bounds[having] + k] = digit + (more << _GROUP_BITS) + _ZERO
    return characters.tobytes().decode("ascii"), bounds


def decompress(text: str | bytes, size_hw: tuple[int, int]) -> Counts:
    """Counts of an ASCII form.

    Raises `RleError` for characters outside the alphabet, a last number that stops short, numbers that are too long,
    negative runs, and runs that do not fill the mask exactly.
    """
    try:
        raw = text.encode("ascii") if isinstance(text, str) else text
    except UnicodeEncodeError as error:
        raise RleError("The counts hold a character that is not ASCII.") from error
    digits = np.frombuffer(raw, np.uint8).astype(np.int64) - _ZERO
    if np.any((digits < 0) | (digits > 0x3F)):
        raise RleError("The counts hold a character outside '0' to 'o'.")
    counts = _undo_differences(_to_numbers(digits))
    return check(counts, size_hw)


def _to_numbers(digits: Counts) -> Counts:
    """Signed numbers from groups of 5 bits with a continuation bit."""
    if not len(digits):
        return digits
    last = (digits & 0x20) == 0
    if not last[-1]:
        raise RleError("The counts stop in the middle of a number.")
    ends = np.flatnonzero(last) + 1
    starts = np.concatenate(([0], ends[:-1]))
    groups = ends - starts
    if groups.max() > _MAX_GROUPS:
        raise RleError("The counts hold a number that is too large.")
    place = np.arange(len(digits)) - np.repeat(starts, groups)
    numbers = np.add.reduceat((digits & 0x1F) << _GROUP_BITS * place, starts)
    negative = (digits[ends - 1] & 0x10) != 0
    return np.asarray(numbers - (negative.astype(np.int64) << _GROUP_BITS * groups), np.int64)


def _undo_differences(deltas: Counts) -> Counts:
    counts = deltas.copy()
    counts[1::2] = np.cumsum(deltas[1::2])
    counts[2::2] = np.cumsum(deltas[2::2])
    return counts


def check(counts: Sequence[int] | npt.NDArray[np.integer], size_hw: tuple[int, int]) -> Counts:
    """Uncompressed counts as an array. Raises `RleError` unless they are whole, not negative and fill the mask.

    Runs of length 0 are accepted anywhere: the mask they describe is plain.
    """
    h, w = size_hw
    if h < 0 or w < 0:
        raise RleError(f"A mask of {h} x {w} pixels cannot be.")
    try:
        runs = np.asarray(counts)
    except ValueError as error:  # lists of different lengths inside
        raise RleError("The counts are not a flat list.") from error
    if runs.ndim != 1 or (runs.size and runs.dtype.kind not in "iu"):
        raise RleError("The counts are not a list of whole numbers of a sensible size.")
    runs = runs.astype(np.int64)
    if np.any(runs < 0):
        raise RleError("The counts hold a negative run.")
    if np.any(runs > h * w) or int(runs.sum()) != h * w:
        raise RleError(f"The runs do not add up to the {h} x {w} pixels of the mask.")
    return runs
