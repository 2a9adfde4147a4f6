"""The input rules of the families, as the model cards of bundles with their usual settings have them."""

from __future__ import annotations

from typing import Any, Final

from server.contract.card import ModelCard
from server.engines.fake import FAKE_CARD
from server.preprocess import canvas_size, resized_size

_ANTIALIAS = {"rule": "shortest_edge", "rounding": "half_up", "interpolation": "antialias"}
_RULES: Final[dict[str, dict[str, Any]]] = {
    "native": {"resize": {**_ANTIALIAS, "min_size": 800, "max_size": 1333}},
    "detectron2": {"resize": {**_ANTIALIAS, "min_size": 800, "max_size": 1333}},
    "torchvision": {
        "resize": {
            "rule": "shortest_edge", "rounding": "floor", "interpolation": "linear", "min_size": 800, "max_size": 1333,
        },
        "dtype": "float32",
    },
    "matterport": {
        "resize": {
            "rule": "grow_shortest_edge", "rounding": "half_even", "interpolation": "linear_zero_border",
            "min_size": 800, "max_size": 1024,
        },
        "placement": "centre", "padding": "black", "size_divisor": 64, "canvases": [(1024, 1024)],
    },
}  # fmt: skip


def model(family: str) -> ModelCard:
    values = FAKE_CARD.model_dump()
    values["provenance"]["family"] = family
    values["input"] |= {"size_divisor": 32, "canvases": "exact"} | _RULES[family]
    return ModelCard.model_validate(values)


def sizes(family: str, h: int, w: int) -> dict[str, tuple[int, int]]:
    """Height and width of the resized picture, of its canvas, and where it is in that."""
    rule = model(family).input
    resized = resized_size(h, w, rule.resize)
    canvas = canvas_size(resized, rule)
    corner = ((canvas[0] - resized[0]) // 2, (canvas[1] - resized[1]) // 2) if rule.placement == "centre" else (0, 0)
    return {"resized_hw": resized, "canvas_hw": canvas, "corner_yx": corner}
