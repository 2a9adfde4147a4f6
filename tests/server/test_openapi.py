"""The OpenAPI document, walked: every route, parameter, answer and error is described, and what it shows as examples
is sent to a server, which answers as the document says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import pytest

from server.app import create_app
from tests.server.running import fake_server, png, settings, write_bundle

JSON = "application/json"
ADMIN = {"Authorization": "Bearer K"}
DOCUMENT: dict[str, Any] = json.loads(json.dumps(create_app(settings()).openapi()))


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    document: dict[str, Any]

    @property
    def parameters(self) -> list[dict[str, Any]]:
        return self.document.get("parameters", [])

    @property
    def bodies(self) -> dict[str, dict[str, Any]]:
        return self.document.get("requestBody", {}).get("content", {})

    def response(self, status: int) -> dict[str, Any]:
        response: dict[str, Any] = self.document["responses"][str(status)]
        return resolved(response["$ref"]) if "$ref" in response else response


def resolved(reference: str) -> dict[str, Any]:
    found = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


OPERATIONS = [
    Operation(method, path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]
EACH = pytest.mark.parametrize("operation", [pytest.param(o, id=f"{o.method} {o.path}") for o in OPERATIONS])


def check(value: object, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)


def examples_of(described: dict[str, Any]) -> list[Any]:
    """Of a parameter, a body or an answer, whichever way they are written."""
    schema = described.get("schema", {})
    if "$ref" in schema:
        schema = resolved(schema["$ref"])
    named = [one["value"] for one in described.get("examples", {}).values()]
    single = [holder["example"] for holder in (described, schema) if "example" in holder]
    return [*named, *single, *schema.get("examples", [])]


def query_of(parameters: list[dict[str, Any]]) -> dict[str, Any]:
    return {one["name"]: examples_of(one)[0] for one in parameters if one["in"] == "query"}


def headers_of(parameters: list[dict[str, Any]]) -> dict[str, str]:
    wanted = (one for one in parameters if one["in"] == "header" and examples_of(one))
    return {one["name"]: str(examples_of(one)[0]) for one in wanted}


def contents_of(operation: Operation) -> Iterator[dict[str, Any]]:
    """What a client sends: each example of each body; pictures where the document says that the body is binary."""
    for media_type, body in operation.bodies.items():
        headers = {"Content-Type": media_type.replace("*", "png")}
        if body["schema"].get("format") == "binary":
            raw = {"Inference-Header-Content-Length": "0"} if "/v2/" in operation.path else {}
            yield {"content": png(), "headers": headers | raw}
        elif media_type == "multipart/form-data":
            yield {"files": [("image", ("a.png", png(), "image/png"))]}
        else:
            yield from ({"content": json.dumps(one), "headers": headers} for one in examples_of(body))
    if not operation.document.get("requestBody", {}).get("required"):
        yield {}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """Of a server with the model that the examples name."""
    write_bundle(tmp_path / "demo", b"the fake engine runs it", name="demo", classes=["background", "nucleus"])
    async with fake_server(models=(str(tmp_path),), admin_key="K") as client:
        yield client


async def send(client: httpx2.AsyncClient, operation: Operation, **values: Any) -> httpx2.Response:
    path = operation.path
    for parameter in operation.parameters:
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(examples_of(parameter)[0]))
    required = headers_of([one for one in operation.parameters if one.get("required")])
    headers = {**ADMIN, **required, **values.pop("headers", {})}
    return await client.request(operation.method.upper(), path, headers=headers, **values)


def check_documented(operation: Operation, reply: httpx2.Response) -> None:
    response = operation.response(reply.status_code)
    media_type = reply.headers.get("Content-Type", "").partition(";")[0]
    contents = response.get("content", {})
    assert media_type in contents or (not contents and not reply.content), (reply.status_code, media_type)
    if media_type.endswith("json"):
        check(reply.json(), contents[media_type]["schema"])


def test_it_is_a_document_that_refers_to_what_is_there() -> None:
    assert DOCUMENT["openapi"].startswith("3.1")
    references = [value for key, value in _pairs(DOCUMENT) if key == "$ref"]
    assert all(resolved(reference) for reference in references)
    used = {reference.rpartition("/")[2] for reference in references}
    assert used >= DOCUMENT["components"]["schemas"].keys()


def _pairs(part: Any) -> Iterator[tuple[Any, Any]]:
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        yield key, value
        if isinstance(value, dict | list):
            yield from _pairs(value)


@EACH
def test_everything_is_described(operation: Operation) -> None:
    assert operation.document["description"].endswith(".")
    assert operation.document["tags"]
    for parameter in operation.parameters:
        assert parameter["description"], parameter["name"]
        assert parameter["in"] == "header" or examples_of(parameter), parameter["name"]
    statuses = {int(status) for status in operation.document["responses"]}
    assert {500, 503} <= statuses
    for status in statuses:
        response = operation.response(status)
        assert response["description"]
        for media_type, content in response.get("content", {}).items():
            assert examples_of(content) or "json" not in media_type, (status, media_type)
            for example in examples_of(content):
                check(example, content["schema"])


@EACH
async def test_examples_are_answered_as_it_says(client: httpx2.AsyncClient, operation: Operation) -> None:
    contents = list(contents_of(operation))
    assert contents, "this body has no example"
    for content in contents:
        reply = await send(client, operation, **content)
        if operation.path.endswith("unload") and reply.status_code == 404:
            continue  # an earlier example has unloaded it
        assert reply.status_code in (200, 201), reply.text
        check_documented(operation, reply)


@EACH
async def test_parameters_are_taken_as_it_says(client: httpx2.AsyncClient, operation: Operation) -> None:
    content = next(contents_of(operation))
    optional = [one for one in operation.parameters if one["in"] != "path"]
    for some in ([one] for one in optional):
        values = {**content, "headers": headers_of(some) | content.get("headers", {})}
        check_documented(operation, await send(client, operation, params=query_of(some), **values))
    together = {**content, "headers": headers_of(optional) | content.get("headers", {})}
    reply = await send(client, operation, params=query_of(optional), **together)
    assert reply.status_code in (200, 201), reply.text


@EACH
async def test_bad_bodies_and_names_are_refused_as_it_says(client: httpx2.AsyncClient, operation: Operation) -> None:
    for media_type in operation.bodies:
        for body in (b"", b"{", b"[]", b'{"a": 1}', b"\xff"):
            headers = {"Content-Type": media_type.replace("*", "png")}
            check_documented(operation, await send(client, operation, content=body, headers=headers))
    if operation.bodies:
        check_documented(operation, await send(client, operation, content=b"", headers={"Content-Type": "text/plain"}))
    if "{" in operation.path:
        other = Operation(operation.method, operation.path.replace("{", "").replace("}", ""), operation.document)
        reply = await send(client, other, **next(contents_of(operation)))
        assert reply.status_code == 404
        check_documented(operation, reply)
    without_key = await send(client, operation, headers={"Authorization": ""})
    check_documented(operation, without_key)


async def test_it_is_served_below_a_proxy_too() -> None:
    async with fake_server(root_path="/prefix") as client:
        document = (await client.get("/prefix/openapi.json")).json()
        assert document["servers"] == [{"url": "/prefix"}]
        assert document["paths"] == DOCUMENT["paths"]
