"""The story of one request for one caller: decode, resize and place, infer, put the answer together.

Verification, evaluation and offline prediction use it, without a web framework; `server.serving` tells the same story
for many callers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from server.contract.card import ModelCard
from server.contract.wire import ImageResult, PredictOptions
from server.engines import EngineName, create_engine
from server.engines.base import Detections, Engine
from server.pictures.decode import Limits, Picture, PictureFile
from server.postprocess import select, to_image_result
from server.preprocess import Canvas, prepare, prepare_file
from server.repository import load_bundle
from server.slides import predict_in_tiles
from server.worker import EngineWorker


class Pipeline:
    """One engine and what surrounds it."""

    def __init__(self, engine: Engine, limits: Limits | None = None) -> None:
        self.engine = engine
        self.limits = limits or Limits()

    @classmethod
    def open(
        cls,
        bundle_dir: str | Path,
        engine: EngineName = "auto",
        *,
        threads: int | None = None,
        limits: Limits | None = None,
    ) -> Pipeline:
        """Loads a bundle. Raises `BundleError`, of which `EngineUnavailable` is one."""
        return cls(create_engine(engine, load_bundle(bundle_dir), threads=threads), limits)

    @property
    def card(self) -> ModelCard:
        return self.engine.card

    def predict(self, image: Picture | bytes, options: PredictOptions | None = None) -> ImageResult:
        """The answer for a picture file, or for a picture as uint8 [h, w, 3] RGB; boxes in the image frame.

        Raises:
            BadParameter: the model has no such class.
            PictureError: the file cannot be used.
            EngineFailed: the engine could not run it.
        """
        options = options or PredictOptions()
        self.check(options)
        picture = PictureFile(image, self.limits) if isinstance(image, bytes) else image
        if options.tile is not None:
            whole = picture.decode() if isinstance(picture, PictureFile) else picture
            return predict_in_tiles(whole, self.card, options, lambda canvas: self.infer([canvas])[0])
        canvas = self.prepare(picture)
        (detections,) = self.infer([canvas])
        return self.finish(canvas, detections, options)

    def check(self, options: PredictOptions) -> None:
        """Raises `BadParameter` for what this model cannot answer."""
        select(options, self.card)

    def prepare(self, picture: Picture | PictureFile) -> Canvas:
        if isinstance(picture, PictureFile):
            return prepare_file(picture, self.card)
        return prepare(picture, self.card.input)

    def infer(self, canvases: Sequence[Canvas]) -> list[Detections]:
        """Runs canvases of one size together; each gets its own rows."""
        return EngineWorker(self.engine).infer(canvases)

    def finish(self, canvas: Canvas, detections: Detections, options: PredictOptions) -> ImageResult:
        return to_image_result(detections.detections, detections.masks, canvas, self.card, options)

    def warm_up(self, max_batch: int = 1) -> None:
        """Runs what `EngineWorker.first_batches` lists."""
        for canvases in EngineWorker(self.engine, max_batch).first_batches():
            self.infer(canvases)
