"""Weights files of every family, as a `MaskRCNN`. Today: checkpoints of Maskline's own training."""

from __future__ import annotations

from pathlib import Path

from export.model.mask_rcnn import MaskRCNN
from export.weights import native
from export.weights.errors import MismatchedWeightsError, MissingWeightsError, UnrecognisedWeightsError, WeightsError

__all__ = ["MismatchedWeightsError", "MissingWeightsError", "UnrecognisedWeightsError", "WeightsError", "load"]


def load(path: str | Path) -> MaskRCNN:
    """The model in a weights file, on the CPU and in eval mode. Raises `WeightsError` with a sentence for the user."""
    return native.load(Path(path))
