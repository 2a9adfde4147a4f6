"""Large pictures in tiles: cut, answered a few at a time, put together again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from server.batching import Outcome
from server.contract.card import ModelCard
from server.contract.errors import BadParameter
from server.contract.wire import ImageResult, PredictOptions
from server.engines.base import Detections
from server.merging import merged
from server.pictures.decode import DecodedPicture, Limits, Picture
from server.pictures.reader import LARGE, PictureReader, return_freed_memory
from server.postprocess import Instance, image_result, instances, select
from server.preprocess import Canvas, prepare
from server.record import Progress
from server.tiling import Tile, part_of, tiles_of
from server.translation import named

Run = Callable[[Canvas], Awaitable[Outcome[Detections]]]
"""Has a canvas run in a batch."""

MAX_INSTANCES = 100_000
"""In all tiles of a picture; to put so many together takes seconds."""

Found = list[tuple[Tile, list[Instance]]]


def predict_in_tiles(
    picture: Picture | DecodedPicture, model: ModelCard, options: PredictOptions, infer: Callable[[Canvas], Detections]
) -> ImageResult:
    """The answer for a picture, one tile after another. Raises `BadParameter` for far too many of them."""
    size_hw, found = (picture.shape[0], picture.shape[1]), []
    for tile in tiles_of(size_hw, options):
        canvas = prepare(part_of(picture, tile), model.input)
        found.append((tile, _instances(canvas, infer(canvas), model, options)))
    return _result(found, size_hw, model, options)


def _instances(canvas: Canvas, found: Detections, model: ModelCard, options: PredictOptions) -> list[Instance]:
    """Those of a tile: how many are wanted is said of the picture."""
    selection = replace(select(options, model), max_detections=model.output.max_detections)
    return instances(found.detections, found.masks, canvas, model, selection)


def _result(found: Found, size_hw: tuple[int, int], model: ModelCard, options: PredictOptions) -> ImageResult:
    return image_result(merged(found, size_hw)[: options.max_detections], size_hw, model, options.mask)


# Many at once


@dataclass(frozen=True)
class PictureAnswer:
    """`picture` is the decoded one where it was asked for; `batch_size` is of the largest batch that it was in."""

    result: ImageResult
    picture: Picture | None
    batch_size: int


async def count_tiles(
    files: Sequence[bytes | Picture], options: PredictOptions, reader: PictureReader, limits: Limits
) -> int:
    """Of all pictures of a request, by their headers. Raises `PictureError`, or `BadParameter` for far too many."""
    count = 0
    for index, file in enumerate(files):
        with named(index if len(files) > 1 else None):
            size_hw = await reader.size_hw(file, limits)
        count += len(tiles_of(size_hw, options))  # as many as of the picture upright
    return count


@dataclass(frozen=True)
class Slides:
    """The pictures of one request, of which never more than `at_once` tiles are on their way.

    `progress` learns of each stage of each tile.
    """

    model: ModelCard
    options: PredictOptions
    reader: PictureReader
    limits: Limits
    run: Run
    progress: Progress
    at_once: int

    @cached_property
    def places(self) -> asyncio.Semaphore:
        return asyncio.Semaphore(self.at_once)

    async def predict(self, keep_picture: bool, file: bytes | Picture, index: int | None) -> PictureAnswer:
        """`index` is that of the picture where there are several. Raises `PictureError`."""
        with named(index):
            picture, decode_s = await self.reader.open(file, self.limits, keep_picture)
        self.progress.passed("decode", decode_s)
        size_hw = picture.shape[0], picture.shape[1]
        tiles = tiles_of(size_hw, self.options)
        answers = _Answers([[] for _ in tiles])
        waiting = iter(list(enumerate(tiles)))
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.at_once, len(tiles))):
                group.create_task(self._work(picture, index, waiting, answers))
        kept = picture if keep_picture and not isinstance(picture, DecodedPicture) else None
        del picture
        found = list(zip(tiles, answers.found, strict=True))
        result, postprocess_s = await self.reader.threads.write(self._finish, found, size_hw)
        self.progress.passed("postprocess", postprocess_s)
        return PictureAnswer(result, kept, answers.batch_size)

    async def _work(
        self,
        picture: Picture | DecodedPicture,
        index: int | None,
        waiting: Iterator[tuple[int, Tile]],
        answers: _Answers,
    ) -> None:
        """One tile after another, while there are any."""
        for place, tile in waiting:
            async with self.places:
                with named(index):
                    canvas, decode_s = await self.reader.threads.read(self._cut, picture, tile)
                self.progress.passed("decode", decode_s)
                outcome = await self.run(canvas)
                found, postprocess_s = await self.reader.threads.write(
                    _instances, canvas, outcome.result, self.model, self.options
                )
                self.progress.passed("postprocess", postprocess_s)
            answers.add(place, found, outcome.batch_size)

    def _cut(self, picture: Picture | DecodedPicture, tile: Tile) -> Canvas:
        return prepare(part_of(picture, tile), self.model.input)

    def _finish(self, found: Found, size_hw: tuple[int, int]) -> ImageResult:
        if size_hw[0] * size_hw[1] * 4 >= LARGE:  # the picture has gone by now
            return_freed_memory()
        return _result(found, size_hw, self.model, self.options)


@dataclass
class _Answers:
    """Of each tile what was found, and the size of the largest batch."""

    found: list[list[Instance]]
    batch_size: int = 0
    instances: int = 0

    def add(self, place: int, found: list[Instance], batch_size: int) -> None:
        """Raises `BadParameter` for more than there is memory and time to put together."""
        self.found[place] = found
        self.batch_size = max(self.batch_size, batch_size)
        self.instances += len(found)
        if self.instances > MAX_INSTANCES:
            raise BadParameter(
                f"score_threshold: the tiles of the picture hold more than {MAX_INSTANCES} objects; ask for a higher "
                "one, or for fewer classes."
            )
