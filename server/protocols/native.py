"""`POST /predict`: what its request says, and how its answer is written."""

from __future__ import annotations

import asyncio
from collections import Counter

import orjson
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from server.contract.errors import BadParameter, UnsupportedFormat
from server.contract.wire import ModelRef, PredictOptions, PredictResponse, Timings
from server.drawing import draw_png
from server.protocols.body import multipart_pictures, read_body
from server.protocols.json_body import json_pictures
from server.protocols.native_openapi import OPENAPI
from server.serving import Answer
from server.settings import MIB, Settings

__all__ = ["OPENAPI", "json_answer", "options_of", "png_answer", "read_pictures", "wants_png"]

JSON, FORM, PNG = "application/json", "multipart/form-data", "image/png"
ACCEPTED_TYPES = "image/*, application/octet-stream, multipart/form-data or application/json"

MAX_PARAMETERS = 50


def options_of(query: QueryParams, *, as_png: bool = False) -> PredictOptions:
    """Those of the query; a picture to be drawn on needs run lengths, whatever masks were asked for.

    Raises `BadParameter` for an unknown, repeated or impossible parameter.
    """
    names = Counter(name for name, _ in query.multi_items())
    if len(names) > MAX_PARAMETERS:
        raise BadParameter(f"The query has {len(names)} parameters; /docs lists those that there are.")
    for name, count in names.items():
        if count > 1:
            raise BadParameter(f"The query has {name!r} more than once.")
    options = PredictOptions.from_query(query)
    return options.model_copy(update={"mask": "rle"}) if as_png else options


async def read_pictures(request: Request, settings: Settings) -> list[bytes]:
    """The picture files of a request in any of its three forms.

    Raises:
        UnsupportedFormat: another Content-Type. BodyTooLarge: too many bytes or pictures.
        BadParameter, UndecodablePicture, BadPictureInBatch: a body that does not hold what its type says.
    """
    content_type = request.headers.get("Content-Type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type.startswith("image/") or media_type == "application/octet-stream":
        return [await read_body(request, settings.max_picture_mib * MIB)]
    if media_type not in (FORM, JSON):
        sent = f"Content-Type {media_type}" if media_type else "A body without Content-Type"
        raise UnsupportedFormat(f"{sent} is not accepted; send {ACCEPTED_TYPES}.")
    body = await read_body(request, settings.max_body_mib * MIB)
    if media_type == JSON:
        return await json_pictures(body, settings, request.app.state.remote_pictures)
    return await asyncio.to_thread(multipart_pictures, body, content_type, settings.max_pictures)


def wants_png(accept: str) -> bool:
    """Whether the Accept header prefers the annotated picture over JSON."""
    quality = {JSON: 0.0, PNG: 0.0, "*/*": 0.0}
    for part in accept.split(","):
        media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if media_type in quality:
            quality[media_type] = _quality(parameters)
    return quality[PNG] > quality[JSON] and quality[PNG] >= quality["*/*"]


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def json_answer(answer: Answer, model: ModelRef, request_id: str) -> Response:
    document = PredictResponse(model, request_id, answer.images, _rounded(answer.timings_ms), answer.batch_size)
    return Response(orjson.dumps(document), media_type=JSON)


async def png_answer(answer: Answer) -> Response:
    """The picture with its masks and boxes drawn on it."""
    png = await asyncio.to_thread(draw_png, answer.pictures[0], answer.images[0])
    return Response(png, media_type=PNG)


def _rounded(timings: Timings) -> Timings:
    return Timings(*(round(getattr(timings, stage), 3) for stage in Timings.__match_args__))
