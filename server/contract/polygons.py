"""Masks as polygons along the edges of their pixels, from run lengths and back; never a mask of the picture's size.

A ring is [k, 2] corners (x, y) on the grid between the pixels, not closed, with none on a straight line. A polygon is
one part of a mask (pixels that touch only at a corner are two parts): its exterior ring, clockwise on the screen, then
its holes, the other way round. No ring crosses or touches itself, and rings meet in corners only: the polygons of a
mask are a valid MultiPolygon.

They hold the mask's pixels exactly: a pixel is set where its centre is inside. Rasterisers that also paint the pixels
under the line (Pillow's ImageDraw.polygon, OpenCV's fillPoly) add a row below and a column to the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from server.contract import rle

Ring = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int64]

_RIGHT, _DOWN, _LEFT, _UP = range(4)
"""Directions of edges, clockwise; the mask is to the right of who walks along them."""


def from_counts(counts: rle.Counts, size_hw: tuple[int, int]) -> list[list[Ring]]:
    """The polygons of a mask, the topmost first; none of an empty mask."""
    runs = _Runs(*rle.column_runs(counts, size_hw[0]))
    if not len(runs.x):
        return []
    outline = _outline(runs)
    return _polygons(_rings(outline), outline, runs)


def to_counts(polygons: Sequence[Sequence[npt.ArrayLike]], size_hw: tuple[int, int]) -> rle.Counts:
    """The mask whose pixels have their centres inside an odd number of rings, of any polygons that do not overlap.

    Rings may be closed or not, and leave the picture. A centre on a line belongs to what is below it, or to the right
    of an upright one. Raises `RleError` for rings that are not [k, 2] finite numbers.
    """
    h, w = size_hw
    crossings = [_crossings(_checked(ring), h, w) for polygon in polygons for ring in polygon]
    return rle.from_flips(np.concatenate([np.zeros(0, np.int64), *crossings]), h * w)


def _checked(ring: npt.ArrayLike) -> npt.NDArray[np.float64]:
    try:
        corners = np.asarray(ring, np.float64)
    except (TypeError, ValueError) as error:
        raise rle.RleError("A ring of a polygon is not a list of [x, y].") from error
    if corners.ndim != 2 or corners.shape[1] != 2 or not np.isfinite(corners).all():
        raise rle.RleError("A ring of a polygon is not a list of [x, y].")
    return corners


def _crossings(ring: npt.NDArray[np.float64], h: int, w: int) -> Ints:
    """Column-major positions of the first pixels below the ring's lines, in each column that they pass."""
    x1, y1 = ring.T
    x2, y2 = np.roll(ring, -1, axis=0).T
    columns = np.ceil(np.clip((x1, x2), 0, w) - 0.5).astype(np.int64)
    line, x = rle.ranges(columns.min(axis=0), columns.max(axis=0))
    y = y1[line] + (x + 0.5 - x1[line]) / (x2 - x1)[line] * (y2 - y1)[line]
    first: Ints = x * h + np.ceil(np.clip(y, 0, h) - 0.5).astype(np.int64)
    return first


# From runs to rings


@dataclass(frozen=True)
class _Runs:
    """As `rle.column_runs` gives them."""

    x: Ints
    top: Ints
    bottom: Ints


@dataclass(frozen=True)
class _Outline:
    """Edges between corners. `x`, `y` are of the corners, by column and row; `start` and `end` of an edge are corners.
    `edge_above` is the edge on top of each run."""

    x: Ints
    y: Ints
    start: Ints
    end: Ints
    direction: Ints
    edge_above: Ints


def _outline(runs: _Runs) -> _Outline:
    stride = int(runs.bottom.max()) + 1
    corners, side = _corners(runs, stride)
    upper = np.flatnonzero(side)  # from here down to the next corner the side of a run goes
    rising = side[upper] > 0
    tops, edge_above = _lines(runs.x, runs.top, stride)
    bottoms, _ = _lines(runs.x, runs.bottom, stride)
    left_ends, right_ends = np.searchsorted(corners, np.concatenate((tops, bottoms), axis=1))
    is_top = np.arange(len(left_ends)) < tops.shape[1]
    return _Outline(
        *np.divmod(corners, stride),
        start=np.concatenate((np.where(is_top, left_ends, right_ends), upper + rising)),
        end=np.concatenate((np.where(is_top, right_ends, left_ends), upper + ~rising)),
        direction=np.concatenate((np.where(is_top, _RIGHT, _LEFT), np.where(rising, _UP, _DOWN))),
        edge_above=edge_above,
    )


def _corners(runs: _Runs, stride: int) -> tuple[Ints, Ints]:
    """Corners as x * stride + y, rising, and what is below each: the left side of a run (1), a right one (-1), or 0.

    A line between two columns changes where only one of them does; where both do in the same way, it goes on.
    """
    tops, bottoms = runs.x * stride + runs.top, runs.x * stride + runs.bottom
    places = np.concatenate((tops, bottoms, tops + stride, bottoms + stride))
    change = np.repeat((1, -1, -1, 1), len(tops))
    order = np.argsort(places, kind="stable")
    places, change = places[order], change[order]
    first = np.flatnonzero(np.diff(places, prepend=-1))
    change = np.add.reduceat(change, first)
    kept = change != 0
    return places[first[kept]], np.cumsum(change[kept])


def _lines(x: Ints, y: Ints, stride: int) -> tuple[Ints, Ints]:
    """Tops (or bottoms) of runs in neighbouring columns at the same height are one line: left and right ends [2, lines]
    as x * stride + y, and the line of each run."""
    order = np.lexsort((x, y))
    x, y = x[order], y[order]
    begins = np.append(True, (np.diff(x) != 1) | (np.diff(y) != 0))
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(x)) - 1
    line = np.empty(len(x), np.int64)
    line[order] = np.cumsum(begins) - 1
    return np.stack((x[first] * stride + y[first], (x[last] + 1) * stride + y[last])), line


def _rings(outline: _Outline) -> list[list[int]]:
    """Edges of each ring in their order.

    Where four edges meet, two pixels touch at a corner: turning right keeps them apart. Where that leads a ring twice
    through the corner, turning left makes two rings of it, one of them a hole.
    """
    following = _following(outline)
    rings = _cycles(following)
    by_end = np.argsort(outline.end, kind="stable")
    meeting = np.flatnonzero(np.diff(outline.end[by_end]) == 0)
    one, other = by_end[meeting], by_end[meeting + 1]
    ring_of = _ring_of(rings, len(following))
    twice = ring_of[one] == ring_of[other]
    if not twice.any():
        return rings
    one, other = one[twice], other[twice]
    following[one], following[other] = following[other], following[one]
    return _cycles(following)


def _following(outline: _Outline) -> Ints:
    """The edge after each: to the right, else to the left."""
    leaving = np.full((4, len(outline.x)), -1)
    leaving[outline.direction, outline.start] = np.arange(len(outline.start))
    right = leaving[(outline.direction + 1) % 4, outline.end]
    return np.where(right >= 0, right, leaving[(outline.direction - 1) % 4, outline.end])


def _cycles(following: Ints) -> list[list[int]]:
    after = following.tolist()
    seen = bytearray(len(after))
    rings = []
    for first in range(len(after)):
        ring, edge = [], first
        while not seen[edge]:
            seen[edge] = 1
            ring.append(edge)
            edge = after[edge]
        if ring:
            rings.append(ring)
    return rings


def _ring_of(rings: list[list[int]], edges: int) -> Ints:
    ring_of = np.empty(edges, np.int64)
    ring_of[np.concatenate(rings)] = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    return ring_of


def _polygons(rings: list[list[int]], outline: _Outline, runs: _Runs) -> list[list[Ring]]:
    """Each exterior with its holes: a hole starts downwards at its leftmost corner, an exterior to the right."""
    bounds = np.cumsum([0, *map(len, rings)])
    edges = np.concatenate(rings)
    corners = np.stack((outline.x, outline.y), axis=1)[outline.start[edges]]
    leftmost = np.minimum.reduceat(outline.start[edges], bounds[:-1])
    first_edges = edges[outline.start[edges] == np.repeat(leftmost, np.diff(bounds))]
    is_hole = outline.direction[first_edges] == _DOWN
    part_of = _parts(np.flatnonzero(is_hole), leftmost, _ring_of(rings, len(edges)), outline, runs)
    polygons: dict[int, list[Ring]] = {index: [] for index in np.flatnonzero(~is_hole).tolist()}
    for hole in (False, True):
        for index in np.flatnonzero(is_hole == hole).tolist():
            polygons[part_of[index]].append(corners[bounds[index] : bounds[index + 1]])
    return list(polygons.values())


def _parts(holes: Ints, leftmost: Ints, ring_of: Ints, outline: _Outline, runs: _Runs) -> list[int]:
    """The exterior of each ring. The run to the left of a hole is of its part, and so is the edge above that run, whose
    ring begins further left."""
    stride = int(runs.bottom.max()) + 1
    place = (outline.x[leftmost[holes]] - 1) * stride + outline.y[leftmost[holes]]
    run = np.searchsorted(runs.x * stride + runs.top, place, side="right") - 1
    beside = ring_of[outline.edge_above[run]]
    part_of = list(range(len(leftmost)))
    for index in np.argsort(leftmost[holes]).tolist():
        part_of[int(holes[index])] = part_of[int(beside[index])]
    return part_of
