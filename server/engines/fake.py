"""An engine without a model, for tests, demonstrations and load tests: it finds what it makes up from the picture.

One detection a picture, whose box is the picture less a margin that follows the picture's mean brightness, whose
score follows the mean of the red channel and whose class follows that of the green one. So every picture gets an
answer of its own, the same in any batch. A picture that is black everywhere has no detections.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from server.contract.card import BundleFile, Input, ModelCard, Output, Provenance, Resize
from server.engines.base import Canvases, Detections, Float32

FAKE_CARD = ModelCard(
    name="fake",
    version="1",
    classes=["background", "something", "something else"],
    input=Input(
        resize=Resize(rule="shortest_edge", min_size=128, max_size=256, rounding="half_up", interpolation="antialias"),
        dtype="uint8",
        placement="top_left",
        padding="zero",
        size_divisor=32,
        canvases="exact",
    ),
    output=Output(
        mask_size=28,
        mask_paste="detectron2",
        max_detections=100,
        score_threshold=0.01,
        default_score_threshold=0.01,
        nms_iou_threshold=0.5,
    ),
    files=[BundleFile(path="none", sha256="0" * 64, engine="onnxruntime", precision="fp32")],
    provenance=Provenance(
        weights_sha256="0" * 64, family="native", created="1970-01-01T00:00:00Z", maskline="0", torch="0", opset=1
    ),
    verification={},
)


class FakeEngine:
    """`seconds_per_batch` and `seconds_per_image` are slept, as a device would take them; black pictures take none, so
    that warm-up is quick."""

    description = "fake engine, no model"
    max_batch: int | None = None

    def __init__(
        self, card: ModelCard = FAKE_CARD, *, seconds_per_batch: float = 0.0, seconds_per_image: float = 0.0
    ) -> None:
        self.card = card
        self._seconds_per_batch = seconds_per_batch
        self._seconds_per_image = seconds_per_image

    def infer(self, images: Canvases, windows: Float32) -> Detections:
        if images.any():
            time.sleep(self._seconds_per_batch + self._seconds_per_image * len(images))
        rows = [self._detect(i, image, window) for i, (image, window) in enumerate(zip(images, windows, strict=True))]
        side = self.card.output.mask_size
        return Detections(np.stack(rows), np.broadcast_to(_disc(side), (len(rows), side, side)))

    def close(self) -> None:
        pass

    def _detect(self, index: int, image: npt.NDArray[np.generic], window: Float32) -> Float32:
        x1, y1, x2, y2 = window
        pixels = image[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))]
        red, green, brightness = pixels[..., 0].mean(), pixels[..., 1].mean(), pixels.mean()
        if not brightness:
            return np.array([index, 0, 0, 0, 0, 0, 1], np.float32)
        margin = brightness / 255 * 0.25
        w, h = x2 - x1, y2 - y1
        box = (x1 + margin * w, y1 + margin * h, x2 - margin * w, y2 - margin * h)
        class_id = 1 + int(green) % (len(self.card.classes) - 1)
        return np.array([index, *box, 0.5 + red / 255 * 0.49, class_id], np.float32)


def _disc(side: int) -> Float32:
    """Mask probabilities [side, side] that fall from the centre and pass 0.5 on a circle."""
    centre = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    distance = np.hypot(centre[:, None], centre[None, :])
    return np.clip(1 - distance / 0.9, 0, 1).astype(np.float32)
