"""An engine as its supervisor sees it: batches of canvases in, the rows of each out, checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np

from server.alone import Alone, Answered
from server.engines.base import Detections, Engine, check_detections
from server.preprocess import Canvas, prepare

COMMON_ASPECTS_HW = ((1, 1), (3, 4), (2, 3), (4, 3), (3, 2))
"""Warmed where every picture has a canvas of its own size."""


class EngineWorker:
    """`max_batch` is the largest batch that it will get."""

    def __init__(self, engine: Engine, max_batch: int = 1) -> None:
        self.engine = engine
        self._max_batch = max_batch

    def run(self, items: Sequence[Canvas | Alone]) -> Sequence[Detections | Answered]:
        """Runs canvases of one size together, pictures that are alone one by one. Raises what `infer` does."""
        alone = [item for item in items if isinstance(item, Alone)]
        if alone:
            return [item.run(lambda canvas: self.infer([canvas])[0]) for item in alone]
        return self.infer(cast("Sequence[Canvas]", items))

    def infer(self, canvases: Sequence[Canvas]) -> list[Detections]:
        """Runs canvases of one size together; each gets its own rows. Raises `EngineFailed`, also for rubbish."""
        images: Any = np.stack([canvas.image for canvas in canvases])
        windows = np.array([canvas.window_xyxy for canvas in canvases], np.float32)
        found = self.engine.infer(images, windows)
        check_detections(found, len(canvases), self.engine.card)
        return [found.of_image(i) for i in range(len(canvases))]

    def first_batches(self) -> Iterator[list[Canvas]]:
        """Every listed canvas, or the commonest shapes, once: first runs of a shape are slow.

        An engine whose batches are limited is made for each size by itself, so those up to `max_batch` run as well;
        the largest first, as it is the one that memory may not be enough for.
        """
        most = self.engine.max_batch
        counts = range(min(self._max_batch, most), 0, -1) if most else (1,)
        for canvas in self._common_canvases():
            for count in counts:
                yield [canvas] * count

    def close(self) -> None:
        self.engine.close()

    def _common_canvases(self) -> Iterator[Canvas]:
        """Black ones."""
        settings = self.engine.card.input
        if settings.canvases != "exact":
            for h, w in settings.canvases:
                yield Canvas(np.zeros((h, w, 3), settings.dtype), (0, 0, w, h), (h, w))
            return
        short = settings.resize.min_size
        for h, w in COMMON_ASPECTS_HW:
            black = np.zeros((short * h // min(h, w), short * w // min(h, w), 3), np.uint8)
            yield prepare(black, settings)
