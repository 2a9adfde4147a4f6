"""PyTorch as an engine of the service's pipeline, so that a checkpoint answers through the code that serves bundles."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from export.graph.bundle import make_card, sha256
from export.model.mask_rcnn import MaskRCNN
from export.weights import load
from server.contract.card import BundleFile, ModelCard
from server.engines.base import Canvases, Detections, Float32


class TorchEngine:
    """Runs a `MaskRCNN` in eval mode on the CPU. See `server.engines.base.Engine`."""

    description = f"PyTorch {torch.__version__} on the CPU"
    max_batch: int | None = None

    def __init__(self, model: MaskRCNN, card: ModelCard) -> None:
        self.card = card
        self._model = model.eval()

    def infer(self, images: Canvases, windows: Float32) -> Detections:
        with torch.inference_mode():
            detections, masks = self._model(torch.from_numpy(images), torch.from_numpy(windows))
        return Detections(detections.numpy(), masks.numpy())

    def close(self) -> None:
        pass


def open_checkpoint(path: Path, max_detections: int, score_threshold: float | None) -> TorchEngine:
    """A checkpoint with the given limits in its detection layer; None: its own. Raises `WeightsError`."""
    model = load(path).model
    limits = model.config.detection
    threshold = limits.score_threshold if score_threshold is None else score_threshold
    limits = dataclasses.replace(limits, max_detections=max_detections, score_threshold=threshold)
    model.config = dataclasses.replace(model.config, detection=limits)
    file = BundleFile(path=path.name, sha256=sha256(path), engine="onnxruntime", precision="fp32")
    return TorchEngine(model, make_card(model.config, name="checkpoint", model_version="1", weights=path, files=[file]))
