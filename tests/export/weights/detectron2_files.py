"""Small networks as detectron2 would save them, drawn at random, and configuration files."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from export.weights import Given, Imported, load

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


@dataclass(frozen=True)
class Network:
    """A small network of detectron2's, as its names and shapes tell it."""

    depth: int = 18
    classes: int = 3
    anchors: int = 3
    rpn_convs: int = 1
    box_convs: int = 0
    box_fcs: int = 2
    mask_convs: int = 2
    resolution: int = 7
    norm: bool = False
    """BatchNorm in the pyramid and in both heads."""
    statistics: bool = True
    """BatchNorm of the body has running statistics."""


def draw(network: Network, seed: int = 0) -> dict[str, Tensor]:
    """The state dict, with outputs wide enough that no two scores are within rounding of each other."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def layer(name: str, *shape: int, gain: float = 1.4, norm: bool = False, statistics: bool = True) -> None:
        tensors[f"{name}.weight"] = normal(*shape) * gain / math.sqrt(math.prod(shape[1:]))
        if not norm:
            tensors[f"{name}.bias"] = normal(shape[0]) * 0.2
            return
        tensors[f"{name}.norm.weight"] = 1 + 0.2 * normal(shape[0])
        tensors[f"{name}.norm.bias"] = 0.2 * normal(shape[0])
        if statistics:
            tensors[f"{name}.norm.running_mean"] = 0.2 * normal(shape[0])
            tensors[f"{name}.norm.running_var"] = 1 + 0.2 * normal(shape[0]).abs()
            tensors[f"{name}.norm.num_batches_tracked"] = torch.tensor(7)

    width = _draw_body(network, layer)
    for level, inputs in enumerate(width, start=2):
        layer(f"backbone.fpn_lateral{level}", 8, inputs, 1, 1, gain=0.5, norm=network.norm)
        layer(f"backbone.fpn_output{level}", 8, 8, 3, 3, norm=network.norm)
    head = "proposal_generator.rpn_head"
    for i in range(network.rpn_convs):
        layer(f"{head}.conv" if network.rpn_convs == 1 else f"{head}.conv.conv{i}", 8, 8, 3, 3)
    layer(f"{head}.objectness_logits", network.anchors, 8, 1, 1, gain=4)
    layer(f"{head}.anchor_deltas", 4 * network.anchors, 8, 1, 1, gain=0.3)
    for i in range(network.box_convs):
        layer(f"roi_heads.box_head.conv{i + 1}", 8, 8, 3, 3, norm=network.norm)
    inputs = 8 * network.resolution**2
    for i in range(network.box_fcs):
        layer(f"roi_heads.box_head.fc{i + 1}", 16, inputs)
        inputs = 16
    layer("roi_heads.box_predictor.cls_score", network.classes + 1, inputs, gain=4)
    tensors["roi_heads.box_predictor.cls_score.bias"][-1] -= 2
    layer("roi_heads.box_predictor.bbox_pred", 4 * network.classes, inputs, gain=0.5)
    for i in range(network.mask_convs):
        layer(f"roi_heads.mask_head.mask_fcn{i + 1}", 8, 8, 3, 3, norm=network.norm)
    tensors["roi_heads.mask_head.deconv.weight"] = normal(8, 6, 2, 2) / 2
    tensors["roi_heads.mask_head.deconv.bias"] = normal(6) * 0.2
    layer("roi_heads.mask_head.predictor", network.classes, 6, 1, 1, gain=4)
    return tensors


def _draw_body(network: Network, layer: Any) -> list[int]:
    """The body, and the channels of its stages."""
    layer("backbone.bottom_up.stem.conv1", 8, 3, 7, 7, gain=0.02, norm=True, statistics=network.statistics)
    bottleneck, inputs, outputs_of_stages = network.depth == 50, 8, []
    for stage, count in enumerate(BLOCKS[network.depth], start=2):
        width = 2 + stage if bottleneck else 4 + 2 * stage
        outputs = 4 * width if bottleneck else width
        for block in range(count):
            name = f"backbone.bottom_up.res{stage}.{block}"
            shapes = (
                [(width, inputs, 1, 1), (width, width, 3, 3), (outputs, width, 1, 1)]
                if bottleneck
                else [(width, inputs, 3, 3), (width, width, 3, 3)]
            )
            for i, shape in enumerate(shapes, start=1):
                layer(f"{name}.conv{i}", *shape, gain=0.5, norm=True, statistics=network.statistics)
            if inputs != outputs:
                layer(f"{name}.shortcut", outputs, inputs, 1, 1, norm=True, statistics=network.statistics)
            inputs = outputs
        outputs_of_stages.append(outputs)
    return outputs_of_stages


def save_pth(tensors: Mapping[str, Tensor], folder: Path) -> Path:
    """As detectron2's trainer does."""
    path = folder / "model_final.pth"
    torch.save({"model": dict(tensors), "optimizer": {"state": {}, "param_groups": []}, "iteration": 9}, path)
    return path


def save_pkl(tensors: Mapping[str, Tensor], folder: Path) -> Path:
    """As the model zoo does."""
    path = folder / "model_final.pkl"
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "a test"}))
    return path


def save_config(values: Mapping[str, Any] | str, folder: Path) -> Path:
    """From a tree of values, or with dotted names as keys."""
    path = folder / "config.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(tree(values)))
    return path


def tree(values: Mapping[str, Any]) -> dict[str, Any]:
    grown: dict[str, Any] = {}
    for name, value in values.items():
        *parents, last = name.split(".")
        branch = grown
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = value
    return grown


def imported(tensors: Mapping[str, Tensor], folder: Path, config: Mapping[str, Any] | str | None = None) -> Imported:
    given = Given(config=None if config is None else save_config(config, folder))
    return load(save_pth(tensors, folder), given)
