"""Label Studio's run-length encoding of a brush stroke: a stream of bits over the bytes of an RGBA picture.

The pixels are row-major, each of them four bytes that are 0 or 255. The stream, most significant bit first: 32 bits for
the number of bytes, 5 for the bits of a value less 1, four times 4 for the sizes of a run's length less 1; then for
each run 1 bit that says that its bytes are equal, 2 bits for which size its length has, the length less 1, the value.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from server.contract import rle
from server.protocols.objects import crop

Ints = npt.NDArray[np.int64]

CHANNELS: Final = 4
VALUE_BITS: Final = 8
LENGTH_BITS: Final = np.array([3, 4, 8, 16])
"""Choices for the size of a run's length."""
LONGEST: Final = 1 << 16


def encode(counts: rle.Counts, size_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The bytes of the stream, of a mask with pixels in a picture of less than 2**30 pixels."""
    h, w = size_hw
    lengths, values = _runs(row_counts(counts, size_hw) * CHANNELS)
    choice = np.searchsorted(1 << LENGTH_BITS, lengths)
    bits = LENGTH_BITS[choice]
    codes = (((4 | choice) << bits | lengths - 1) << VALUE_BITS) | values
    head = np.array([(h * w * CHANNELS, 32), (VALUE_BITS - 1, 5), *((size - 1, 4) for size in LENGTH_BITS)])
    return _packed(np.append(head[:, 0], codes), np.append(head[:, 1], 3 + bits + VALUE_BITS))


def row_counts(counts: rle.Counts, size_hw: tuple[int, int]) -> rle.Counts:
    """The same runs row by row: lengths of alternating runs over the row-major mask, zeros first."""
    h, w = size_hw
    (x, y, crop_w, crop_h), mask = crop(counts, size_hw)
    rows = np.zeros((crop_h, w), np.bool_)
    rows[:, x : x + crop_w] = mask
    changes = np.flatnonzero(np.diff(rows.ravel(), prepend=False, append=False))
    return rle.from_boundaries(changes + y * w, h * w)


def _runs(counts: Ints) -> tuple[Ints, Ints]:
    """Lengths of at most 65536, and the value of each."""
    pieces = -(-counts // LONGEST)
    run = np.repeat(np.arange(len(counts)), pieces)
    lengths = np.full(len(run), LONGEST)
    last = np.cumsum(pieces)[pieces > 0] - 1
    lengths[last] = (counts[pieces > 0] - 1) % LONGEST + 1
    return lengths, run % 2 * 255


def _packed(codes: Ints, bits: Ints) -> npt.NDArray[np.uint8]:
    """Whole numbers of so many bits each, one after the other, filled up with zeros to a whole byte."""
    ends = np.cumsum(bits)
    code = np.repeat(np.arange(len(codes)), bits)
    shift = ends[code] - np.arange(ends[-1]) - 1
    return np.packbits((codes[code] >> shift & 1).astype(np.bool_))
