"""Objects that several tiles of a picture have seen become one each.

Two of the same class are one object where their masks agree within the part that both tiles see, whatever either of
them sees beside it. Of those, one that lies within its tile stands for all; where every tile has cut it, the parts are
put together. What only one tile sees, at its very edge, does not count where another tile has a better view.

Masks stay run lengths; only what two tiles share is ever looked at pixel by pixel.

Boxes are (x1, y1, x2, y2), x2/y2 exclusive; those of instances in pixels of their tile, all others in the picture's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from server.contract import rle
from server.contract.wire import Box
from server.postprocess import Instance
from server.tiling import Tile

Rectangle = tuple[int, int, int, int]

SAME_IOU = 0.5
"""Masks that agree so well in what both tiles see are of one object."""
COVERED = 0.7
"""An object cut by its tile is a part of another that covers so much of it in what both tiles see."""
EDGE_PIXELS, EDGE_SHARE = 2, 0.05
"""An object has been cut when its box ends so near its tile's edge, in pixels and in parts of the box: the network's
masks are coarse."""


def merged(found: Sequence[tuple[Tile, Sequence[Instance]]], size_hw: tuple[int, int]) -> list[Instance]:
    """The objects of a picture, by falling score, from those of its tiles."""
    tiles = [[_Seen(instance, tile) for instance in instances] for tile, instances in found]
    same = itertools.chain.from_iterable(itertools.starmap(_same, _overlapping(tiles)))
    groups = _groups(list(itertools.chain.from_iterable(tiles)), same)
    places = np.array([tile for tile, _ in found])
    objects = [_object(group, size_hw) for group in groups if not _is_doubtful(group, places, size_hw)]
    return sorted(objects, key=lambda instance: -instance.score)


@dataclass(frozen=True, eq=False)
class _Seen:
    """An object as one tile has seen it."""

    instance: Instance
    tile: Tile

    @cached_property
    def box(self) -> Box:
        x1, y1, x2, y2 = self.instance.box
        return x1 + self.tile.x1, y1 + self.tile.y1, x2 + self.tile.x1, y2 + self.tile.y1

    @cached_property
    def bounds(self) -> Rectangle:
        """Of its mask."""
        x, y, w, h = rle.bbox(self.instance.counts, self.tile.size_hw)
        return self.tile.x1 + x, self.tile.y1 + y, self.tile.x1 + x + w, self.tile.y1 + y + h

    def is_cut(self, area: Rectangle) -> bool:
        return _is_cut(self.box, self.tile, area)

    def mask(self, area: Rectangle) -> npt.NDArray[np.bool_]:
        """Its pixels in an area of its tile."""
        x, y = self.tile[:2]
        x1, y1, x2, y2 = area
        return rle.crop(self.instance.counts, self.tile.size_hw, (x1 - x, y1 - y, x2 - x, y2 - y))


def _is_cut(box: Box, tile: Rectangle, area: Rectangle) -> bool:
    """Whether it ends where the tile does and the area goes on."""
    x1, y1, x2, y2 = box
    near_x, near_y = EDGE_PIXELS + EDGE_SHARE * (x2 - x1), EDGE_PIXELS + EDGE_SHARE * (y2 - y1)
    return (
        (area[0] < tile[0] and x1 - tile[0] <= near_x)
        or (area[1] < tile[1] and y1 - tile[1] <= near_y)
        or (area[2] > tile[2] and tile[2] - x2 <= near_x)
        or (area[3] > tile[3] and tile[3] - y2 <= near_y)
    )


# Which are the same


def _overlapping(tiles: Sequence[Sequence[_Seen]]) -> Iterator[tuple[list[_Seen], list[_Seen], Rectangle]]:
    """What two tiles have seen of the part that they share, and that part; each pair of tiles once."""
    tiles = [seen for seen in tiles if seen]
    places = np.array([seen[0].tile for seen in tiles]).reshape(-1, 4)
    for index, one in enumerate(tiles):
        later = places[index + 1 :]
        x1, y1 = np.maximum(later[:, :2], places[index, :2]).T
        x2, y2 = np.minimum(later[:, 2:], places[index, 2:]).T
        for k in np.flatnonzero((x1 < x2) & (y1 < y2)).tolist():
            shared = int(x1[k]), int(y1[k]), int(x2[k]), int(y2[k])
            yield _within(one, shared), _within(tiles[index + 1 + k], shared), shared


def _within(seen: Sequence[_Seen], area: Rectangle) -> list[_Seen]:
    return [one for one in seen if _shared(one.bounds, area)]


@dataclass(frozen=True)
class _Overlap:
    """How two objects agree in what both tiles see: the IoU, and how much of the `smaller` one the other covers."""

    smaller: _Seen
    larger: _Seen
    iou: float
    covered: float


def _same(ones: Sequence[_Seen], others: Sequence[_Seen], shared: Rectangle) -> Iterator[_Overlap]:
    """Those that are one object: pairs that agree, the best first, then what was cut and has no such partner."""
    overlaps = sorted(_overlaps(ones, others, shared), key=lambda overlap: -overlap.iou)
    matched: set[_Seen] = set()
    for overlap in overlaps:
        pair = {overlap.smaller, overlap.larger}
        if overlap.iou >= SAME_IOU and not pair & matched:
            matched |= pair
            yield overlap
    for overlap in overlaps:
        is_rest = overlap.smaller not in matched and overlap.covered >= COVERED
        if is_rest and overlap.smaller.is_cut(overlap.larger.tile):
            yield overlap


def _overlaps(ones: Sequence[_Seen], others: Sequence[_Seen], shared: Rectangle) -> Iterator[_Overlap]:
    areas = {seen: _area(seen, shared) for seen in (*ones, *others)}
    for one, other in _near(ones, others):
        both = _shared(one.bounds, other.bounds, shared)
        common = int((one.mask(both) & other.mask(both)).sum()) if both else 0
        if common:
            smaller, larger = sorted((one, other), key=areas.__getitem__)
            iou = common / (areas[one] + areas[other] - common)
            yield _Overlap(smaller, larger, iou, common / areas[smaller])


def _near(ones: Sequence[_Seen], others: Sequence[_Seen]) -> Iterator[tuple[_Seen, _Seen]]:
    """Pairs of the same class whose bounds overlap."""
    if not ones or not others:
        return
    (x1, y1, x2, y2), (u1, v1, u2, v2) = (np.array([seen.bounds for seen in each]).T for each in (ones, others))
    (one_class, other_class) = (np.array([seen.instance.class_id for seen in each]) for each in (ones, others))
    near = (x1[:, None] < u2) & (u1 < x2[:, None]) & (y1[:, None] < v2) & (v1 < y2[:, None])
    for i, j in np.argwhere(near & (one_class[:, None] == other_class)).tolist():
        yield ones[i], others[j]


def _area(seen: _Seen, shared: Rectangle) -> int:
    area = _shared(seen.bounds, shared)
    return 0 if area is None else int(seen.mask(area).sum())


def _shared(*areas: Rectangle) -> Rectangle | None:
    """The part that is in all of them."""
    x1, y1, x2, y2 = zip(*areas, strict=True)
    part = max(x1), max(y1), min(x2), min(y2)
    return part if part[0] < part[2] and part[1] < part[3] else None


def _groups(everything: Sequence[_Seen], same: Iterable[_Overlap]) -> Iterable[list[_Seen]]:
    """Whatever is the same, directly or through others."""
    group_of = {seen: [seen] for seen in everything}
    for overlap in same:
        small, large = sorted((group_of[overlap.smaller], group_of[overlap.larger]), key=len)
        if small is not large:
            large.extend(small)
            group_of.update(dict.fromkeys(small, large))
    return {id(group): group for group in group_of.values()}.values()


# What they become


def _is_doubtful(group: Sequence[_Seen], tiles: npt.NDArray[np.integer], size_hw: tuple[int, int]) -> bool:
    """Whether only one tile has seen it, at its edge, where another tile sees more and has not."""
    picture = (0, 0, size_hw[1], size_hw[0])
    if len(group) > 1 or not group[0].is_cut(picture):
        return False
    box = group[0].box
    holding = tiles[(tiles[:, :2] <= box[:2]).all(axis=1) & (tiles[:, 2:] >= box[2:]).all(axis=1)]
    return any(not _is_cut(box, (x1, y1, x2, y2), picture) for x1, y1, x2, y2 in holding.tolist())


def _object(group: Sequence[_Seen], size_hw: tuple[int, int]) -> Instance:
    whole = [seen for seen in group if not seen.is_cut((0, 0, size_hw[1], size_hw[0]))]
    parts = [max(whole, key=lambda seen: seen.instance.score)] if whole else group
    x1, y1, x2, y2 = zip(*(seen.box for seen in parts), strict=True)
    score = max(seen.instance.score for seen in parts)
    return Instance((min(x1), min(y1), max(x2), max(y2)), parts[0].instance.class_id, score, _counts(parts, size_hw))


def _counts(parts: Sequence[_Seen], size_hw: tuple[int, int]) -> rle.Counts:
    """The mask of the picture that holds those of all parts."""
    h, w = size_hw
    starts, stops = [], []
    for seen in parts:
        x, top, bottom = rle.column_runs(seen.instance.counts, seen.tile.size_hw[0])
        column = (x + seen.tile.x1) * h + seen.tile.y1
        starts.append(column + top)
        stops.append(column + bottom)
    return rle.from_runs(np.concatenate(starts), np.concatenate(stops), h * w)
