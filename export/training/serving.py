"""The bridge to the service's own picture code, so that a picture is read and resized in one way everywhere."""

from __future__ import annotations

from export.model.config import InputConfig
from server.contract import card


def serving_input(rule: InputConfig) -> card.Input:
    """The input rule as `server.preprocess` takes it, canvases of the pictures' own sizes."""
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
        canvases="exact" if rule.square is None else [(rule.square, rule.square)],
    )
