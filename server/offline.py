"""The story of many pictures that nobody waits for: decoded and answered in threads beside an engine that is kept busy.

They come in windows. A picture shares batches with others of its window only, so that a window has the same answers to
the last bit whenever it runs, also where an engine rounds differently in a larger batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from server.contract.card import ModelCard
from server.contract.errors import EngineFailed, EngineLost, MasklineError
from server.contract.wire import ImageResult, PredictOptions
from server.engines import EngineName
from server.engines.base import Detections
from server.engines.onnxruntime_ import usable_cpus
from server.pictures.decode import PictureFile
from server.pipeline import Pipeline
from server.preprocess import Canvas

Item = TypeVar("Item")

MAX_BATCH = 8


class Offline:
    """A pipeline for windows of pictures; several threads may give it one each, and then the engine does not wait.

    Args:
        pipeline: which it closes.
        options: of all answers.
        threads: that decode and write masks; None: one a CPU.
    """

    def __init__(self, pipeline: Pipeline, options: PredictOptions, threads: int | None = None) -> None:
        pipeline.check(options)
        self._pipeline, self._options = pipeline, options
        self._threads = ThreadPoolExecutor(threads or usable_cpus())
        self._engine = threading.Lock()

    @classmethod
    def open(
        cls, bundle: str | Path, options: PredictOptions, engine: EngineName = "auto", threads: int | None = None
    ) -> Offline:
        """Raises `BundleError`, and `BadParameter` for what the model cannot answer."""
        return cls(Pipeline.open(bundle, engine, threads=threads), options, threads)

    @property
    def card(self) -> ModelCard:
        return self._pipeline.card

    def predict(self, window: Sequence[Item], read: Callable[[Item], bytes]) -> list[ImageResult | MasklineError]:
        """The answer for each, or why there is none. `read` gives the picture file, or raises `MasklineError`.

        Raises `EngineLost`.
        """
        pictures = list(self._threads.map(lambda item: self._canvas(item, read), window))
        canvases = {k: picture for k, picture in enumerate(pictures) if isinstance(picture, Canvas)}
        with self._engine:
            found = self._infer(canvases)
        answers = dict(zip(canvases, self._threads.map(self._finish, canvases.values(), found), strict=True))
        return [one if isinstance(one, MasklineError) else answers[k] for k, one in enumerate(pictures)]

    def close(self) -> None:
        self._threads.shutdown()
        self._pipeline.engine.close()

    def _canvas(self, item: Item, read: Callable[[Item], bytes]) -> Canvas | MasklineError:
        try:
            return self._pipeline.prepare(PictureFile(read(item), self._pipeline.limits))
        except MasklineError as error:
            return error

    def _infer(self, canvases: Mapping[int, Canvas]) -> list[Detections | MasklineError]:
        found: dict[int, Detections | MasklineError] = {}
        for batch in self._batches(canvases):
            found.update(zip(batch, self._run([canvases[k] for k in batch]), strict=True))
        return [found[k] for k in canvases]

    def _batches(self, canvases: Mapping[int, Canvas]) -> Iterator[list[int]]:
        """Keys of canvases of one size."""
        by_size: dict[tuple[int, ...], list[int]] = {}
        for k, canvas in canvases.items():
            by_size.setdefault(canvas.image.shape, []).append(k)
        most = min(MAX_BATCH, self._pipeline.engine.max_batch or MAX_BATCH)
        for same in by_size.values():
            yield from (same[first : first + most] for first in range(0, len(same), most))

    def _run(self, batch: Sequence[Canvas]) -> Sequence[Detections | MasklineError]:
        """One that fails is tried again picture by picture, so that a poisoned one fails alone."""
        try:
            return self._pipeline.infer(batch)
        except EngineLost:
            raise
        except EngineFailed as error:
            return [error] if len(batch) == 1 else [self._run([canvas])[0] for canvas in batch]

    def _finish(self, canvas: Canvas, found: Detections | MasklineError) -> ImageResult | MasklineError:
        return found if isinstance(found, MasklineError) else self._pipeline.finish(canvas, found, self._options)
