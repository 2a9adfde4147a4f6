"""Compiled bilinear resizes without antialiasing, for `server.linear`, in the order of arithmetic of each family.

An axis of the result is two source positions a position, and their weights. The functions that are called come first:
numba compiles as it reads.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import float32, float64, int64, types, uint8

from server.compiled.compiling import called, compiled, read_only

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_PICTURE = types.Array(uint8, 3, "A", readonly=True)
_PLACES = read_only(int64, 1)


@called
def _across(
    picture: Bytes, row: int, left: Indices, right: Indices, at_left: Floats, at_right: Floats, out: Floats
) -> None:
    for x in range(len(left)):
        for c in range(3):
            first = at_left[x] * float32(picture[row, left[x], c])
            out[3 * x + c] = first + at_right[x] * float32(picture[row, right[x], c])


@compiled(
    _PICTURE, types.Array(float32, 3, "A"),
    _PLACES, _PLACES, read_only(float32, 1), read_only(float32, 1),
    _PLACES, _PLACES, read_only(float32, 1), read_only(float32, 1),
)  # fmt: skip
def replicate(
    picture: Bytes, result: Floats,
    left: Indices, right: Indices, at_left: Floats, at_right: Floats,
    upper: Indices, lower: Indices, at_upper: Floats, at_lower: Floats,
) -> None:  # fmt: skip
    """Fills `result` [h', w', 3] along x, then along y, in float32. A row that two rows of the result need is kept."""
    above, below = np.empty(3 * len(left), np.float32), np.empty(3 * len(left), np.float32)
    row_above = row_below = -1
    for y in range(len(upper)):
        if upper[y] == row_below:
            above, below, row_above, row_below = below, above, row_below, row_above
        if upper[y] != row_above:
            row_above = upper[y]
            _across(picture, row_above, left, right, at_left, at_right, above)
        if lower[y] != row_below:
            row_below = lower[y]
            _across(picture, row_below, left, right, at_left, at_right, below)
        a, b = at_upper[y], at_lower[y]
        for x in range(len(left)):
            for c in range(3):
                result[y, x, c] = a * above[3 * x + c] + b * below[3 * x + c]


@compiled(
    _PICTURE, types.Array(uint8, 3, "A"),
    _PLACES, _PLACES, read_only(float64, 1), read_only(float64, 1),
    _PLACES, _PLACES, read_only(float64, 1), read_only(float64, 1), float64,
)  # fmt: skip
def fade(
    picture: Bytes, result: Bytes,
    left: Indices, right: Indices, at_left: Doubles, at_right: Doubles,
    upper: Indices, lower: Indices, at_upper: Doubles, at_lower: Doubles, least: float,
) -> None:  # fmt: skip
    """Fills `result` [h', w', 3]: four pixels, each times its two weights, added up, not below `least`, truncated."""
    for y in range(len(upper)):
        row, next_row, a, b = upper[y], lower[y], at_upper[y], at_lower[y]
        for x in range(len(left)):
            column, next_column, m, n = left[x], right[x], at_left[x], at_right[x]
            for c in range(3):
                total = float64(picture[row, column, c]) * a * m
                total += float64(picture[row, next_column, c]) * a * n
                total += float64(picture[next_row, column, c]) * b * m
                total += float64(picture[next_row, next_column, c]) * b * n
                result[y, x, c] = uint8(max(total, least))
