"""Pillow's antialiased bilinear resize, compiled, in its own fixed-point arithmetic: the same pixels, bit for bit.

Pillow resizes along x, rounds, and resizes along y. Both are the same here: rows of bytes, each times a weight, are
added up, which a compiler turns into vector instructions. For the first, tiles of the picture are turned so that their
columns become rows, and what comes out is turned back; tiles are small enough for the nearest cache. Of the picture
resized along x only those rows are kept that the next rows of the result need.

The functions that are called come first: numba compiles as it reads.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import int32, int64, types, uint8

from server.compiled.compiling import called, compiled, inlined, read_only

Bytes = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]
Indices = npt.NDArray[np.int64]

PRECISION: Final = 22
"""Bits of a weight after the point, as in Pillow."""
_HALF: Final = 1 << (PRECISION - 1)
_ROWS: Final = 128
_COLUMNS: Final = 64
"""Of a tile: rows of the picture, columns of the result."""


@inlined
def _blend(sums: Sums, size: int, rows: Bytes, first: int, weights: Sums, taps: int) -> None:
    """Adds up `taps` rows times their weights, from `first` on."""
    for i in range(size):
        sums[i] = _HALF
    whole = taps - taps % 4
    for t in range(0, whole, 4):  # four at a time, so that the sums need not be written after each
        a, b, c, d = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
        k = first + t
        for i in range(size):
            two = a * int32(rows[k, i]) + b * int32(rows[k + 1, i])
            sums[i] += two + c * int32(rows[k + 2, i]) + d * int32(rows[k + 3, i])
    for t in range(whole, taps):
        for i in range(size):
            sums[i] += weights[t] * int32(rows[first + t, i])


@inlined
def _round(sums: Sums, size: int, pixels: Bytes) -> None:
    for i in range(size):
        pixels[i] = min(sums[i] >> PRECISION, 255)


@called
def _widest(first: Indices, taps: Indices) -> int:
    """Most columns of the picture that the columns of a tile are made of."""
    widest = 0
    for x in range(0, len(first), _COLUMNS):
        last = min(x + _COLUMNS, len(first)) - 1
        widest = max(widest, first[last] + taps[last] - first[x])
    return widest


@called
def _along_x(
    picture: Bytes, top: int, rows: int, first: Indices, taps: Indices, weights: Sums,
    turned: Bytes, turned_result: Bytes, sums: Sums, kept: Bytes, place: int,
) -> None:  # fmt: skip
    """Resizes some rows of the picture along x into `kept`, from row `place` on."""
    for x in range(0, len(first), _COLUMNS):
        stop = min(x + _COLUMNS, len(first))
        left, right = first[x], first[stop - 1] + taps[stop - 1]
        for r in range(rows):
            for s in range(left, right):
                for c in range(3):
                    turned[s - left, 3 * r + c] = picture[top + r, s, c]
        for k in range(x, stop):
            _blend(sums, 3 * rows, turned, first[k] - left, weights[k], taps[k])
            _round(sums, 3 * rows, turned_result[k - x])
        for r in range(rows):
            for k in range(x, stop):
                for c in range(3):
                    kept[place + r, 3 * k + c] = turned_result[k - x, 3 * r + c]


@called
def _move_up(rows: Bytes, start: int, stop: int) -> None:
    for row in range(start, stop):
        for i in range(rows.shape[1]):
            rows[row - start, i] = rows[row, i]


@compiled(
    types.Array(uint8, 3, "A", readonly=True), types.Array(uint8, 3, "A"),
    read_only(int64, 1), read_only(int64, 1), read_only(int32, 2),
    read_only(int64, 1), read_only(int64, 1), read_only(int32, 2),
)  # fmt: skip
def resize(
    picture: Bytes, result: Bytes,
    x_first: Indices, x_taps: Indices, x_weights: Sums,
    y_first: Indices, y_taps: Indices, y_weights: Sums,
) -> None:  # fmt: skip
    """Fills `result` [h', w', 3]: its column k is made of x_taps[k] columns of the picture [h, w, 3 or more] from
    x_first[k] on, times x_weights[k]; and so along y."""
    size, y, start = 3 * len(x_first), 0, y_first[0]
    end = y_first[-1] + y_taps[-1]
    kept = np.empty((y_weights.shape[1] + _ROWS, size), np.uint8)  # from row `start` of the picture on
    turned = np.empty((_widest(x_first, x_taps), 3 * _ROWS), np.uint8)
    turned_result = np.empty((_COLUMNS, 3 * _ROWS), np.uint8)
    sums, pixels = np.empty(max(size, 3 * _ROWS), np.int32), np.empty(size, np.uint8)
    for top in range(start, end, _ROWS):
        rows = min(_ROWS, end - top)
        _along_x(picture, top, rows, x_first, x_taps, x_weights, turned, turned_result, sums, kept, top - start)
        while y < len(y_first) and y_first[y] + y_taps[y] <= top + rows:
            _blend(sums, size, kept, y_first[y] - start, y_weights[y], y_taps[y])
            _round(sums, size, pixels)
            for k in range(len(x_first)):
                for c in range(3):
                    result[y, k, c] = pixels[3 * k + c]
            y += 1
        if y < len(y_first):
            _move_up(kept, y_first[y] - start, top + rows - start)
            start = y_first[y]
