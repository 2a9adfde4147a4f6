"""The bridge to the service's own picture code, so that a picture is read and resized in one way everywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Literal

from export.model.config import InputConfig
from server.contract import card


def serving_input(rule: InputConfig, canvases: Literal["exact"] | list[card.Canvas] = "exact") -> card.Input:
    """The input rule as the bundle's card has it and `server.preprocess` takes it; a `square` rule has one canvas."""
    if rule.square is not None and canvases == "exact":
        canvases = [(rule.square, rule.square)]
    return card.Input(
        resize=card.Resize(
            rule=rule.resize_rule,
            min_size=rule.min_size,
            max_size=rule.max_size,
            rounding=rule.rounding,
            interpolation=rule.interpolation,
        ),
        dtype=rule.dtype,
        placement=rule.placement,
        padding=rule.padding,
        size_divisor=rule.size_divisor,
        canvases=canvases,
    )


def listed_canvases(rule: InputConfig) -> list[card.Canvas]:
    """A short list (height, width) of which every picture fits one, for engines with fixed shapes.

    Sides are the rule's shortest and longest, rounded up to the divisor, and their middle. `shortest_edge` leaves no
    picture with both sides above the shortest, so that canvases need not have that either; `grow_shortest_edge` does,
    up to the longest.
    """
    if rule.square is not None:
        return [(rule.square, rule.square)]
    shortest, longest = (_rounded_up(side, rule.size_divisor) for side in (rule.min_size, rule.max_size))
    middle = _rounded_up((shortest + longest) / 2, rule.size_divisor)
    limits = {shortest} if rule.resize_rule == "shortest_edge" else {shortest, longest}
    sides = sorted({shortest, middle, longest})
    return [(height, width) for height, width in product(sides, sides) if limits & {height, width}]


def missing_canvas(rule: InputConfig, canvases: Sequence[card.Canvas]) -> card.Canvas | None:
    """A canvas without which some picture fits none of the list; None: every picture fits one."""
    short, long = (_rounded_up(side, rule.size_divisor) for side in (rule.min_size, rule.max_size))
    largest = [(short, long), (long, short)] if rule.resize_rule == "shortest_edge" else [(long, long)]
    unheld = (size for size in largest if not any(size[0] <= h and size[1] <= w for h, w in canvases))
    return next(unheld, None)


def _rounded_up(side: float, divisor: int) -> int:
    return math.ceil(side / divisor) * divisor
