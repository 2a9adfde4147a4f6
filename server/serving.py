"""The story of a request for many callers at once: their pictures share batches, deadlines and memory."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

from server import batching, compiled
from server.alone import ALONE, Alone, Answered
from server.contract import errors
from server.contract.wire import ImageResult, PredictOptions, Timings
from server.engines.base import Detections, Engine
from server.pictures.budget import NoRoom
from server.pictures.decode import Limits, Picture
from server.pictures.reader import PictureReader
from server.postprocess import select, to_image_result
from server.preprocess import Canvas, usual_bytes
from server.record import Progress
from server.scheduling.supervision import RestartPolicy, Supervised
from server.slides import PictureAnswer, Slides, count_tiles
from server.translation import contract_errors, named
from server.worker import EngineWorker

logger = logging.getLogger("server.serving")

SMALL_FILE = 256 << 10
"""Bytes. Decoding more of them could keep the engine from the next request."""

TILED_BATCHES_AHEAD = 1
"""Batches of tiles that a request may have on their way beyond one for each engine: they run while the next is cut."""


@dataclass(frozen=True)
class Answer:
    """Results of a request's pictures in their order. `pictures` are the decoded ones where they were asked for."""

    images: list[ImageResult]
    pictures: list[Picture]
    timings_ms: Timings
    batch_size: int


@dataclass(frozen=True)
class _Request:
    """See `BatchingPipeline.predict`."""

    files: Sequence[bytes | Picture]
    options: PredictOptions
    deadline: float | None
    keep_pictures: bool
    progress: Progress


class BatchingPipeline:
    """A pipeline that many callers share. Use it on one event loop, between `start` and `close`.

    Args:
        engines: those to begin with, of one card. They share the work.
        make_engine: makes another one in the place of the engine with that index when it fails.
        limits: of pictures.
        reader: of picture files; its threads also write answers. Shared by all models of a server.
        queue_limits: of what waits.
        policy: when an engine is replaced.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        make_engine: Callable[[int], Engine],
        limits: Limits,
        reader: PictureReader,
        queue_limits: batching.QueueLimits,
        policy: RestartPolicy,
    ) -> None:
        max_batch = queue_limits.max_batch_size
        stats = batching.BatcherStats.of(len(engines))
        self.engines = [
            Supervised[Canvas | Alone, Detections | Answered](
                EngineWorker(engine, max_batch),
                partial(_worker_again, make_engine, index, max_batch),
                policy,
                stats.runners[index],
                fatal=(errors.EngineLost,),
            )
            for index, engine in enumerate(engines)
        ]
        self.card = engines[0].card
        self._limits = limits
        self.batcher = _Batcher(self.engines, queue_limits, stats)
        self._reader = reader

    async def start(self) -> None:
        """Warms up what is compiled and the engines, in threads, these side by side, and takes work with those that
        passed their first runs. Raises what one of these raised where none did."""
        await asyncio.to_thread(compiled.load)  # first: an engine that had to wait for it would seem to hang
        outcomes = await asyncio.gather(*(engine.start() for engine in self.engines), return_exceptions=True)
        failures = [outcome for outcome in outcomes if outcome is not None]
        if len(failures) == len(self.engines):
            raise failures[0]
        for failure in failures:
            logger.error("the model %s goes on without an engine", self.card.name, exc_info=failure)
        self.batcher.start()

    async def close(self) -> None:
        """Answers what has been accepted, then frees the engines."""
        await self.batcher.drain()
        await self.batcher.close()
        await asyncio.gather(*(engine.close() for engine in self.engines))

    def check_admission(self, options: PredictOptions, deadline: float | None = None) -> None:
        """Raises what `predict` would raise at once, before a body is read: `BadParameter`, `QueueFull`,
        `EngineRestarting`, `EngineLost`, `Draining`."""
        select(options, self.card)
        with contract_errors():
            self._reserve(_Request((), options, deadline, False, Progress()), 1)

    async def predict(
        self,
        files: Sequence[bytes | Picture],
        options: PredictOptions,
        *,
        deadline: float | None = None,
        keep_pictures: bool = False,
        progress: Progress | None = None,
    ) -> Answer:
        """The answer for the pictures of one request; cancelling it drops its work.

        Args:
            files: at least one picture file, or picture as uint8 [h, w, 3] RGB.
            options: what to answer.
            deadline: in seconds of the event loop's clock.
            keep_pictures: whether the answer holds the decoded pictures.
            progress: learns of each stage when it is over, so that an error can tell of those before it.

        Raises:
            BadParameter: the model cannot answer that.
            PictureError: the only picture is bad. BadPictureInBatch: one of several is.
            QueueFull, EngineRestarting, DeadlinePassed, Draining, EngineFailed.
        """
        started = time.monotonic()
        progress = Progress() if progress is None else progress
        select(options, self.card)
        request = _Request(files, options, deadline, keep_pictures, progress)
        with contract_errors():
            async with asyncio.timeout_at(deadline):
                answers = await (self._predict_whole(request) if options.tile is None else self._predict_tiles(request))
        return _joined(answers, progress, time.monotonic() - started)

    async def _predict_whole(self, request: _Request) -> list[PictureAnswer]:
        with self._reserve(request, len(request.files)) as room:
            if len(request.files) == 1:  # without a task of its own, which costs more than it brings
                return [await self._predict_one(request, room, request.files[0], None)]
            return await _each(request.files, partial(self._predict_one, request, room))

    async def _predict_tiles(self, request: _Request) -> list[PictureAnswer]:
        """Never more than a few tiles are on their way, however many there are: others get their turn."""
        count = await count_tiles(request.files, request.options, self._reader, self._limits)
        at_once = min(count, (len(self.engines) + TILED_BATCHES_AHEAD) * self.batcher.limits.max_batch_size)
        with self._reserve(request, at_once, count) as room:
            run = partial(self._run, room, request.progress)
            slides = Slides(self.card, request.options, self._reader, self._limits, run, request.progress, at_once)
            return await _each(request.files, partial(slides.predict, request.keep_pictures))

    async def _predict_one(
        self, request: _Request, room: _Room, file: bytes | Picture, index: int | None
    ) -> PictureAnswer:
        if self._is_alone(file) and (answer := await self._predict_alone(request, room, file)):
            return answer
        with named(index):
            (kept, canvas), decode_s = await self._reader.read(file, self._limits, self.card, request.keep_pictures)
        request.progress.passed("decode", decode_s)
        outcome = await self._run(room, request.progress, canvas)
        result, postprocess_s = await self._reader.threads.write(self._finish, canvas, outcome.result, request.options)
        request.progress.passed("postprocess", postprocess_s)
        return PictureAnswer(result, kept, outcome.batch_size)

    def _is_alone(self, file: bytes | Picture) -> bool:
        """Whether it is small and has the server to itself."""
        return self.batcher.reserved == 1 and _bytes_of(file) <= SMALL_FILE

    async def _predict_alone(self, request: _Request, room: _Room, file: bytes | Picture) -> PictureAnswer | None:
        """None: there is no memory for it now."""
        keep = request.keep_pictures
        work = Alone(
            lambda: self._reader.read_now(file, self._limits, self.card, keep),
            lambda canvas, found: self._finish(canvas, found, request.options),
        )
        outcome = await self._submit(room, request.progress, ALONE, work)
        answered = cast("Answered", outcome.result)
        request.progress.update(answered.stages_behind(outcome.queue_s))
        request.progress.canvas_hw = answered.stages.canvas_hw
        if isinstance(answered.reading, NoRoom):
            room.take_back()
            return None
        if answered.result is None:
            raise cast("errors.PictureError", answered.reading)
        return PictureAnswer(answered.result, answered.picture, outcome.batch_size)

    async def _run(self, room: _Room, progress: Progress, canvas: Canvas) -> batching.Outcome[Detections]:
        progress.canvas_hw = canvas.canvas_hw
        outcome = await self._submit(room, progress, canvas.image.shape, canvas)
        progress.passed("queue", outcome.queue_s, ended=time.monotonic() - outcome.run_s)
        progress.passed("inference", outcome.run_s)
        return cast("batching.Outcome[Detections]", outcome)

    async def _submit(
        self, room: _Room, progress: Progress, key: tuple[int, ...], item: Canvas | Alone
    ) -> batching.Outcome[Detections | Answered]:
        queued = time.monotonic()
        try:
            return await room.submit(key, item)
        except BaseException:
            progress.passed("queue", time.monotonic() - queued)  # a run that was not finished is in it
            raise

    def _reserve(self, request: _Request, at_once: int, in_all: int | None = None) -> _Room:
        """Room for canvases: `at_once`, of more `in_all`, and for the files."""
        cost = sum(map(_bytes_of, request.files)) + at_once * self._canvas_bytes
        priority = batching.Priority[request.options.priority.upper()]
        lead_s = self._reader.threads.backlog_s
        return self.batcher.reserve(at_once, cost, request.deadline, priority, lead_s, in_all)

    def _finish(self, canvas: Canvas, found: Detections, options: PredictOptions) -> ImageResult:
        return to_image_result(found.detections, found.masks, canvas, self.card, options)

    @cached_property
    def _canvas_bytes(self) -> int:
        return usual_bytes(self.card.input)


def _worker_again(make_engine: Callable[[int], Engine], index: int, max_batch: int) -> EngineWorker:
    return EngineWorker(make_engine(index), max_batch)


def engine_of(supervised: Supervised[Canvas | Alone, Detections | Answered]) -> Engine:
    """The one of the moment: an engine that fails is replaced."""
    return cast("EngineWorker", supervised.worker).engine


def _bytes_of(file: bytes | Picture) -> int:
    return len(file) if isinstance(file, bytes) else file.nbytes


_Batcher = batching.Batcher[tuple[int, ...], Canvas | Alone, Detections | Answered]
_Room = batching.Reservation[tuple[int, ...], Canvas | Alone, Detections | Answered]


async def _each(
    files: Sequence[bytes | Picture],
    predict: Callable[[bytes | Picture, int | None], Coroutine[Any, Any, PictureAnswer]],
) -> list[PictureAnswer]:
    """All pictures side by side, each with its index where there are several."""
    several = len(files) > 1
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(predict(file, index if several else None)) for index, file in enumerate(files)]
    return [task.result() for task in tasks]


def _joined(answers: Sequence[PictureAnswer], progress: Progress, total_s: float) -> Answer:
    """One answer from those of the pictures."""
    stages = {name: stage.seconds * 1e3 for name, stage in progress.items()}
    return Answer(
        [answer.result for answer in answers],
        [answer.picture for answer in answers if answer.picture is not None],
        Timings(**stages, total=total_s * 1e3),
        max(answer.batch_size for answer in answers),
    )
