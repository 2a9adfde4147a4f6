"""The bridge to the service's own picture code, so that a picture is read and resized in one way everywhere."""

from __future__ import annotations

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
