"""What a training run sets, and how a `--config` file (YAML or JSON) says it.

The file has two sections, both optional and both overlays on defaults: `model:` with the fields of `ModelConfig`
(nested as there; `rpn` also takes `anchor_sizes` and `anchor_ratios`, height / width, in place of the table `cells`;
`classes` come from the data) and `training:` with the fields of `TrainingConfig`. An unknown key or a value of the
wrong type is a `ConfigError` that names it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from export.model.config import LEVEL_COUNT, Cell, ModelConfig, anchor_cells

T = TypeVar("T")

WIDE_FIRST, TALL_FIRST = (0.5, 1.0, 2.0), (2.0, 1.0, 0.5)
"""Anchor ratios, height / width, in the orders of the families."""

Layers = Literal["heads", "5+", "4+", "3+", "all"]


class TrainingError(Exception):
    """Something the user of a training run can put right; the message is for them."""


class ConfigError(TrainingError):
    """The configuration file has an unknown key or a wrong value."""


@dataclass(frozen=True)
class Regime:
    """A stretch of the schedule in which only some layers learn (Matterport: heads, then 4+, then all)."""

    until_step: int
    layers: Layers
    learning_rate_factor: float = 1.0


@dataclass(frozen=True)
class OptimizerConfig:
    """`weight_decay` is the ordinary kind (SGD: added to the gradient, AdamW: decoupled); BatchNorm's parameters and
    all biases are left out of it."""

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip_norm: float | None = 5.0
    """Largest norm of all gradients together."""
    warmup_steps: int = 0
    decay: Literal["constant", "step", "cosine"] = "constant"
    milestones: tuple[int, ...] = ()
    """Steps at which `step` decay multiplies the rate by `gamma`."""
    gamma: float = 0.1
    final_factor: float = 0.01
    """What `cosine` decay ends at, as a part of the learning rate."""
    regimes: tuple[Regime, ...] = ()
    """In order; after the last, and when there are none, all layers learn."""
    ema_decay: float | None = None
    """Average of the weights over steps; it is what is evaluated and exported."""


@dataclass(frozen=True)
class TargetConfig:
    """Sampling of anchors and RoIs; the defaults are Matterport's."""

    rpn_positive_iou: float = 0.7
    rpn_negative_iou: float = 0.3
    rpn_anchors_per_image: int = 256
    rpn_positive_fraction: float = 0.5
    crowd_iou: float = 0.001
    """Anchors and RoIs that overlap a crowd by this much are never negative."""
    pre_nms_topk: int | None = None
    """None: 2000 a level, or as many as the model itself takes where it ranks all levels together."""
    post_nms_topk: int = 2000
    roi_positive_iou: float = 0.5
    rois_per_image: int = 200
    roi_positive_fraction: float = 0.33
    append_gt_boxes: bool = False
    """Ground truth boxes join the proposals (torchvision, detectron2)."""
    fill_negatives: bool = False
    """Negatives fill up to `rois_per_image` (torchvision), else they keep the ratio to the positives, none to none."""
    mask_rois_per_image: int | None = None
    """Largest number of positive RoIs an image that pay for a mask."""
    mini_mask_size: int | None = 56
    """Side of the masks kept in a batch, each over its object's box; None: full masks."""


@dataclass(frozen=True)
class AugmentConfig:
    scale_range: tuple[float, float] = (1.0, 1.0)
    """Factor on the input rule's scale, drawn evenly in its logarithm."""
    crop: int | None = None
    """Side in pixels of the crop from the scaled picture."""
    crop_near_object: float = 0.9
    """Probability that the crop holds the centre of an object drawn at random."""
    horizontal_flip: float = 0.5
    vertical_flip: float = 0.0
    quarter_turns: bool = False
    inverted_grey: float = 0.0
    """Probability of turning the picture grey and inverting it (microscopy: stains against fluorescence)."""
    brightness: float = 0.0
    """Largest shift, as a part of 255."""
    contrast: float = 0.0
    """Largest logarithm of the factor by which values are spread about their mean."""
    min_area: int = 4
    """Objects with fewer pixels left in the view count as crowd: neither positive nor negative."""


@dataclass(frozen=True)
class LossWeights:
    rpn_class: float = 1.0
    rpn_box: float = 1.0
    box_class: float = 1.0
    box_delta: float = 1.0
    mask: float = 1.0


@dataclass(frozen=True)
class TrainingConfig:
    """Everything else of a run. A step is one update of the weights."""

    steps: int = 160_000
    batch_size: int = 2
    """Pictures a step, over all processes and accumulated parts."""
    accumulate: int = 1
    """Parts in which a step's batch goes through the network; losses are means over a part, then over the parts."""
    seed: int = 0
    train_bn: bool = False
    """BatchNorm normalises by the batch and keeps its statistics; False: it applies the stored ones (Matterport)."""
    amp: bool = True
    """bfloat16 autocast; only on CUDA."""
    evaluate_every: int = 1000
    evaluate_pictures: int | None = None
    """The first so many validation pictures; None: all."""
    checkpoint_every: int = 500
    checkpoint_minutes: float = 10.0
    log_every: int = 20
    workers: int = 0
    """Processes that load data, an accelerator's to feed; 0: in this process."""
    cache_mb: int = 1024
    """Decoded pictures kept in memory."""
    train_split: str = "train"
    val_split: str = "val"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    targets: TargetConfig = field(default_factory=TargetConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss_weights: LossWeights = field(default_factory=LossWeights)


def read_config_file(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sections `model` and `training` of a YAML or JSON file (JSON is YAML). Raises `ConfigError`."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as a configuration: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected the sections 'model' and 'training'")
    unknown = sorted(set(map(str, document)) - {"model", "training"})
    if unknown:
        raise ConfigError(f"{path}: unknown section {', '.join(unknown)}; there are 'model' and 'training'")
    return document.get("model") or {}, document.get("training") or {}


def training_config(values: Mapping[str, Any]) -> TrainingConfig:
    """Defaults overlaid with `values`. Raises `ConfigError`."""
    made = _overlay(TrainingConfig(), values, "training")
    if made.batch_size < 1 or made.accumulate < 1 or made.batch_size % made.accumulate:
        raise ConfigError("training.batch_size must be a positive multiple of training.accumulate")
    if made.steps < 1:
        raise ConfigError("training.steps must be at least 1")
    return made


def model_config(base: ModelConfig, values: Mapping[str, Any]) -> ModelConfig:
    """`base` overlaid with `values`. Raises `ConfigError`."""
    if not isinstance(values, Mapping):
        raise ConfigError("model: expected a mapping")
    if "classes" in values:
        raise ConfigError("model.classes: classes come from the data; leave them out")
    values = dict(values)
    if isinstance(values.get("rpn"), Mapping):
        values["rpn"] = _with_cells(dict(values["rpn"]), base.rpn.cells)
    made = _overlay(base, values, "model")
    rule = made.input
    if rule.square is not None and (rule.square < rule.max_size or rule.square % rule.size_divisor):
        raise ConfigError(
            f"model.input.square is {rule.square}; it must hold pictures of max_size ({rule.max_size}) "
            f"and be a multiple of {rule.size_divisor}"
        )
    return made


def _with_cells(rpn: dict[str, Any], base: tuple[tuple[Cell, ...], ...]) -> dict[str, Any]:
    """The table `cells` for `anchor_sizes`, rounded where `base` is, and in its order of tall and wide cells."""
    first, last = base[0][0], base[0][-1]
    tall_first = first[3] - first[1] > last[3] - last[1]
    sizes, ratios = rpn.pop("anchor_sizes", None), rpn.pop("anchor_ratios", TALL_FIRST if tall_first else WIDE_FIRST)
    if sizes is None:
        return rpn
    rounded = all(float(corner).is_integer() for level in base for cell in level for corner in cell)
    try:
        levels = tuple(tuple(float(s) for s in (level if isinstance(level, list) else [level])) for level in sizes)
        cells = anchor_cells(levels, tuple(float(r) for r in ratios), rounded=rounded)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"model.rpn.anchor_sizes: expected a list of numbers a level, got {sizes!r}") from error
    if len(cells) != LEVEL_COUNT or len({len(level) for level in cells}) != 1:
        raise ConfigError(
            f"model.rpn.anchor_sizes: expected {LEVEL_COUNT} levels with as many sizes each, got {sizes!r}"
        )
    return {**rpn, "cells": cells}


def _overlay(base: T, values: Mapping[str, Any], where: str) -> T:
    """`base` (a frozen dataclass) with the fields in `values` replaced, checked against the declared types."""
    merged = _merge(dataclasses.asdict(base), values, where)  # type: ignore[call-overload]  # T is a dataclass
    try:
        return TypeAdapter(type(base)).validate_json(json.dumps(merged))
    except (ValidationError, TypeError) as error:
        raise ConfigError(_complaint(error, where)) from error


def _merge(base: dict[str, Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {values!r}")
    merged = dict(base)
    for key, value in values.items():
        if key not in base:
            raise ConfigError(f"{where}.{key}: unknown key; known are {', '.join(sorted(base))}")
        merged[key] = _merge(base[key], value, f"{where}.{key}") if isinstance(base[key], dict) else value
    return merged


def _complaint(error: Exception, where: str) -> str:
    if not isinstance(error, ValidationError):
        return f"{where}: {error}"
    first = error.errors()[0]
    path = ".".join([where, *map(str, first["loc"])])
    return f"{path}: {first['msg']} (got {first['input']!r})"
