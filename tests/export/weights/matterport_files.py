"""Files as Matterport's Keras writes them, of small networks with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

STAGES = {"2": "abc", "3": "abcd", "4": "abcdef", "5": "abc"}
RPN_LAYERS = ("rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred")


def layer_shapes(classes: int = 4, blocks: dict[str, str] = STAGES) -> dict[str, tuple[int, ...]]:
    """Kernel shapes of a network with the names of ResNet-50 and small widths, most of them different."""
    shapes: dict[str, tuple[int, ...]] = {"conv1": (7, 7, 3, 6)}
    inputs, widths = 6, {"2": 3, "3": 4, "4": 5, "5": 6}
    for stage, letters in blocks.items():
        for letter in letters:
            name, width = f"res{stage}{letter}_branch", widths[stage]
            shapes |= {f"{name}2a": (1, 1, inputs, width), f"{name}2b": (3, 3, width, width)}
            shapes[f"{name}2c"] = (1, 1, width, 4 * width)
            if letter == "a":
                shapes[f"{name}1"] = (1, 1, inputs, 4 * width)
            inputs = 4 * width
    for level, channels in ((5, 24), (4, 20), (3, 16), (2, 12)):
        shapes |= {f"fpn_c{level}p{level}": (1, 1, channels, 10), f"fpn_p{level}": (3, 3, 10, 10)}
    shapes |= {"rpn_conv_shared": (3, 3, 10, 14), "rpn_class_raw": (1, 1, 14, 6), "rpn_bbox_pred": (1, 1, 14, 12)}
    shapes |= {"mrcnn_class_conv1": (5, 5, 10, 18), "mrcnn_class_conv2": (1, 1, 18, 16)}
    shapes |= {"mrcnn_class_logits": (16, classes), "mrcnn_bbox_fc": (16, 4 * classes)}
    shapes |= {"mrcnn_mask_conv1": (3, 3, 10, 8), "mrcnn_mask_conv2": (3, 3, 8, 9), "mrcnn_mask_conv3": (3, 3, 9, 8)}
    return shapes | {
        "mrcnn_mask_conv4": (3, 3, 8, 7),
        "mrcnn_mask_deconv": (2, 2, 5, 7),
        "mrcnn_mask": (1, 1, 5, classes),
    }


GAINS = {"conv1": 0.03, "mrcnn_class_logits": 2.0, "mrcnn_mask": 3.0}
"""So that pixels up to 255 make maps about one, and scores spread."""


def draw(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Array]:
    """Weights by LAYER/WEIGHT."""
    rng = np.random.default_rng(seed)
    weights: dict[str, Array] = {}
    for layer, shape in shapes.items():
        transposed = layer == "mrcnn_mask_deconv"
        outputs = shape[2] if transposed else shape[-1]
        gain = GAINS.get(layer, 1.4) / np.sqrt(np.prod(shape) / shape[-1])
        weights[f"{layer}/kernel"] = rng.normal(0, gain, shape)
        weights[f"{layer}/bias"] = rng.normal(0, 0.2, outputs)
        norm = norm_of(layer)
        if norm:
            variance = rng.choice([2e-3, 0.5, 2.0], outputs)  # the least so small that the epsilon tells
            weights[f"{norm}/gamma"] = np.sqrt(variance) * rng.uniform(0.3, 0.9, outputs)
            weights[f"{norm}/beta"] = rng.normal(0, 0.2, outputs)
            weights[f"{norm}/moving_mean"] = rng.normal(0, 0.2, outputs)
            weights[f"{norm}/moving_variance"] = variance
    return {name: value.astype(np.float32) for name, value in weights.items()}


def norm_of(layer: str) -> str | None:
    if layer == "conv1":
        return "bn_conv1"
    if layer.startswith("res"):
        return f"bn{layer[3:]}"
    return layer.replace("_conv", "_bn") if layer.startswith("mrcnn") and "_conv" in layer else None


def save(weights: dict[str, Array], path: Path, *, whole: bool = False) -> Path:
    """As Keras does: a group a layer, also for those without weights, and the RPN as a model of its own. The `whole` is
    a model in training, with its optimizer and its anchors."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if whole else file
        root.create_group("input_image")
        for name, value in weights.items():
            layer, weight = name.split("/")
            group = "rpn_model" if layer in RPN_LAYERS else layer
            root[f"{group}/{layer}/{weight}:0"] = value
        if whole:
            root["anchors/anchors/Variable:0"] = np.zeros((1, 5, 4), np.float32)
            file["optimizer_weights/training/SGD/conv1/kernel/momentum:0"] = weights["conv1/kernel"]
    return path
