"""PyTorch as an engine of the service's pipeline, so that a checkpoint answers through the code that serves bundles."""

from __future__ import annotations

import torch

from export.model.mask_rcnn import MaskRCNN
from server.contract.card import ModelCard
from server.engines.base import Canvases, Detections, Float32


class TorchEngine:
    """Runs a `MaskRCNN` in eval mode on the CPU. See `server.engines.base.Engine`."""

    description = f"PyTorch {torch.__version__} on the CPU"

    def __init__(self, model: MaskRCNN, card: ModelCard) -> None:
        self.card = card
        self._model = model.eval()

    def infer(self, images: Canvases, windows: Float32) -> Detections:
        with torch.inference_mode():
            detections, masks = self._model(torch.from_numpy(images), torch.from_numpy(windows))
        return Detections(detections.numpy(), masks.numpy())

    def close(self) -> None:
        pass
