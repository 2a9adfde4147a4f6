"""From the command line's words to data, a configuration and a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from export.model.config import ModelConfig
from export.model.mask_rcnn import MaskRCNN
from export.training.coco import CocoSet
from export.training.config import ConfigError, TrainingConfig, TrainingError, model_config, read_config_file
from export.training.dataset import PictureSet, UnitedSet
from export.training.shapes import ShapesSet

SHAPES_RECIPE = Path(__file__).parent / "recipes" / "shapes.yaml"
"""Used for `--data shapes` when no configuration is given."""

SHAPES_PICTURES = {"train": 2000, "val": 100}


def read_settings(config_file: Path | None, data: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sections `model` and `training` of the configuration; empty ones when there is none."""
    if config_file is None and list(data) == ["shapes"]:
        config_file = SHAPES_RECIPE
    return read_config_file(config_file) if config_file else ({}, {})


def open_data(specs: Sequence[str], config: TrainingConfig) -> tuple[PictureSet, PictureSet]:
    """Training and validation pictures of all data sets together, with the same classes.

    Raises `DatasetError`, and `ConfigError` for a word that is neither `shapes` nor `coco:DIR`.
    """
    train = UnitedSet([_open_split(s, "train", config) for s in specs])
    val = UnitedSet([_open_split(s, "val", config) for s in specs])
    if train.classes != val.classes:
        raise ConfigError(f"training and validation have different classes: {train.classes} and {val.classes}")
    return train, val


def _open_split(spec: str, use: str, config: TrainingConfig) -> PictureSet:
    kind, _, folder = spec.partition(":")
    if spec == "shapes":
        # Far apart seeds, so that validation pictures are none of the training ones.
        return ShapesSet(SHAPES_PICTURES[use], seed=config.seed * 2 + (use == "val"))
    if kind == "coco" and folder:
        split = config.train_split if use == "train" else config.val_split
        return CocoSet(Path(folder), split, config.cache_mb)
    raise ConfigError(f"--data {spec}: expected coco:DIR or shapes")


def make_model(classes: tuple[str, ...], values: Mapping[str, Any], seed: int, init: Path | None) -> MaskRCNN:
    """A new model, or one that starts from the weights in `init`, for these classes.

    With `init` the architecture is that of the weights, overlaid with `values`; predictors are made anew when the
    classes differ. Raises `ConfigError`, and `WeightsError` for weights that cannot be read.
    """
    torch.manual_seed(seed)
    if init is None:
        return MaskRCNN(model_config(ModelConfig(classes=classes), values))
    from export.weights import load

    source = load(init).model
    config = dataclasses.replace(model_config(source.config, values), classes=classes)
    model = MaskRCNN(config)
    _copy_weights(source, model, init)
    return model


def _copy_weights(source: nn.Module, model: MaskRCNN, path: Path) -> None:
    """All tensors of `source` whose shape fits; only those that count classes may not."""
    wanted, found = model.state_dict(), source.state_dict()
    misfits = [n for n, t in wanted.items() if n not in found or found[n].shape != t.shape]
    per_class = ("box_head.class_logits.", "box_head.deltas.", "mask_head.logits.")
    foreign = [n for n in misfits if not n.startswith(per_class)]
    if foreign:
        raise TrainingError(f"{path}: the model's configuration asks for other shapes: {', '.join(foreign)}")
    model.load_state_dict({n: t for n, t in found.items() if n not in misfits and n in wanted}, strict=False)
