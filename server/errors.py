"""Which HTTP status each error becomes, and the one document that all of them answer with (RFC 9457)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, cast

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

SENTENCE_NAMES = {"/v2": "error", "/infer": "message"}
"""By what other name clients of a protocol look for the sentence, for paths that begin so (RFC 9457 allows members)."""

PROBLEM = "application/problem+json"
CLIENT_GONE = 499
"""Nobody reads this answer; it tells such requests apart in logs and metrics."""


def status_of(error: errors.MasklineError) -> int:
    return next((STATUS_BY_ERROR[base] for base in type(error).__mro__ if base in STATUS_BY_ERROR), 500)


def problem(
    status: int, detail: str, request_id: str, headers: dict[str, str] | None = None, *, path: str = ""
) -> Response:
    """The answer of every error. `detail` is one sentence for a person; `path` is what `own_path` says."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase if status != CLIENT_GONE else "Client Closed Request",
        "status": status,
        "detail": detail,
        "request_id": request_id,
    }
    document |= {name: detail for prefix, name in SENTENCE_NAMES.items() if f"{path}/".startswith(f"{prefix}/")}
    return Response(orjson.dumps(document), status, headers, PROBLEM)


def own_path(scope: Mapping[str, Any]) -> str:
    """The path without the part under which a proxy shows the service."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def install(app: FastAPI) -> None:
    """Makes every error that a route raises a problem document. Bugs are the outermost middleware's."""
    app.add_exception_handler(errors.MasklineError, _maskline_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(ClientDisconnect, _client_gone)


def request_id_of(request: Request) -> str:
    return cast("str", request.state.request_id)


def _answer(request: Request, status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    return problem(status, detail, request_id_of(request), headers, path=own_path(request.scope))


async def _maskline_error(request: Request, error: Exception) -> Response:
    error = cast("errors.MasklineError", error)
    headers = {}
    if isinstance(error, errors.QueueFull | errors.EngineRestarting):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return _answer(request, status_of(error), str(error), headers)


async def _http_exception(request: Request, error: Exception) -> Response:
    error = cast("HTTPException", error)
    path = request.url.path
    if error.status_code == 404:
        detail = f"There is no {path} here; /docs lists what there is."
    elif error.status_code == 405:
        detail = f"{path} does not take {request.method}."
    else:
        detail = str(error.detail)
    return _answer(request, error.status_code, detail, dict(error.headers or {}))


async def _validation_error(request: Request, error: Exception) -> Response:
    first = cast("RequestValidationError", error).errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return _answer(request, 400, f"{where}: {first['msg']}.")


async def _client_gone(request: Request, error: Exception) -> Response:
    return _answer(request, CLIENT_GONE, "The client has gone.")
