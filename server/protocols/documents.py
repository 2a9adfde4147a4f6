"""The JSON bodies of tools: read once and within limits, whatever else a tool puts into them."""

from __future__ import annotations

import asyncio
from typing import Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from server.contract.errors import BadParameter, BodyTooLarge, UnsupportedFormat
from server.contract.wire import Problem, sentence
from server.protocols.body import read_body
from server.protocols.prediction import settings_of
from server.settings import MIB

JSON: Final = "application/json"
MAX_VALUES: Final = 2_000_000
"""Of one body. A parser makes gigabytes of a hundred MB of "0,0,0"."""
PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {"4XX": {"model": Problem}, "5XX": {"model": Problem}}
PICTURE: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAAAAABWESUoAAAAW0lEQVR42tWTMQ4AIAgDK/EJPqvP5YEODqI2ujgoE/WIJYKpYB+GDwryKB0AGE9S"
    "mWgLKguHyk3yoEzzru+9gy/E3xsWF8LrPVA7hBsoebSg4sPCHDfq349zLKh5NQuP1u7TVgAAAABJRU5ErkJggg=="
)
"""A picture file in base64, for examples."""


class Document(BaseModel):
    """Base of what is read of a tool's body. Members that nobody here needs are let by."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())


D = TypeVar("D", bound=Document)


async def read_document(request: Request, kind: type[D]) -> D:
    """The JSON body.

    Raises:
        UnsupportedFormat: another Content-Type. BodyTooLarge: too many bytes or values.
        BadParameter: another document.
    """
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type != JSON:
        raise UnsupportedFormat(f"A body of type {media_type or 'unknown'} is not accepted; send {JSON}.")
    body = await read_body(request, settings_of(request).max_body_mib * MIB)
    if body.count(b",") > MAX_VALUES:
        raise BodyTooLarge(f"The body has more than {MAX_VALUES} values.")
    return await asyncio.to_thread(_parsed, kind, body)


def _parsed(kind: type[D], body: bytes) -> D:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise BadParameter(f"JSON body: {sentence(error)}") from None


def checked(kind: type[D], values: dict[str, str]) -> D:
    """A query. Raises `BadParameter`."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise BadParameter(sentence(error)) from None


def json_response(content: object, status: int = 200) -> Response:
    """Arrays of numpy are lists."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), status, media_type=JSON)


def request_body(kind: type[Document], example: object, **parts: Any) -> dict[str, Any]:
    """What OpenAPI shows of a body that is read here, not by the framework; `parts` are more of the operation."""
    content = {JSON: {"schema": _inlined(kind.model_json_schema()), "example": example}}
    return {"requestBody": {"required": True, "content": content}, **parts}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Without `$defs`, to which nothing could refer from within a larger document."""
    definitions = schema.pop("$defs", {})

    def resolved(part: Any) -> Any:
        if isinstance(part, list):
            return [resolved(one) for one in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return resolved(definitions[part["$ref"].rpartition("/")[2]])
        return {name: resolved(value) for name, value in part.items()}

    inlined: dict[str, Any] = resolved(schema)
    return inlined
