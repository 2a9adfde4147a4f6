"""Many pictures that nobody waits for: which batches they share, and what becomes of bad ones."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from server.contract.errors import BadParameter, EngineFailed, EngineLost, MasklineError, UndecodablePicture
from server.contract.wire import ImageResult, PredictOptions
from server.engines.base import Canvases, Detections, Float32
from server.engines.fake import FakeEngine
from server.offline import Offline
from server.pipeline import Pipeline

POISON = (255, 0, 0)


class Watched(FakeEngine):
    """Remembers its batches; a poisoned picture makes it raise `failure`."""

    def __init__(self, failure: MasklineError | None = None) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.failure = failure
        self.closed = False
        self._busy = threading.Lock()

    def infer(self, images: Canvases, windows: Float32) -> Detections:
        assert self._busy.acquire(blocking=False), "one batch at a time"
        with_poison = any(np.array_equal(image[10, 10], POISON) for image in images)
        try:
            self.sizes.append(len(images))
            if self.failure is not None and with_poison:
                raise self.failure
            return super().infer(images, windows)
        finally:
            self._busy.release()

    def close(self) -> None:
        self.closed = True


def png(colour: Sequence[int], size: tuple[int, int] = (128, 128)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, tuple(colour)).save(file, "PNG")
    return file.getvalue()


def grey(k: int) -> bytes:
    return png((60 + k, 80, 90))


@pytest.fixture
def engine() -> Watched:
    return Watched()


@pytest.fixture
def offline(engine: Watched) -> Iterator[Offline]:
    one = Offline(Pipeline(engine), PredictOptions(), threads=2)
    yield one
    one.close()
    assert engine.closed


def predict(offline: Offline, window: Sequence[bytes]) -> list[ImageResult | MasklineError]:
    return offline.predict(window, lambda file: file)


def test_answers_are_those_of_a_picture_alone(offline: Offline):
    files = [grey(k) for k in range(5)]
    assert predict(offline, files) == [Pipeline(FakeEngine()).predict(file) for file in files]


def test_pictures_of_one_canvas_share_batches_of_at_most_eight(offline: Offline, engine: Watched):
    wide = png((90, 90, 90), (256, 128))
    predict(offline, [grey(0), wide, *(grey(k) for k in range(1, 10)), wide])
    assert engine.sizes == [8, 2, 2]


def test_an_engine_that_takes_fewer_gets_fewer(offline: Offline, engine: Watched):
    engine.max_batch = 3
    predict(offline, [grey(k) for k in range(7)])
    assert engine.sizes == [3, 3, 1]


def test_bad_pictures_have_their_reason_and_the_others_their_answer(offline: Offline):
    first, text, last = predict(offline, [grey(1), b"text", grey(2)])
    assert isinstance(first, ImageResult)
    assert isinstance(text, UndecodablePicture)
    assert isinstance(last, ImageResult)


def test_a_poisoned_picture_fails_alone(offline: Offline, engine: Watched):
    engine.failure = EngineFailed("poison")
    found = predict(offline, [grey(1), png(POISON), grey(2)])
    assert [isinstance(one, EngineFailed) for one in found] == [False, True, False]
    assert engine.sizes == [3, 1, 1, 1]


def test_an_engine_that_is_lost_ends_the_work(offline: Offline, engine: Watched):
    engine.failure = EngineLost("the device is gone")
    with pytest.raises(EngineLost):
        predict(offline, [grey(1), png(POISON)])


def test_windows_side_by_side_run_one_batch_at_a_time(offline: Offline):
    windows = [[grey(10 * n + k) for k in range(4)] for n in range(6)]
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda window: predict(offline, window), windows))
    assert all(isinstance(one, ImageResult) for window in found for one in window)


def test_options_that_the_model_cannot_answer_are_refused_at_once():
    with pytest.raises(BadParameter):
        Offline(Pipeline(FakeEngine()), PredictOptions(classes=("unicorn",)))
