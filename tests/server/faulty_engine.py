"""Engines that do wrong what a test tells them, while they run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from server.engines.base import Canvases, Detections, Float32
from server.engines.fake import FakeEngine

Fault = Callable[[Canvases, Detections], Detections]
"""From what an engine was given and what it found to what it answers."""


@dataclass
class Faults:
    """What the engines of one model do wrong, and what became of them. `make` makes such an engine."""

    fault: Fault | None = None
    on_make: Callable[[], None] = lambda: None
    on_close: Callable[[], None] = lambda: None
    seconds_per_batch: float = 0.0
    seconds_per_image: float = 0.0
    made: int = 0
    closed: int = 0
    pictures: int = 0
    """That engines have seen, but for those of first runs."""
    release: threading.Event = field(default_factory=threading.Event)
    """Set: whatever hangs returns."""

    def make(self) -> FaultyEngine:
        self.made += 1
        self.on_make()
        return FaultyEngine(self)

    def hang(self, *_: object) -> None:
        self.release.wait(60)


class FaultyEngine(FakeEngine):
    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._faults = faults

    def infer(self, images: Canvases, windows: Float32) -> Detections:
        if images.any():
            self._faults.pictures += len(images)
            time.sleep(self._faults.seconds_per_batch + self._faults.seconds_per_image * len(images))
        found = super().infer(images, windows)
        return self._faults.fault(images, found) if self._faults.fault else found

    def close(self) -> None:
        self._faults.closed += 1
        self._faults.on_close()


def raising(error: Exception) -> Fault:
    def fault(images: Canvases, found: Detections) -> Detections:
        raise error

    return fault
