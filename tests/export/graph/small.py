"""Small models of the families, traced once a process: tracing takes most of the time of a test."""

from __future__ import annotations

import dataclasses
import functools

import onnx

from export.graph.precision import half_precision
from export.graph.trace import trace
from export.model.mask_rcnn import MaskRCNN
from tests.export.model.families import DETECTRON2, MATTERPORT, TORCHVISION_V2, draw

SEEDS = {"torchvision": 2, "detectron2": 2, "matterport": 1}
"""Weights that find more than ten objects in noise."""

FAMILIES = tuple(SEEDS)


def small_model(family: str) -> MaskRCNN:
    """In float32, with the smallest backbone."""
    config = next(c for c in (TORCHVISION_V2, DETECTRON2, MATTERPORT) if c.family == family)
    return draw(dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, depth=18)), SEEDS[family])


@functools.cache
def traced(family: str) -> onnx.ModelProto:
    """The graph of `small_model` in float32. Not to be changed."""
    return trace(small_model(family))


@functools.cache
def traced_half(family: str) -> onnx.ModelProto:
    """The graph of `small_model` in half precision. Not to be changed."""
    return trace(half_precision(small_model(family)))
