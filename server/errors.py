"""Which HTTP status each error becomes, and the one document that all of them answer with (RFC 9457)."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import cast

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from server.contract import errors

STATUS_BY_ERROR: dict[type[errors.MasklineError], int] = {
    errors.RequestError: 400,
    errors.UndecodablePicture: 400,
    errors.ModelNotFound: 404,
    errors.BodyTooLarge: 413,
    errors.PictureTooLarge: 413,
    errors.UnsupportedFormat: 415,
    errors.BadPictureInBatch: 422,
    errors.QueueFull: 429,
    errors.ServiceError: 503,
    errors.BundleError: 503,
    errors.DeadlinePassed: 504,
    errors.EngineFailed: 500,
    errors.EngineHung: 503,
    errors.EngineLost: 503,
}
"""An error that is not listed has its nearest base's status."""

CLIENT_GONE = 499
"""Nobody reads this answer; it tells such requests apart in logs and metrics."""


def status_of(error: errors.MasklineError) -> int:
    return next((STATUS_BY_ERROR[base] for base in type(error).__mro__ if base in STATUS_BY_ERROR), 500)


def problem(status: int, detail: str, request_id: str, headers: dict[str, str] | None = None) -> Response:
    """The answer of every error. `detail` is one sentence for a person."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase if status != CLIENT_GONE else "Client Closed Request",
        "status": status,
        "detail": detail,
        "request_id": request_id,
    }
    return Response(orjson.dumps(document), status, headers, "application/problem+json")


def from_error(error: errors.MasklineError, request_id: str) -> Response:
    headers = {}
    if isinstance(error, errors.QueueFull | errors.EngineRestarting):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return problem(status_of(error), str(error), request_id, headers)


def install(app: FastAPI) -> None:
    """Makes every error that a route raises a problem document. Bugs are the outermost middleware's."""
    app.add_exception_handler(errors.MasklineError, _maskline_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(ClientDisconnect, _client_gone)


def request_id_of(request: Request) -> str:
    return cast("str", request.state.request_id)


async def _maskline_error(request: Request, error: Exception) -> Response:
    return from_error(cast("errors.MasklineError", error), request_id_of(request))


async def _http_exception(request: Request, error: Exception) -> Response:
    error = cast("HTTPException", error)
    path = request.url.path
    if error.status_code == 404:
        detail = f"There is no {path} here; /docs lists what there is."
    elif error.status_code == 405:
        detail = f"{path} does not take {request.method}."
    else:
        detail = str(error.detail)
    return problem(error.status_code, detail, request_id_of(request), dict(error.headers or {}))


async def _validation_error(request: Request, error: Exception) -> Response:
    first = cast("RequestValidationError", error).errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return problem(400, f"{where}: {first['msg']}.", request_id_of(request))


async def _client_gone(request: Request, error: Exception) -> Response:
    return problem(CLIENT_GONE, "The client has gone.", request_id_of(request))
