"""The OpenAPI document: what FastAPI makes of the routes, with the parameters of paths described and the errors that a
route can answer with, for every protocol alike."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import asdict
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from server.contract.wire import Problem
from server.errors import PROBLEM, SENTENCE_NAMES
from server.gateway import PROBES
from server.protocols.examples import MODEL, VERSION

DESCRIPTION = """\
Post pictures, get every object with its box, class, score and mask.

Every answer carries `X-Request-ID` (yours, where you send one) and says in `Server-Timing` where the time went. Answers
are in gzip or deflate where `Accept-Encoding` asks for it. Every error is a problem document (RFC 9457) whose `detail`
is one sentence that says what to do."""
TAGS: Final = [
    {"name": "Prediction", "description": "Pictures in, objects out."},
    {"name": "Models", "description": "What is loaded; loading and unloading need the admin key."},
    {"name": "Health", "description": "For probes and Prometheus; without a key, and also while the server stops."},
    {"name": "Open Inference", "description": "The Open Inference Protocol, version 2: Triton's clients, KServe."},
    {"name": "Roboflow", "description": "Instance segmentation, as Roboflow's inference-sdk asks for it."},
    {"name": "Label Studio", "description": "The protocol of Label Studio's ML backends."},
    {"name": "CVAT", "description": "A detector for CVAT's automatic annotation, and what CVAT asks Nuclio for."},
]
SECURITY: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Where the server has keys."},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same in another header."},
}
PATH_PARAMETERS: Final[dict[str, tuple[str, str]]] = {
    "name": ("Name of the model.", MODEL),
    "model": ("Name of the model.", MODEL),
    "version": ("Version of the model.", VERSION),
}
REFUSALS: Final[dict[int, tuple[str, str]]] = {
    400: (
        "A parameter, the body or the picture makes no sense.",
        "score_threshold: input should be less than or equal to 1.",
    ),
    401: (
        "The server has keys, and the request carries none of them.",
        "This server needs a key: send the header `Authorization: Bearer KEY`.",
    ),
    403: (
        "The admin key is missing or wrong, or the server has none.",
        "This needs the admin key that MASKLINE_ADMIN_KEY sets.",
    ),
    404: ("There is no such model or version.", "There is no model 'nuclei'. Loaded: demo."),
    413: (
        "Too many bytes, pixels, pictures or values.",
        "The picture has 20000 x 10000 pixels; at most 100000000 in all are accepted.",
    ),
    415: (
        "A Content-Type, a Content-Encoding or a picture's format that is not accepted.",
        "Pictures in the format PDF are not accepted.",
    ),
    422: (
        "One of several pictures is bad; the sentence says which.",
        "Picture 1 (counting from 0): The file is not a picture.",
    ),
    429: (
        "The server has too much to do. `Retry-After` says when to come back.",
        "The queue is full. Try again in 2 s.",
    ),
    500: ("A bug, or the engine failed on this request.", "The engine failed."),
    503: ("Not ready, restarting or stopping.", "The models are warming up."),
    504: ("The deadline passed first.", "The deadline passed before the answer was ready."),
}
"""What each status means, and a sentence that comes with it."""
RETRY_AFTER: Final = {
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}, "example": 2}
}
ALWAYS: Final = (500, 503)
OF_BODIES: Final = (400, 404, 413, 415, 429, 504)


def install(app: FastAPI) -> None:
    """Makes `/openapi.json` answer with `document`."""

    def openapi() -> dict[str, Any]:
        app.openapi_schema = app.openapi_schema or document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way


def document(app: FastAPI) -> dict[str, Any]:
    """Of all routes."""
    made = get_openapi(
        title=app.title, version=version("maskline"), description=DESCRIPTION, routes=app.routes, tags=TAGS
    )
    made = deepcopy(made)  # it holds what the routes were given, which other applications share
    schemas: dict[str, Any] = made["components"]["schemas"]
    for of_the_framework in ("HTTPValidationError", "ValidationError"):
        schemas.pop(of_the_framework, None)
    for path, operations in made["paths"].items():
        for operation in operations.values():
            _lift_definitions(operation, schemas)
            _describe_path(path, operation)
            _add_refusals(path, operation)
    schemas["Problem"] = _problem()
    made["components"] |= {
        "responses": {_name(status): _response(status) for status in REFUSALS},
        "securitySchemes": SECURITY,
    }
    made["security"] = [{}, *({name: []} for name in SECURITY)]
    return made


def _lift_definitions(part: Any, schemas: dict[str, Any]) -> None:
    """pydantic's `$defs` to where the document has its schemas."""
    if isinstance(part, list):
        for one in part:
            _lift_definitions(one, schemas)
    if not isinstance(part, dict):
        return
    definitions = part.pop("$defs", {})
    schemas |= definitions
    if str(part.get("$ref", "")).startswith("#/$defs/"):
        part["$ref"] = part["$ref"].replace("#/$defs/", "#/components/schemas/")
    for one in (*definitions.values(), *part.values()):
        _lift_definitions(one, schemas)


def _describe_path(path: str, operation: dict[str, Any]) -> None:
    there = {parameter["name"]: parameter for parameter in operation.get("parameters", ())}
    for name in re.findall(r"{(\w+)}", path):
        description, example = PATH_PARAMETERS[name]
        said = there.get(name, {"name": name, "in": "path", "required": True, "schema": {"type": "string"}})
        there[name] = {**said, "description": description, "example": example}
    operation["parameters"] = list(there.values())


def _add_refusals(path: str, operation: dict[str, Any]) -> None:
    for general in ("4XX", "5XX"):
        operation["responses"].pop(general, None)
    operation["responses"].pop("422", None)  # FastAPI's, which is a 400 here
    for response in operation["responses"].values():
        if response["description"] == "Successful Response":
            response["description"] = "What was asked for." if "content" in response else "Done."
    for status in sorted(_statuses(path, operation)):
        operation["responses"][str(status)] = {"$ref": f"#/components/responses/{_name(status)}"}


def _statuses(path: str, operation: dict[str, Any]) -> set[int]:
    statuses, body = {*ALWAYS}, operation.get("requestBody")
    if not path.startswith(PROBES):
        statuses.add(401)
    if "{" in path:
        statuses.add(404)
    if body:
        statuses |= {*OF_BODIES}
    if body and body["required"]:  # what a body may be without holds no pictures
        statuses.add(422)
    if path.endswith(("/load", "/unload")):
        statuses.add(403)
    return statuses


def _response(status: int) -> dict[str, Any]:
    description, sentence = REFUSALS[status]
    problem = Problem("about:blank", HTTPStatus(status).phrase, status, sentence, "4f1f0c5e8b0a4f0c9a3f6f4f3d2a1b0c")
    content = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": asdict(problem)}}
    headers = RETRY_AFTER if status in (429, 503) else {}
    return {"description": description, "content": content, **({"headers": headers} if headers else {})}


def _name(status: int) -> str:
    return HTTPStatus(status).phrase.title().replace(" ", "")


def _problem() -> dict[str, Any]:
    schema = TypeAdapter(Problem).json_schema()
    for prefix, name in SENTENCE_NAMES.items():
        schema["properties"][name] = {"type": "string", "description": f"The sentence again, under {prefix}."}
    return schema
