"""The JSON bodies of tools: read once and within limits, whatever else a tool puts into them."""

from __future__ import annotations

import asyncio
from typing import Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from starlette.requests import Request
from starlette.responses import Response

from server.contract.errors import BadParameter, BodyTooLarge, UnsupportedFormat
from server.contract.wire import sentence
from server.protocols.body import read_body
from server.protocols.native_openapi import without_null
from server.protocols.prediction import settings_of
from server.settings import MIB

JSON: Final = "application/json"
MAX_VALUES: Final = 2_000_000
MAX_CONTAINERS: Final = 200_000
"""Of one body: a parser makes gigabytes of a hundred MB of "0,0,0", and of less of "{},{},{}"."""


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
    if body.count(b",") > MAX_VALUES or body.count(b"{") + body.count(b"[") > MAX_CONTAINERS:
        raise BodyTooLarge(f"The body has more than {MAX_VALUES} values, or {MAX_CONTAINERS} lists and objects.")
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


# What OpenAPI shows of bodies, queries and answers that are not the framework's to read and write


def described(
    answer: object, *, status: int = 200, body: type[Document] | None = None, example: object = None, **parts: Any
) -> dict[str, Any]:
    """An operation with an example of its answer and of its body; `parts` are more of it."""
    operation = {"responses": {str(status): {"content": {JSON: {"example": answer}}}}, **parts}
    if body is not None:
        content = {JSON: {"schema": body.model_json_schema(), "example": example}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def query_of(kind: type[Document]) -> list[dict[str, Any]]:
    """Parameters, of fields that have a description and an example each."""
    schemas = kind.model_json_schema()["properties"]
    return [_parameter(name, schema, kind.model_fields[name]) for name, schema in schemas.items()]


def _parameter(name: str, schema: dict[str, Any], field: FieldInfo) -> dict[str, Any]:
    shown = {key: value for key, value in schema.items() if key not in ("description", "examples")}
    said = {"description": field.description, "example": (field.examples or [None])[0], "schema": without_null(shown)}
    return {"name": name, "in": "query", **said}
