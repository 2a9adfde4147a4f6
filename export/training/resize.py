"""The input rule of a model, applied to whole pictures: what serving does, for evaluation during training."""

from __future__ import annotations

import math

from export.model.config import InputConfig


def resized_size(size_hw: tuple[int, int], rule: InputConfig) -> tuple[int, int]:
    """Height and width after the resize rule, each at least 1."""
    shortest, longest = min(size_hw), max(size_hw)
    scale = rule.min_size / shortest
    if rule.resize_rule == "grow_shortest_edge":
        scale = max(1.0, scale)
    scale = min(scale, rule.max_size / longest)
    height, width = (_round(side * scale, rule.rounding) for side in size_hw)
    return max(1, height), max(1, width)


def _round(value: float, rounding: str) -> int:
    if rounding == "half_even":
        return round(value)
    return math.floor(value + 0.5) if rounding == "half_up" else math.floor(value)
