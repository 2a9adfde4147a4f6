"""From the command line's words to data, a configuration and a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from export.model.config import DetectionConfig, ModelConfig
from export.model.mask_rcnn import MaskRCNN
from export.training.coco import CocoSet
from export.training.config import ConfigError, TrainingConfig, TrainingError, model_config, read_config_file
from export.training.dataset import PictureSet, UnitedSet
from export.training.shapes import ShapesSet

SHAPES_RECIPE = Path(__file__).parent / "recipes" / "shapes.yaml"
"""Used for `--data shapes` when no configuration is given."""

SHAPES_PICTURES = {"train": 2000, "val": 100}

CLASS_PREDICTORS = ("box_head.class_logits.", "box_head.deltas.", "mask_head.logits.")
RPN_PREDICTORS = ("rpn_head.logits.", "rpn_head.deltas.")
"""Name prefixes of the layers that a change of classes, or of anchors, makes anew."""


def read_settings(
    config_file: Path | None, data: Sequence[str], init: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sections `model` and `training` of the configuration; empty ones when there is none.

    Without one, the generated shapes have their own; its model is not for `init`, whose weights bring theirs.
    """
    if config_file is None and list(data) == ["shapes"]:
        model_values, training_values = read_config_file(SHAPES_RECIPE)
        return ({} if init else model_values), training_values
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


@dataclass(frozen=True)
class Start:
    """The model that a run begins with."""

    model: MaskRCNN
    told: str | None
    """A sentence on the weights it starts from; None for random ones."""


def make_model(
    classes: tuple[str, ...],
    values: Mapping[str, Any],
    seed: int,
    init: str | None,
    init_config: Path | None = None,
) -> Start:
    """A new model, or one that starts from the weights `init` of any family, for these classes.

    `init_config` is what the family's own configuration says of `init` (see `export.weights.Given`).

    With `init` the architecture and the rules are those of the weights, overlaid with `values`. Predictors whose output
    means something else now are made anew: those of classes unless the class lists are equal, those of the RPN when
    there are more or fewer anchors a location. Raises `TrainingError`, and `WeightsError` for weights that cannot be
    used.
    """
    torch.manual_seed(seed)
    if init is None:
        return Start(MaskRCNN(model_config(ModelConfig(classes=classes), values)), None)
    from export.weights import Given, load

    source = load(init, Given(config=init_config)).model
    config = model_config(replace(_own(source.config), classes=classes), values)
    model = MaskRCNN(config)
    anew = _made_anew(source, model, init)
    kept = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith(tuple(anew))}
    model.load_state_dict(kept, strict=False)
    return Start(model, _told(source.config, init, anew))


def _own(config: ModelConfig) -> ModelConfig:
    """What training makes of an imported model is its own: the family's rules stay, its defaults for serving do not.

    Matterport's threshold of 0.7 would hide from the evaluation all that a young model finds.
    """
    if config.family == "native":
        return config
    detection = replace(config.detection, score_threshold=DetectionConfig().score_threshold)
    return replace(config, family="native", detection=detection)


def _made_anew(source: MaskRCNN, model: MaskRCNN, init: str) -> list[str]:
    """The predictors that do not start from the source's. Raises `TrainingError` where other tensors do not fit."""
    found, wanted = ({name: tensor.shape for name, tensor in m.state_dict().items()} for m in (source, model))
    misfits = [n for n in {**found, **wanted} if found.get(n) != wanted.get(n)]
    anew = list(CLASS_PREDICTORS) if source.config.classes != model.config.classes else []
    if any(name.startswith(RPN_PREDICTORS) for name in misfits):
        anew += RPN_PREDICTORS
    foreign = [name for name in misfits if not name.startswith(tuple(anew))]
    if foreign:
        shown = ", ".join(foreign[:4]) + (f" and {len(foreign) - 4} more" if len(foreign) > 4 else "")
        raise TrainingError(f"the section model of --config asks for other layers than {init} has: {shown}")
    return anew


def _told(config: ModelConfig, init: str, anew: Sequence[str]) -> str:
    what = f"{config.family}, ResNet-{config.backbone.depth}, {config.num_classes - 1} classes"
    rest = f"made anew: {', '.join(name.rstrip('.') for name in anew)}" if anew else "all tensors kept"
    return f"starting from {init}: {what}; {rest}"
