"""What every protocol's prediction does: admit, read the pictures, answer unless the client goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from starlette.requests import ClientDisconnect, Request

from server.contract.wire import ModelRef, PredictOptions
from server.models import Models
from server.pictures.decode import Picture
from server.record import Record
from server.serving import Answer
from server.settings import Settings

T = TypeVar("T")

ReadPictures = Callable[[], Awaitable[Sequence[bytes | Picture]]]
"""Reads the body: picture files, or pictures as uint8 [h, w, 3] RGB."""


@dataclass(frozen=True)
class Answered:
    """`classes` are the names of the model that answered; index 0 is the background."""

    answer: Answer
    model: ModelRef
    classes: Sequence[str]


def admit(request: Request, options: PredictOptions) -> None:
    """Refuses what would be late, before its body is read. Where the body holds options, those known so far do.

    Raises:
        MasklineError: whatever `Models.select` and `BatchingPipeline.check_admission` raise.
    """
    model = models_of(request).select(options.model, options.version)
    _record(request).model = model.ref
    model.serving.check_admission(options, asyncio.get_running_loop().time() + _timeout_s(request, options))


async def answered(
    request: Request, options: PredictOptions, read_pictures: ReadPictures, *, keep_pictures: bool = False
) -> Answered:
    """The answer to a request. What would be late is refused before the body is read; when the client goes, the work
    is dropped.

    Raises:
        ClientDisconnect: the client has gone.
        MasklineError: whatever `read_pictures`, `Models.select` and `BatchingPipeline.predict` raise.
    """
    admit(request, options)
    record = _record(request)
    pictures = await read_pictures()
    record.pictures = len(pictures)
    model = models_of(request).select(options.model, options.version)  # another if it was loaded anew meanwhile
    record.model = model.ref
    deadline = asyncio.get_running_loop().time() + _timeout_s(request, options)
    work = model.serving.predict(
        pictures, options, deadline=deadline, keep_pictures=keep_pictures, progress=record.progress
    )
    answer = await _unless_client_gone(request, work)
    record.answered(answer)
    return Answered(answer, model.ref, model.card.classes)


def settings_of(request: Request) -> Settings:
    return cast("Settings", request.app.state.settings)


def models_of(request: Request) -> Models:
    return cast("Models", request.app.state.models)


def _timeout_s(request: Request, options: PredictOptions) -> float:
    return settings_of(request).timeout_s if options.timeout_ms is None else options.timeout_ms / 1e3


def _record(request: Request) -> Record:
    return cast("Record", request.state.record)


async def _unless_client_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's result. When the client goes first, cancels the work, so that it never reaches the engine."""
    try:
        async with asyncio.timeout(None) as until_gone:
            watch = asyncio.create_task(_end_when_gone(request, until_gone))
            try:
                return await work
            finally:
                watch.cancel()
    except TimeoutError:
        if until_gone.expired():
            raise ClientDisconnect from None
        raise


async def _end_when_gone(request: Request, until_gone: asyncio.Timeout) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    until_gone.reschedule(asyncio.get_running_loop().time())
