"""Compiled loops from masks of the network to run lengths; `server.pasting` says what they promise.

A *cell* is the square between four neighbouring samples of a mask, in which the pasted values are bilinear: along a
column of pixels they rise or fall, and pass one half once at most. So only the cells on the edge of an object are
looked at, and of each column of pixels there only the rows around that place. What a pixel looked at is, is decided
by the same float64 arithmetic as if all were. Rounding moves a value by some 1e-16; where a sample is within `_CLEAR`
of one half, so that this could matter, every pixel of the cell is looked at.

The functions that are called come first: numba compiles as it reads.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import float32, int64

from server.compiled.compiling import called, compiled, inlined, read_only

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

DETECTRON2: Final = 0
TORCHVISION: Final = 1
MATTERPORT: Final = 2

_THRESHOLD: Final = 0.5
_CLEAR: Final = 1e-6
_BOTH: Final = 2
"""A cell that holds values below and above one half; others are 0 or 1."""


@inlined
def _weights(position: float, sample: int) -> tuple[float, float]:
    """Of a sample and the next one, between which the position is."""
    return 1 - abs(position - sample), 1 - abs(position - (sample + 1))


@inlined
def _is_set(position: float, sample: int, upper: float, lower: float) -> bool:
    above, below = _weights(position, sample)
    return upper * above + lower * below >= _THRESHOLD


@inlined
def _mark(edges: Indices, start: int, end: int, place: int, value: int) -> int:
    """Notes that pixels from `place` on are 0 or 1, where those before are not; returns the new end of the edges.

    Their number tells what holds now. A run that ends where the next one starts goes on.
    """
    if value == (end - start) & 1:
        return end
    if value and end > start and edges[end - 1] == place:
        return end - 1
    edges[end] = place
    return end + 1


@called
def _enlarged(edges: Indices, wanted: int) -> Indices:
    larger = np.empty(2 * wanted, np.int64)
    for k in range(len(edges)):
        larger[k] = edges[k]
    return larger


@called
def _framed(mask: Floats) -> Doubles:
    """With zeros around: one row and column before, two after, as torchvision's last sample looks for a neighbour."""
    size = len(mask)
    framed = np.zeros((size + 3, size + 3))
    for i in range(size):
        for j in range(size):
            framed[i + 1, j + 1] = mask[i, j]
    return framed


@called
def _is_all_set(mask: Floats) -> bool:
    for i in range(len(mask)):
        for j in range(len(mask)):
            if mask[i, j] < _THRESHOLD:
                return False
    return True


@called
def _grown(low: float, high: float, padded_size: int) -> tuple[int, int]:
    """torchvision's box for a mask padded by one: grown about its centre in float32, truncated; `stop` inclusive."""
    half = (high - low) * np.float32(0.5) * np.float32(padded_size / (padded_size - 2))
    centre = (high + low) * np.float32(0.5)
    return int(centre - half), int(centre + half)


@called
def _positions(low: float, high: float, side: int, size: int, rule: int) -> tuple[int, Doubles, float]:
    """First pixel that the box touches along an axis, where the centres of its pixels are among the samples of the
    mask (torchvision: of the padded mask), and their distance."""
    if rule == TORCHVISION:
        start, stop = _grown(low, high, size + 2)
        first, last = min(max(start, 0), side), min(stop + 1, side)
        scale = float(np.float32(size + 2) / np.float32(max(stop - start + 1, 1)))
        origin, least, most = float(start), 0.0, size + 1.0
    else:
        first, last = int(min(max(np.floor(low), 0), side)), int(min(max(np.ceil(high), 0), side))
        origin, least, most = float(low), -2.0, size + 1.0  # all of the same weights from there on: none
        scale = size / (float(high) - origin) if high > low else 1.0
        last = last if high > low else first
    positions = np.empty(max(last - first, 0))
    for k in range(len(positions)):
        position = (first + k + 0.5 - origin) * scale - 0.5
        if rule == TORCHVISION:
            position = float(np.float32(position))  # as torch's
        positions[k] = min(max(position, least), most)
    return first, positions, scale


@called
def _first_rows(positions: Doubles, cells: int, shift: int) -> Indices:
    """[cells + 1]; the rows of pixels of a row of cells q are rows[q] to rows[q + 1]."""
    rows, q = np.empty(cells + 1, np.int64), 0
    for k in range(len(positions)):
        cell = int(np.floor(positions[k])) + shift
        while q <= min(cell, cells):
            rows[q] = k
            q += 1
    for after in range(q, cells + 1):
        rows[after] = len(positions)
    return rows


@called
def _plan(plan: Indices, samples: Doubles, cell: int, rows: Indices) -> int:
    """Writes what there is to do in a column of cells, as (kind, cell) from top to bottom, without those that hold no
    pixels or go on as before; returns their number."""
    count, before = 0, -1
    for q in range(len(rows) - 1):
        a, b, c, d = samples[q, cell], samples[q, cell + 1], samples[q + 1, cell], samples[q + 1, cell + 1]
        kind = _BOTH
        if max(max(a, b), max(c, d)) < _THRESHOLD - _CLEAR:
            kind = 0
        elif min(min(a, b), min(c, d)) > _THRESHOLD + _CLEAR:
            kind = 1
        if rows[q] < rows[q + 1] and (kind != before or kind == _BOTH):
            plan[count, 0], plan[count, 1] = kind, q
            count += 1
            before = kind
    return count


@inlined
def _change(down: Doubles, first: int, last: int, sample: int, upper: float, lower: float, scale: float) -> int:
    """The first of rows `first` to `last` that is on the lower sample's side of one half."""
    below = lower >= _THRESHOLD
    if below == (upper >= _THRESHOLD):
        return first
    position = sample + (_THRESHOLD - upper) / (lower - upper)
    row = min(max(first + int(np.ceil((position - down[first]) / scale)), first), last)
    while row > first and _is_set(down[row - 1], sample, upper, lower) == below:
        row -= 1
    while row < last and _is_set(down[row], sample, upper, lower) != below:
        row += 1
    return row


@inlined
def _column(
    edges: Indices, start: int, end: int, top: int, samples: Doubles, cell: int, left: float, right: float,
    down: Doubles, rows: Indices, plan: Indices, count: int, shift: int, scale: float,
) -> int:  # fmt: skip
    """Marks the changes in a column of pixels; returns the new end of the edges."""
    for k in range(count):
        kind, q = plan[k, 0], plan[k, 1]
        first, last = rows[q], rows[q + 1]
        if kind != _BOTH:
            end = _mark(edges, start, end, top + first, kind)
            continue
        upper = left * samples[q, cell] + right * samples[q, cell + 1]
        lower = left * samples[q + 1, cell] + right * samples[q + 1, cell + 1]
        if min(abs(upper - _THRESHOLD), abs(lower - _THRESHOLD)) < _CLEAR:
            for row in range(first, last):
                end = _mark(edges, start, end, top + row, _is_set(down[row], q - shift, upper, lower))
            continue
        change = _change(down, first, last, q - shift, upper, lower, scale)
        if change > first:
            end = _mark(edges, start, end, top + first, upper >= _THRESHOLD)
        if change < last:
            end = _mark(edges, start, end, top + change, lower >= _THRESHOLD)
    return _mark(edges, start, end, top + rows[-1], 0)


@called
def _paste_one(edges: Indices, start: int, mask: Floats, box: Floats, h: int, w: int, rule: int) -> tuple[Indices, int]:
    """Writes the places where a mask changes from edges[start] on, and leaves room for one more.

    Returns the array, or a larger one, and the end of the places.
    """
    if start == len(edges):
        edges = _enlarged(edges, start + 1)
    samples, shift = _framed(mask), 0 if rule == TORCHVISION else 1
    x, across, _ = _positions(box[0], box[2], w, len(mask), rule)
    y, down, scale = _positions(box[1], box[3], h, len(mask), rule)
    rows = _first_rows(down, len(samples) - 1 - shift, shift)
    is_full = rule == MATTERPORT and _is_all_set(mask)  # scikit-image clips to the range that it was given
    plan, count, planned, end = np.empty((len(rows) - 1, 2), np.int64), 0, -1, start
    for k in range(len(across) if len(down) else 0):
        if end + len(down) + 2 > len(edges):
            edges = _enlarged(edges, end + len(down) + 2)
        top, cell = (x + k) * h + y, int(np.floor(across[k])) + shift
        if is_full:
            end = _mark(edges, start, _mark(edges, start, end, top, 1), top + len(down), 0)
        elif 0 <= cell < len(rows) - 1:
            if cell != planned:
                count, planned = _plan(plan, samples, cell, rows), cell
            left, right = _weights(across[k], cell - shift)
            end = _column(edges, start, end, top, samples, cell, left, right, down, rows, plan, count, shift, scale)
    return edges, end


@called
def _to_counts(edges: Indices, start: int, end: int, pixels: int) -> int:
    """Turns a mask's edges into its counts in their place; returns their end."""
    before = 0
    for k in range(start, end):
        edge = edges[k]
        edges[k] = edge - before
        before = edge
    if before == pixels:
        return end
    edges[end] = pixels - before
    return end + 1


@compiled(read_only(float32, 3), read_only(float32, 2), int64, int64, int64)
def paste(masks: Floats, boxes: Floats, h: int, w: int, rule: int) -> tuple[Indices, Indices]:
    """Counts of all masks in a row (and room for more), and where each mask's end."""
    edges = np.empty(1024 + 512 * len(masks), np.int64)
    ends = np.zeros(len(masks) + 1, np.int64)
    for k in range(len(masks)):
        edges, end = _paste_one(edges, ends[k], masks[k], boxes[k], h, w, rule)
        ends[k + 1] = _to_counts(edges, ends[k], end, h * w)
    return edges, ends


@compiled(read_only(int64, 1), read_only(int64, 1))
def compress(counts: Indices, ends: Indices) -> tuple[npt.NDArray[np.uint8], Indices]:
    """The characters of all masks in a row (and room for more), and where each mask's end."""
    text = np.empty(13 * len(counts), np.uint8)
    text_ends = np.zeros(len(ends), np.int64)
    length = 0
    for k in range(len(ends) - 1):
        for i in range(ends[k], ends[k + 1]):
            rest = counts[i] - (counts[i - 2] if i - ends[k] > 2 else 0)
            more = True
            while more:
                digit = rest & 0x1F
                rest >>= 5
                more = rest != (-1 if digit & 0x10 else 0)
                text[length] = digit + (0x20 if more else 0) + 48
                length += 1
        text_ends[k + 1] = length
    return text, text_ends
