"""Checkpoints: written whole or not at all.

A checkpoint is what `torch.save` makes of `{"maskline_checkpoint": 1, "config": ModelConfig.to_dict(), "model":
state_dict, "training": ...}` and loads with `weights_only=True`. `model` is what is evaluated and exported (the
averaged weights where there are any); `training` is what a run needs to go on as if it had never stopped.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from export.model.mask_rcnn import MaskRCNN
from export.training.config import TrainingError

VERSION = 1


class CheckpointError(TrainingError):
    """The checkpoint cannot be resumed from."""


def write_atomically(document: dict[str, Any], path: Path) -> None:
    """Saves so that `path` holds either its old content or all of the new, whenever the machine stops."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        torch.save(document, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def native_checkpoint(model: MaskRCNN) -> dict[str, Any]:
    """The part that export reads."""
    return {
        "maskline_checkpoint": VERSION,
        "config": model.config.to_dict(),
        "model": {name: value.detach().cpu() for name, value in model.state_dict().items()},
    }


def read_training_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint that training wrote, in the CPU's memory. Raises `CheckpointError`."""
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; there is nothing to resume") from error
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint: {error}") from error
    if not isinstance(document, dict) or document.get("maskline_checkpoint") != VERSION or "training" not in document:
        raise CheckpointError(f"{path}: not a checkpoint that training can go on from")
    return document
