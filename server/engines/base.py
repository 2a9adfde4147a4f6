"""What an engine is: a compiled Mask R-CNN that is loaded and can run.

Shape shorthand: N pictures in a batch, H x W canvas, M detections over the whole batch, S side of a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from server.contract.card import ModelCard
from server.contract.errors import EngineFailed

Float32 = npt.NDArray[np.float32]
Canvases = npt.NDArray[np.uint8] | Float32

HIGHEST_SCORE = 1.001
"""1, and what half precision may add."""


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


def check_detections(found: Detections, count: int, card: ModelCard) -> None:
    """Raises `EngineFailed` for what an engine that works never puts out for a batch of `count` pictures."""
    fault = _wrong_layout(found, card.output.mask_size) or _wrong_values(found, count, len(card.classes))
    if fault:
        raise EngineFailed(f"The engine answered with rubbish: {fault}.")


def _wrong_layout(found: Detections, side: int) -> str:
    for name, array, shape in (("detections", found.detections, (7,)), ("masks", found.masks, (side, side))):
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            return f"{name} are {getattr(array, 'dtype', type(array).__name__)}, not float32"
        if array.shape[1:] != shape or len(array) != len(found.detections):
            return f"{name} have the shape {array.shape}"
    return ""


def _wrong_values(found: Detections, count: int, classes: int) -> str:
    """Rows of padding may hold anything, but they have to be told apart; the sum of masks is finite if all of them
    are."""
    if not np.isfinite(found.detections[:, 5]).all():
        return "scores that are no numbers"
    image, *box, score, class_id = found.detections[found.detections[:, 5] > 0].T
    faults = {
        "boxes that are no numbers": ~np.isfinite(box).all(),
        "scores above 1": (score > HIGHEST_SCORE).any(),
        f"rows for other pictures than 0 to {count - 1}": not _among(image, 0, count),
        f"classes other than 1 to {classes - 1}": not _among(class_id, 1, classes),
        "masks that are no numbers": not np.isfinite(found.masks.sum()),
    }
    return next((fault for fault, there in faults.items() if there), "")


def _among(values: Float32, first: int, end: int) -> bool:
    return bool(((values >= first) & (values < end) & (values == np.floor(values))).all())


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
