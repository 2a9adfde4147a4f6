"""Checkpoints that training here writes: one file with the configuration and the tensors, no code in it.

`torch.save({"maskline_checkpoint": 1, "config": ModelConfig.to_dict(), "model": state_dict, ...})`; whatever else the
file holds is training's own and is not looked at.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.model.config import ModelConfig
from export.model.mask_rcnn import MaskRCNN
from export.weights.errors import MismatchedWeightsError, MissingWeightsError, UnrecognisedWeightsError

FORMAT_KEY = "maskline_checkpoint"
FORMAT = 1


def read(path: Path) -> dict[str, Any]:
    """The checkpoint's content, on the CPU; never runs code in it. Raises a `WeightsError`."""
    if not path.is_file():
        raise MissingWeightsError(f"There is no weights file {path}.")
    try:
        path.open("rb").close()
    except OSError as error:
        raise MissingWeightsError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on the pickle's age
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file can fail anywhere in torch's reader
        message = f"{path} is not a checkpoint of plain tensors and values; it was not loaded."
        raise UnrecognisedWeightsError(message) from error
    if not isinstance(content, dict) or FORMAT_KEY not in content:
        raise UnrecognisedWeightsError(f"{path} is not a Maskline checkpoint: it has no {FORMAT_KEY!r} entry.")
    if content[FORMAT_KEY] != FORMAT:
        raise UnrecognisedWeightsError(
            f"{path} is a Maskline checkpoint of format {content[FORMAT_KEY]!r}; this version reads format {FORMAT}."
        )
    return content


def load(path: Path) -> MaskRCNN:
    """The model of a checkpoint, in eval mode. Raises a `WeightsError`."""
    content = read(path)
    model = MaskRCNN(_config(path, content.get("config")))
    tensors = content.get("model")
    if not isinstance(tensors, Mapping):
        raise UnrecognisedWeightsError(f"{path} has no tensors: its 'model' entry is missing or of another kind.")
    fill(model, tensors, str(path))
    return model.eval()


def fill(model: MaskRCNN, tensors: Mapping[str, Tensor], source: str) -> None:
    """Puts `tensors` into `model`. Raises `MismatchedWeightsError` that names every tensor that does not fit."""
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in tensors]
    unexpected = [name for name in tensors if name not in wanted]
    misshapen = [
        (name, tuple(tensors[name].shape), tuple(tensor.shape))
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if missing or unexpected or misshapen:
        raise MismatchedWeightsError(source, missing, misshapen, unexpected)
    model.load_state_dict(dict(tensors))


def _config(path: Path, values: Any) -> ModelConfig:
    try:
        return ModelConfig.from_dict(values)
    except (TypeError, AttributeError) as error:
        raise UnrecognisedWeightsError(
            f"{path} has a model configuration that this version cannot read: {error}."
        ) from error
