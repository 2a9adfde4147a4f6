"""Large pictures in tiles: where the tiles are, and the objects of all of them as those of the picture.

Boxes are (x1, y1, x2, y2) in pixels of the picture, x2/y2 exclusive.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

from server.contract.errors import BadParameter
from server.contract.wire import PredictOptions
from server.pictures.decode import DecodedPicture, Picture

MAX_TILES = 4096
"""Of one picture."""

OVERLAP = 8
"""Tiles share at least this part of their side, where the query does not say."""


class Tile(NamedTuple):
    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.y2 - self.y1, self.x2 - self.x1


def tiles_of(size_hw: tuple[int, int], options: PredictOptions) -> list[Tile]:
    """Tiles that cover a picture evenly, row by row. No tile leaves the picture: one that is no larger than a tile is
    one, and the tiles of others share `overlap` pixels or more.

    Raises `BadParameter` for far too many of them.
    """
    side = options.tile or max(size_hw)
    overlap = side // OVERLAP if options.overlap is None else options.overlap
    rows, columns = (_count(length, side, overlap) for length in size_hw)
    if rows * columns > MAX_TILES:
        raise BadParameter(
            f"tile: it makes {rows * columns} tiles of this picture, and at most {MAX_TILES} are accepted; "
            "ask for larger ones or for less overlap."
        )
    h, w = (min(side, length) for length in size_hw)
    corners = itertools.product(_starts(size_hw[0], h, rows), _starts(size_hw[1], w, columns))
    return [Tile(x, y, x + w, y + h) for y, x in corners]


def _count(length: int, side: int, overlap: int) -> int:
    return 1 if length <= side else math.ceil((length - overlap) / (side - overlap))


def _starts(length: int, side: int, count: int) -> list[int]:
    return [round(i * (length - side) / max(count - 1, 1)) for i in range(count)]


def part_of(picture: Picture | DecodedPicture, tile: Tile) -> Picture | DecodedPicture:
    """A tile of a picture, in the picture's own memory."""
    if isinstance(picture, DecodedPicture):
        return picture.part(*tile)
    return picture[tile.y1 : tile.y2, tile.x1 : tile.x2]
