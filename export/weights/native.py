"""Checkpoints that training here writes: one file with the configuration and the tensors, no code in it.

`torch.save({"maskline_checkpoint": 1, "config": ModelConfig.to_dict(), "model": state_dict, ...})`; whatever else the
file holds is training's own and is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from export.model.config import ModelConfig
from export.model.mask_rcnn import MaskRCNN
from export.weights.class_names import read_class_names
from export.weights.errors import UnrecognisedWeightsError, WeightsConfigError
from export.weights.files import Tensors, WeightsFile
from export.weights.mapping import Source, sources
from export.weights.settings import Settings

FORMAT_KEY = "maskline_checkpoint"
FORMAT = 1


def read_config(file: WeightsFile, settings: Settings) -> ModelConfig:
    """The configuration that the file holds, with what the flags change. Raises a `WeightsError`."""
    given = settings.given
    for flag, value in (("--config", given.config), ("--bn-eps", given.bn_eps)):
        if value is not None:
            raise WeightsConfigError(f"{flag} is for imported weights; {file.path} holds its own configuration.")
    config = _stored(file)
    detection, rule = config.detection, config.input
    return replace(
        config,
        classes=read_class_names(given.classes, config.num_classes) if given.classes else config.classes,
        detection=replace(
            detection,
            score_threshold=settings.take("score_threshold", detection.score_threshold, flag="score_threshold"),
            max_detections=settings.take("max_detections", detection.max_detections, flag="max_detections"),
        ),
        input=replace(
            rule,
            min_size=settings.take("min_size", rule.min_size, flag="min_size"),
            max_size=settings.take("max_size", rule.max_size, flag="max_size"),
        ),
    )


def read_sources(
    file: WeightsFile, model_names: Iterable[str], settings: Settings
) -> tuple[Tensors, dict[str, Source]]:
    """The file's tensors, which have the model's own names."""
    if not file.content.get("model"):
        raise UnrecognisedWeightsError(f"{file.path} has no tensors: its 'model' entry is missing or empty.")
    return file.tensors, sources(model_names, ())


def _stored(file: WeightsFile) -> ModelConfig:
    found = file.content[FORMAT_KEY]
    if not isinstance(found, int) or found != FORMAT:
        raise UnrecognisedWeightsError(
            f"{file.path} is a Maskline checkpoint of format {found!r}; this version reads format {FORMAT}."
        )
    try:
        config = ModelConfig.from_dict(file.content["config"])
        with torch.device("meta"):
            MaskRCNN(config)  # shows that there is such a model, and takes no memory
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UnrecognisedWeightsError(
            f"{file.path} has a model configuration that this version cannot read: {error}."
        ) from error
    return config
