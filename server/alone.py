"""A picture that has the server to itself: all of its stages one after another in the engine's thread.

What a stage leaves in the caches of a core, the next one finds there, and no thread has to be woken in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from server.contract.errors import PictureError
from server.contract.wire import ImageResult
from server.engines.base import Detections
from server.pictures.budget import NoRoom
from server.pictures.decode import Picture
from server.pictures.reader import ReadPicture
from server.preprocess import Canvas
from server.record import Progress, Stage

T = TypeVar("T")

Infer = Callable[[Canvas], Detections]

ALONE = ()
"""Stands for its canvas where that is not known yet. No canvas has this shape."""


@dataclass(frozen=True)
class Answered:
    """`reading` is the error that reading it raised, which is not the engine's: there is no result then."""

    stages: Progress
    reading: PictureError | NoRoom | None = None
    picture: Picture | None = None
    result: ImageResult | None = None

    def stages_behind(self, queue_s: float) -> Progress:
        """Those that it has been through, in the order of every request, though here it was in the queue first."""
        if "decode" not in self.stages:
            return Progress()
        decode = self.stages["decode"]
        return Progress({"decode": decode, "queue": Stage(queue_s, decode.ended), **self.stages})


@dataclass(frozen=True)
class Alone:
    """What an engine's worker runs in the place of a canvas."""

    read: Callable[[], ReadPicture]
    write: Callable[[Canvas, Detections], ImageResult]

    def run(self, infer: Infer) -> Answered:
        """Raises what `infer` and `write` raise."""
        stages = Progress()
        try:
            picture, canvas = _timed(stages, "decode", self.read)
        except (PictureError, NoRoom) as error:
            return Answered(stages, reading=error)
        stages.canvas_hw = canvas.canvas_hw
        found = _timed(stages, "inference", lambda: infer(canvas))
        result = _timed(stages, "postprocess", lambda: self.write(canvas, found))
        return Answered(stages, picture=picture, result=result)


def _timed(stages: Progress, stage: str, work: Callable[[], T]) -> T:
    started = time.monotonic()
    result = work()
    stages.passed(stage, time.monotonic() - started)
    return result
