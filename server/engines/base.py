"""What an engine is: a compiled Mask R-CNN that is loaded and can run.

Shape shorthand: N pictures in a batch, H x W canvas, M detections over the whole batch, S side of a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from server.contract.card import ModelCard

Float32 = npt.NDArray[np.float32]
Canvases = npt.NDArray[np.uint8] | Float32


@dataclass(frozen=True)
class Detections:
    """Flat over the batch, as the graph puts them out.

    `detections` [M, 7]: image index, x1, y1, x2, y2 in canvas pixels (x2/y2 exclusive), score, class; grouped by
    image, falling score. Rows with a score of 0 or less are padding. `masks` [M, S, S]: probabilities of that class.
    """

    detections: Float32
    masks: Float32

    def of_image(self, index: int) -> Detections:
        """The rows of one picture, without padding."""
        rows = (self.detections[:, 0] == index) & (self.detections[:, 5] > 0)
        return Detections(self.detections[rows], self.masks[rows])


class Engine(Protocol):
    """One loaded model on one device. `infer` is called by one thread at a time."""

    @property
    def card(self) -> ModelCard: ...

    @property
    def description(self) -> str:
        """Runtime and device, for people: "ONNX Runtime 1.25 on 4 CPU threads"."""
        ...

    @property
    def max_batch(self) -> int | None:
        """Largest batch that it takes on every canvas; None: any."""
        ...

    def infer(self, images: Canvases, windows: Float32) -> Detections:
        """Runs one batch.

        Args:
            images: canvases [N, H, W, 3], RGB, of the card's dtype, zeros outside the window.
            windows: [N, 4], x1, y1, x2, y2 of the picture inside its canvas, in pixels.

        Raises:
            EngineFailed: the runtime refused the batch or broke while it ran it.
            EngineLost: the device is gone for this process, and every later call raises this too.
        """
        ...

    def close(self) -> None:
        """Frees the device; the engine cannot be used afterwards."""
        ...
